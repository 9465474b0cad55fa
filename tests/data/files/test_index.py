"""The index of checked files: nothing is checked twice, and no change is missed."""

import contextlib
import os
import pathlib
import subprocess
import sys
import time

import pytest
from made_files import noise, refused, save
from made_pairs import damage, describe, index_files, options, wait, write_pair
from PIL import Image

from unet_jax.core.errors import UserError
from unet_jax.data import open_dataset
from unet_jax.data.files import images, index, masks
from unet_jax.data.files.images import scan_image
from unet_jax.data.files.index import Index, indexed, stamp_of, stamped
from unet_jax.data.files.masks import MaskFile, scan_mask
from unet_jax.data.files.pairs import scan_pairs
from unet_jax.data.sources.folder import open_folder

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def root(tmp_path) -> pathlib.Path:
    for seed, name in enumerate("abc"):
        write_pair(tmp_path / "data", name, seed)
    wait()
    return tmp_path / "data"


@contextlib.contextmanager
def counted(monkeypatch):
    """Counts the decoded and the hashed files."""
    counts = {"decoded": 0, "hashed": 0}
    with monkeypatch.context() as patch:
        for name, function in (("decoded", images.decode), ("hashed", images.hash_file)):

            def call(*args, _name=name, _function=function):
                counts[_name] += 1
                return _function(*args)

            patch.setattr(images, function.__name__, call)
            patch.setattr(masks, function.__name__, call)
        yield counts


def test_the_second_opening_decodes_and_hashes_nothing(root, monkeypatch, tmp_path):
    with counted(monkeypatch) as first:
        before = open_dataset(options(root))
    with counted(monkeypatch) as second:
        after = open_dataset(options(root))
    assert first == {"decoded": 6, "hashed": 6}
    assert second == {"decoded": 0, "hashed": 0}
    assert describe(after) == describe(before) == describe(open_folder(options(root)))
    assert len(index_files(tmp_path)) == 1


def test_a_changed_file_alone_is_checked_again(root, monkeypatch):
    open_dataset(options(root))
    save(root / "masks/b.png", noise((8, 6), below=2) * 255, compress_level=0)
    with counted(monkeypatch) as counts:
        open_dataset(options(root))
    assert counts == {"decoded": 1, "hashed": 1}


def test_all_configs_of_a_folder_share_its_index(root, monkeypatch, tmp_path):
    open_dataset(options(root))
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(root)
    for spelling in (f"{root}/../data", tmp_path / "link", "."):
        data = options(spelling)
        data.split, data.split_seed = (1, 1, 1), 5
        with counted(monkeypatch) as counts:
            open_dataset(data)
        assert counts["decoded"] == 0
    assert len(index_files(tmp_path)) == 1


def test_an_index_keeps_what_other_processes_add(root, monkeypatch):
    """Each of two indexes that are open at once adds files; neither loses those of the other."""
    paths = sorted(root.glob("masks/*.png"))
    first, second = Index(root), Index(root)
    first.add(stamped(scan_mask, paths[0]))
    first.save()
    second.add(stamped(scan_mask, paths[1]))
    second.save()
    found = Index(root).find(paths, MaskFile)
    assert [mask and mask.path for mask in found] == [*paths[:2], None]


def test_a_file_has_what_was_found_in_it_as_image_and_as_mask(root):
    path = root / "masks" / "a.png"
    checked = stamped(scan_image, path), stamped(scan_mask, path)
    opened = Index(root)
    opened.add(*checked)
    opened.save()
    assert tuple(Index(root).find([path], type(x))[0] for x in checked) == checked


def test_a_file_that_changed_just_now_has_no_stamp(root):
    path = root / "masks" / "a.png"
    assert stamped(scan_mask, path).stamp == stamp_of(path)
    os.utime(path, ns=(0, 0))  # the time of change stays
    assert stamped(scan_mask, path).stamp is None
    wait()
    assert stamped(scan_mask, path).stamp == stamp_of(path)


def test_a_file_that_changes_while_it_is_checked_has_no_stamp(root):
    path = root / "masks" / "a.png"

    def scan_and_change(path):
        found = scan_mask(path)
        os.utime(path)
        return found

    assert stamped(scan_and_change, path).stamp is None


def test_of_files_that_are_not_regular_there_is_no_stamp(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "none", pathlib.Path("a\0")):
        assert stamp_of(path) is None


@pytest.mark.parametrize("kind", range(4))
def test_a_damaged_index_is_ignored_and_written_again(root, monkeypatch, tmp_path, capsys, kind):
    before = describe(open_dataset(options(root)))
    [path] = index_files(tmp_path)
    content = path.read_bytes()
    path.write_bytes(damage(content, kind))
    with counted(monkeypatch) as counts:
        assert describe(open_dataset(options(root))) == before
    assert counts["decoded"] == 6
    with counted(monkeypatch) as counts:
        open_dataset(options(root))
    assert counts["decoded"] == 0
    assert capsys.readouterr().out == ""


def test_another_version_of_a_decoder_checks_again(root, monkeypatch):
    open_dataset(options(root))
    monkeypatch.setattr(index, "CHECKS", [*index.CHECKS[:-1], "0.0"])
    with counted(monkeypatch) as counts:
        open_dataset(options(root))
    assert counts["decoded"] == 6


def test_an_index_that_cannot_be_written_is_one_note(root, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(index, "SAVE_EVERY", 0)  # tries it after each pair
    expected = describe(open_folder(options(root)))
    assert describe(open_dataset(options(root))) == expected
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("note         the index of checked files cannot be written")
    assert "XDG_CACHE_HOME" in line


def test_an_unknown_home_folder_is_one_note(root, monkeypatch, capsys):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("pathlib.Path.home", home)
    open_dataset(options(root))
    assert "written (Could not determine home directory.)" in capsys.readouterr().out


def test_a_folder_in_the_place_of_an_index_is_one_note(root, tmp_path, capsys):
    open_dataset(options(root))
    [path] = index_files(tmp_path)
    path.unlink()
    path.mkdir()
    open_dataset(options(root))
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError])
def test_what_was_checked_before_a_stop_is_kept(root, monkeypatch, error):
    def scan(path):
        if path.name == "c.png":
            raise error(f"{path}: stopped")
        return scan_mask(path)

    with monkeypatch.context() as patch:
        patch.setattr("unet_jax.data.files.pairs.scan_mask", scan)
        with pytest.raises(error):
            open_dataset(options(root))
    with counted(monkeypatch) as counts:
        open_dataset(options(root))
    assert counts["decoded"] == 2


def test_an_index_is_written_while_files_are_checked(root, monkeypatch, tmp_path):
    """So that a kill loses no more than the files of `SAVE_EVERY` seconds."""
    monkeypatch.setattr(index, "SAVE_EVERY", 0)
    opened = Index(root)
    opened.add(stamped(scan_mask, root / "masks" / "a.png"))
    assert len(index_files(tmp_path)) == 1


def test_outside_an_opening_nothing_is_written(root, tmp_path):
    pairs = scan_pairs({"a": (root / "images/a.png", root / "masks/a.png")})
    assert pairs[0].image.stamp == stamp_of(root / "images/a.png")
    assert not index_files(tmp_path)


def test_a_pipe_in_the_place_of_an_indexed_file_is_refused(root):
    open_dataset(options(root))
    (root / "masks/b.png").unlink()
    os.mkfifo(root / "masks/b.png")
    refused(open_dataset, options(root), root / "masks/b.png", "not a regular file")


@pytest.mark.slow
def test_thousands_of_pairs_open_in_an_instant(tmp_path, monkeypatch):
    content = {}
    for part, pixels in (("images", noise((4, 4))), ("masks", noise((4, 4), below=2) * 255)):
        Image.fromarray(pixels).save(tmp_path / "one.png")
        content[part] = (tmp_path / "one.png").read_bytes()
        (tmp_path / "data" / part).mkdir(parents=True)
    for i in range(2_000):
        for part in content:
            (tmp_path / "data" / part / f"image-{i:05d}.png").write_bytes(content[part])
    wait()
    first = open_dataset(options(tmp_path / "data"))
    seconds = []
    for _ in range(5):
        start = time.process_time()
        again = open_dataset(options(tmp_path / "data"))
        seconds.append(time.process_time() - start)
    assert describe(again) == describe(first)
    assert min(seconds) < 0.3, seconds  # about 0.1 s on an idle machine; the rest is allowance


OPEN = """
import sys
from made_pairs import options
from unet_jax.data import open_dataset
from unet_jax.data.files import index
index.RACY_NS = index.SAVE_EVERY = 0
print(open_dataset(options(sys.argv[1])).sha256)
"""


@pytest.mark.slow
def test_processes_that_open_a_folder_at_once_leave_a_complete_index(tmp_path, monkeypatch):
    for seed in range(40):
        write_pair(tmp_path / "data", f"image-{seed}", seed)
    wait()
    command = [sys.executable, "-c", OPEN, str(tmp_path / "data")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([".", "tests"])}
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = {process.communicate(timeout=120)[0] for process in processes}
    with counted(monkeypatch) as counts:
        dataset = open_dataset(options(tmp_path / "data"))
    assert outputs == {f"{dataset.sha256}\n"}
    assert counts["decoded"] == 0
    assert len(index_files(tmp_path)) == 1


def test_an_index_is_closed_after_an_opening(root):
    with indexed(root):
        assert index.current_index()._file
    assert index.current_index()._file is None
