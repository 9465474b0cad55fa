import dataclasses
import hashlib
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import tifffile
from made_archives import STACKS, files_in, make_tar, make_zip, refuse, tar_info

from unet_jax.data.download import archives, transfer
from unet_jax.data.download.archives import ARCHIVES, fetch


def serve_tar(site, tmp_path, name, *members):
    """Serves an archive like the published one of that name; returns it with its checksum."""
    path = make_tar(tmp_path / ARCHIVES[name].name, *members)
    site.content = path.read_bytes()
    path.unlink()
    sha256 = hashlib.sha256(site.content).hexdigest()
    url = f"{site.url}/{ARCHIVES[name].name}"
    return dataclasses.replace(ARCHIVES[name], url=url, sha256=sha256)


VOC = [
    (f"VOCdevkit/VOC2012/{name}", name.encode())
    for name in (
        "JPEGImages/1.jpg",
        "SegmentationClass/1.png",
        "ImageSets/Segmentation/train.txt",
        "ImageSets/Segmentation/val.txt",
    )
]
SBD = [
    (f"benchmark_RELEASE/{name}", name.encode())
    for name in ("dataset/cls/1.mat", "dataset/train.txt", "dataset/val.txt", "README")
]


def test_isbi_stacks_are_found_in_any_folder_of_the_archive(isbi, root, site):
    fetch(isbi, root)
    assert sorted(files_in(root)) == sorted([*STACKS, "test-labels.tif"])
    for name, sha256 in isbi.pixels.items():
        assert hashlib.sha256(tifffile.imread(root / name).tobytes()).hexdigest() == sha256
    assert list(root.parent.iterdir()) == [root]


def test_voc_and_sbd_share_one_folder(site, root, tmp_path):
    root.mkdir(parents=True)
    (root / "notes.txt").write_bytes(b"mine")
    fetch(serve_tar(site, tmp_path, "voc", *VOC), root)
    fetch(serve_tar(site, tmp_path, "sbd", *SBD), root)
    expected = {"notes.txt": b"mine", **dict(VOC)}
    for name, content in SBD:
        expected[name.replace("benchmark_RELEASE", "VOCdevkit/VOCaug")] = content
    assert files_in(root) == expected
    assert list(root.parent.iterdir()) == [root]


@pytest.mark.parametrize("there", [False, True])
def test_the_data_set_appears_completely_or_not_at_all(isbi, root, monkeypatch, there):
    if there:
        root.mkdir(parents=True)
    rename, seen = os.rename, set()

    def observe(source, target):
        rename(source, target)
        seen.add(len(files_in(root)) if root.exists() else 0)

    monkeypatch.setattr(os, "rename", observe)
    fetch(isbi, root)
    assert seen == {0, 4}


def test_a_complete_data_set_needs_no_network(isbi, root, site):
    fetch(isbi, root)
    before = {x: x.stat() for x in root.iterdir()}
    site.requests.clear()
    fetch(isbi, root)
    assert site.requests == []
    assert {x: x.stat() for x in root.iterdir()} == before


def test_existing_files_are_kept(isbi, root, site):
    fetch(isbi, root)
    kept = (root / STACKS[0]).stat()
    (root / STACKS[1]).unlink()
    (root / "notes.txt").write_text("mine")
    fetch(isbi, root)
    assert (root / STACKS[0]).stat() == kept
    assert sorted(files_in(root)) == sorted([*STACKS, "test-labels.tif", "notes.txt"])
    assert list(root.parent.iterdir()) == [root]


def test_a_file_that_differs_from_the_published_one_is_not_replaced(isbi, root, site):
    root.mkdir(parents=True)
    for content in (b"", b"something"):
        (root / STACKS[0]).write_bytes(content)
        refuse(isbi, root, root / STACKS[0], "move the file away")
    tifffile.imwrite(root / STACKS[0], np.zeros((2, 8, 8), np.uint8))
    mine = files_in(root)
    refuse(isbi, root, root / STACKS[0], isbi.pixels[STACKS[0]], "move the file away")
    assert files_in(root) == mine
    assert site.requests == []


def test_an_incomplete_folder_is_not_changed(site, root, tmp_path):
    (root / "VOCdevkit/VOC2012/JPEGImages").mkdir(parents=True)
    archive = serve_tar(site, tmp_path, "voc", *VOC)
    refuse(archive, root, root / "VOCdevkit/VOC2012", "SegmentationClass", "move it away")
    assert site.requests == []


def test_an_archive_with_a_wrong_checksum_is_reported_and_removed(site, root, tmp_path):
    archive = serve_tar(site, tmp_path, "voc", *VOC)
    site.content = site.content.replace(b"JPEGImages/1.jpg", b"JPEGImages/2.jpg")
    found = hashlib.sha256(site.content).hexdigest()
    refuse(archive, root, archive.url, found, archive.sha256, "removed", "run again", "by hand")
    assert list(root.parent.iterdir()) == []


def test_stacks_with_other_pixels_are_refused(isbi, root):
    name, other = STACKS[2], "0" * 64
    wrong = dataclasses.replace(isbi, pixels={**isbi.pixels, name: other})
    refuse(wrong, root, isbi.url, name, isbi.pixels[name], other)
    assert list(root.parent.iterdir()) == []


def test_an_archive_with_other_content_is_refused(isbi, root, site, tmp_path):
    site.content = make_zip(tmp_path / "x.zip", ("readme.txt", b"moved")).read_bytes()
    refuse(isbi, root, *STACKS, "lacks", "removed")
    site.content = make_zip(tmp_path / "x.zip").read_bytes()
    refuse(isbi, root, *STACKS, "lacks", "removed")
    site.content = b"<html>Please log in</html>"
    refuse(isbi, root, "cannot be unpacked", "removed")
    assert list(root.parent.iterdir()) == []


@pytest.mark.parametrize(
    "hostile",
    [("../../escaped", b"1"), ("/tmp/escaped", b"1"), (tar_info("x", tarfile.SYMTYPE, "/"), b"")],
    ids=["parent", "absolute", "link"],
)
def test_nothing_of_a_hostile_archive_is_kept(site, root, tmp_path, hostile):
    archive = serve_tar(site, tmp_path, "voc", *VOC, hostile)
    refuse(archive, root, archive.url, "removed")
    assert files_in(tmp_path) == {}
    assert list(root.parent.iterdir()) == []


def test_a_bomb_is_refused(isbi, root):
    refuse(dataclasses.replace(isbi, max_bytes=340_000), root, "unpacks to more than 340000 bytes")
    assert list(root.parent.iterdir()) == []


def test_the_next_call_resumes_an_interrupted_download(isbi, root, site, monkeypatch):
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    site.faults = ["cut"]
    part = root.parent / "set.zip.download" / "set.zip.part"
    refuse(isbi, root, isbi.url, "connection was lost", part, "keeps", "run again")
    kept = part.stat().st_size
    assert 0 < kept < len(site.content)
    assert not root.exists()
    fetch(isbi, root)
    assert site.starts() == [0, kept]
    assert list(root.parent.iterdir()) == [root]


def test_an_archive_downloaded_by_hand_is_used(isbi, root, site):
    site.faults = [404]
    path = root.parent / "set.zip.download" / "set.zip"
    line = refuse(isbi, root, isbi.url, "HTTP 404", "by hand", path)
    assert "kept" not in line
    assert list(root.parent.iterdir()) == []
    path.parent.mkdir()
    path.write_bytes(site.content)
    site.requests.clear()
    fetch(isbi, root)
    assert site.requests == []
    assert list(root.parent.iterdir()) == [root]


def test_a_missing_network_is_reported_in_one_line(isbi, root):
    for url in ("http://127.0.0.1:1/set.zip", "http://no-such-host.invalid/set.zip"):
        line = refuse(dataclasses.replace(isbi, url=url), root, url, root.parent, "by hand")
        assert "kept" not in line
        assert list(root.parent.iterdir()) == []


def test_a_download_without_any_byte_reports_no_partial_file(isbi, root, site):
    part = root.parent / "set.zip.download" / "set.zip.part"
    part.parent.mkdir(parents=True)
    part.touch()
    site.faults = [503]
    assert "keeps" not in refuse(isbi, root, "HTTP 503")
    fetch(isbi, root)


def test_a_symbolic_link_is_followed(isbi, root, site, tmp_path):
    root.parent.mkdir()
    (tmp_path / "disk" / "set").mkdir(parents=True)
    root.symlink_to(tmp_path / "disk" / "set")
    site.faults = [404]
    refuse(isbi, root, tmp_path / "disk" / "set.zip.download")  # on the same file system
    fetch(isbi, root)
    assert set(STACKS) <= files_in(tmp_path / "disk" / "set").keys()
    assert root.is_symlink()


def test_a_mount_point_is_filled_without_renaming_it(isbi, root, monkeypatch):
    root.mkdir(parents=True)
    monkeypatch.setattr(os.path, "ismount", lambda path: path == root)
    monkeypatch.setattr(transfer, "ATTEMPTS", 0)
    refuse(isbi, root, root / "set.zip.download" / "set.zip")
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    fetch(isbi, root)
    assert sorted(files_in(root)) == sorted([*STACKS, "test-labels.tif"])
    assert list(root.parent.iterdir()) == [root]


def test_the_command_prints_what_it_downloaded_and_where(isbi, root, monkeypatch, capsys):
    monkeypatch.setitem(ARCHIVES, "isbi", isbi)
    monkeypatch.setattr(sys, "argv", ["download", "isbi", f"--root={root}"])
    archives.main()
    out = capsys.readouterr().out
    assert str(root) in out
    assert all(name in out for name in STACKS)


def test_the_published_archives_match_the_data_sets_readers():
    """Checks addresses, checksums and paths; the content needs a download."""
    for archive in ARCHIVES.values():
        assert archive.url.startswith(("https://", "http://host.robots.ox.ac.uk/"))
        assert archive.sha256 is not None or archive.url.endswith(".zip")
        assert set(archive.pixels) <= set(archive.complete)


@pytest.mark.parametrize("name", ["isbi", pytest.param("voc", marks=pytest.mark.slow)])
def test_the_command_without_a_network(root, name):
    nowhere = {
        "http_proxy": "http://127.0.0.1:1",
        "https_proxy": "http://127.0.0.1:1",
        "no_proxy": "",
    }
    command = [sys.executable, "-m", "unet_jax.data.download.archives", name, f"--root={root}"]
    done = subprocess.run(
        command, env={**os.environ, **nowhere}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    fetching, line = done.stderr.splitlines()
    assert fetching == f"fetching {ARCHIVES[name].url}"
    assert line.startswith(f"error: {ARCHIVES[name].url}: ")
    assert list(root.parent.iterdir()) == []


@pytest.mark.slow
def test_the_published_stacks(real_data, site, root, tmp_path):
    members = [(f"challenge/{x}", (real_data / "isbi" / x).read_bytes()) for x in STACKS]
    site.content = make_zip(tmp_path / "set.zip", *members).read_bytes()
    archive = dataclasses.replace(ARCHIVES["isbi"], url=f"{site.url}/set.zip")
    fetch(archive, root)
    assert files_in(root) == {name.removeprefix("challenge/"): x for name, x in members}
