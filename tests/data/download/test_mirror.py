"""Local copies of a folder in a bucket: each object is copied once, and no change is missed."""

import concurrent.futures
import glob
import os
import pathlib
import subprocess
import sys

import emulator
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from launched import ROOT

from unet_jax.core.bucket import file_system, list_objects, remove_tree
from unet_jax.core.errors import UserError
from unet_jax.core.files import path_of
from unet_jax.data.download import mirror
from unet_jax.data.download.mirror import local_folder, local_inputs


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def content(folder) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def fill(folder, **objects: bytes) -> dict[str, bytes]:
    named = {name.replace("__", "/"): data for name, data in objects.items()}
    for name, data in named.items():
        (folder / name).write_bytes(data)
    return named


def test_a_folder_is_copied_once_and_follows_the_bucket(bucket, capsys):
    expected = fill(bucket, a=b"1", b__c=b"22", b__d=b"", e__f=b"x" * 10**5)
    folder = local_folder(str(bucket))
    assert content(folder) == expected
    assert "4 of 4 files" in capsys.readouterr().out
    for name in (str(bucket), f"{bucket}/"):
        before = emulator.requests()
        assert local_folder(name) == folder
        assert emulator.requests() - before == 1  # the list of objects
    assert capsys.readouterr().out == ""
    del expected["e/f"]
    (bucket / "e/f").unlink()
    expected |= fill(bucket, a=b"2", b__g=b"3")
    assert content(local_folder(str(bucket))) == expected
    assert "2 of 4 files" in capsys.readouterr().out
    assert not (folder / "e").exists()


def test_processes_of_a_host_copy_a_folder_once(bucket, capsys):
    expected = fill(bucket, **{f"a{number}": b"x" * number for number in range(40)})
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        folders = [*pool.map(lambda _: local_folder(str(bucket)), range(3))]
    assert len(set(folders)) == 1
    assert content(folders[0]) == expected
    assert capsys.readouterr().out.count("40 of 40 files") == 1


USES = """
import sys
from unet_jax.data.download.mirror import local_folder
print(local_folder(sys.argv[1]), flush=True)
input()
"""


def test_copies_that_another_process_uses_are_not_changed(bucket):
    expected = fill(bucket, a=b"1", b=b"2")
    folder = local_folder(str(bucket))
    other = subprocess.Popen(
        [sys.executable, "-c", USES, str(bucket)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert other.stdout and other.stdout.readline().strip() == str(folder)
    assert local_folder(str(bucket)) == folder
    for change in ({"a": b"3"}, {"c": b"3"}):
        before = {name: (bucket / name).read_bytes() for name in change if name in expected}
        fill(bucket, **change)
        for _ in range(2):
            with pytest.raises(UserError, match="another process still uses the copies"):
                local_folder(str(bucket))
        assert content(folder) == expected
        for name in change:
            (bucket / name).unlink()
        fill(bucket, **before)
    assert local_folder(str(bucket)) == folder
    fill(bucket, a=b"4")
    other.communicate("\n", timeout=60)
    assert content(local_folder(str(bucket))) == expected | {"a": b"4"}


def test_a_file_that_was_changed_here_is_copied_again(bucket, capsys):
    expected = fill(bucket, a=b"1", b=b"2", c=b"3")
    folder = local_folder(str(bucket))
    (folder / "a").write_bytes(b"4")
    (folder / "b").unlink()
    (folder / "stray").write_bytes(b"5")
    os.utime(folder / "c")  # unchanged content, which its hash shows
    capsys.readouterr()
    assert content(local_folder(str(bucket))) == expected
    assert "2 of 3 files" in capsys.readouterr().out


def test_a_killed_copy_is_resumed_even_if_its_index_is_damaged(bucket, capsys):
    expected = fill(bucket, a=b"1", b=b"2")
    folder = local_folder(str(bucket))
    (folder.parents[1] / "objects.json").write_text("{")
    (folder / ".0123.part").write_bytes(b"half")
    (folder / "b").unlink()
    capsys.readouterr()
    assert content(local_folder(str(bucket))) == expected
    assert "1 of 2 files" in capsys.readouterr().out


def test_a_copy_that_differs_from_its_object_is_refused(bucket, monkeypatch):
    fill(bucket, a=b"1")
    real = mirror.list_objects
    for change in ({"md5Hash": "AAAA"}, {"md5Hash": None, "crc32c": "AAAA"}, {"size": 2}):
        changed = lambda folder, change=change: {  # noqa: E731
            name: info | change for name, info in real(folder).items()
        }
        monkeypatch.setattr(mirror, "list_objects", changed)
        with pytest.raises(UserError, match="the copy differs from the object"):
            local_folder(str(bucket))
    monkeypatch.setattr(mirror, "list_objects", real)
    assert content(local_folder(str(bucket))) == {"a": b"1"}


def test_an_object_without_md5_is_checked_by_its_crc32c(bucket, monkeypatch):
    fill(bucket, a=b"123", b=b"456")
    system = file_system()
    system.merge(f"{bucket}/c", [f"{bucket}/a", f"{bucket}/b"])
    assert list_objects(bucket)["c"]["crc32c"] and not list_objects(bucket)["c"].get("md5Hash")
    expected = {"a": b"123", "b": b"456", "c": b"123456"}
    assert content(local_folder(str(bucket))) == expected
    (local_folder(str(bucket)) / "c").write_bytes(b"123457")
    assert content(local_folder(str(bucket))) == expected

    def get_damaged(source: str, target: str, **_) -> None:
        pathlib.Path(target).write_bytes(b"123457")

    monkeypatch.setattr(system, "get_file", get_damaged)
    (local_folder(str(bucket)) / "c").unlink()
    with pytest.raises(UserError, match=r"differs from the object \(crc32c"):
        local_folder(str(bucket))


def test_a_missing_folder_and_unusable_names_are_errors_in_a_line(bucket, monkeypatch):
    with pytest.raises(UserError, match="nothing in this folder"):
        local_folder(str(bucket))
    for name in ("../x", "a//b", "./x", "x/..", "x" * 256, "a/" + "é" * 128 + "/b"):
        monkeypatch.setattr(mirror, "list_objects", lambda _, name=name: {name: {"size": 1}})
        with pytest.raises(UserError, match="cannot be a file"):
            local_folder(str(bucket))


PARTS = st.sampled_from(["a", "b", "a.png", "é"])


@settings(max_examples=20)
@given(names=st.sets(st.lists(PARTS, min_size=1, max_size=3).map("/".join), min_size=1, max_size=5))
def test_names_of_objects_are_those_of_files_or_named_in_an_error(storage, names):
    folder = path_of(f"gs://{emulator.BUCKET}/names")
    remove_tree(folder)
    expected = fill(folder, **{name: name.encode() for name in names})
    both = {above for above in names for name in names if name.startswith(f"{above}/")}
    if not both:
        assert content(local_folder(str(folder))) == expected
        return
    with pytest.raises(UserError, match="rename one of them") as error:
        local_folder(str(folder))
    assert any(repr(above) in str(error.value) for above in both)


def test_an_object_that_is_deleted_meanwhile_is_an_error_in_a_line(bucket, monkeypatch):
    fill(bucket, a=b"1")
    listed = list_objects(bucket)
    (bucket / "a").unlink()
    monkeypatch.setattr(mirror, "list_objects", lambda _: listed)
    with pytest.raises(UserError, match="was deleted while its folder was being copied"):
        local_folder(str(bucket))


def test_a_full_disk_is_an_error_in_a_line(bucket, monkeypatch, tmp_path):
    fill(bucket, a=b"1")
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match="set XDG_CACHE_HOME") as error:
        local_folder(str(bucket))
    assert "free space" not in str(error.value)


def test_of_a_prediction_only_its_images_are_copied(bucket):
    png = bucket / "s" / "1.png"
    for name in ("s/1.png", "s/2.PNG", "s/deep/3.png", "t/4.png", "s/note.txt"):
        (bucket / name).write_bytes(name.encode())

    def names(wanted: str) -> list[str]:
        given = pathlib.Path(local_inputs(wanted, "masks", (".png",)))
        paths = [given] if given.exists() else map(pathlib.Path, glob.glob(str(given)))
        found = [p for path in paths for p in ([path] if path.is_file() else path.iterdir())]
        assert all(p.read_text().endswith(p.name) for p in found if p.is_file())
        return sorted(path.name for path in found if path.is_file())

    assert names(f"{bucket}/s") == names(f"{bucket}/s/") == ["1.png", "2.PNG"]
    assert names(str(png)) == ["1.png"]
    assert names(f"{bucket}/*/*.png") == ["1.png", "4.png"]
    assert names(f"{bucket}/t") == ["4.png"]
    for wanted in (f"{bucket}/x", f"{bucket}/*.tif", f"{bucket}/s/note.txt"):
        with pytest.raises(UserError, match="no such image"):
            names(wanted)
    with pytest.raises(UserError, match="contains the input"):
        local_inputs(f"{bucket}/s", f"{bucket}/s", (".png",))
