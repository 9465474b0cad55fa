"""Downloads that a kill, a full disk or another process interrupts."""

import os
import subprocess
import sys
import threading
import time

import pytest
from full_disk import fill_disk
from made_archives import STACKS, files_in, refuse

from unet_jax.data.download import archives, transfer, unpack
from unet_jax.data.download.archives import fetch


def test_a_disk_that_fills_during_the_download_keeps_the_partial_file(
    isbi, root, site, monkeypatch
):
    fill_disk(monkeypatch, transfer, room=20_000)
    part = root.parent / "set.zip.download" / "set.zip.part"
    refuse(isbi, root, root, isbi.url, "No space left", "free disk space", "20000 bytes", part)
    monkeypatch.delattr(transfer, "open")
    fetch(isbi, root)
    assert site.starts() == [0, 20_000]


def test_a_disk_that_fills_during_unpacking_keeps_the_archive(isbi, root, site, monkeypatch):
    fill_disk(monkeypatch, unpack, room=30_000)
    path = root.parent / "set.zip.download" / "set.zip"
    refuse(isbi, root, root, "No space left", "free disk space", f"{len(site.content)} bytes", path)
    assert list(path.parent.iterdir()) == [path]
    assert not root.exists()
    monkeypatch.delattr(unpack, "open")
    fetch(isbi, root)
    assert len(site.requests) == 1
    assert list(root.parent.iterdir()) == [root]


def test_a_folder_that_cannot_be_created_is_reported_in_one_line(isbi, site, tmp_path):
    (tmp_path / "file").touch()
    refuse(isbi, tmp_path / "file" / "set", "cannot store", tmp_path / "file")
    refuse(isbi, tmp_path / "file", tmp_path / "file", "a file")
    assert site.requests == []


FETCH = """
import dataclasses, os, pathlib, sys, time
from unet_jax.data.download import archives
url, root, where = sys.argv[1:]
def half_unpack(path, folder, _):
    folder.mkdir(parents=True)
    (folder / "train-volume.tif").write_bytes(b"half")
    time.sleep(60)
if where == "unpack":
    archives.unpack = half_unpack
if where == "move":
    archives._move_in = lambda *_: time.sleep(60)
archive = dataclasses.replace(archives.ARCHIVES["isbi"], url=url, pixels={})
archives.fetch(archive, pathlib.Path(root))
"""


@pytest.mark.parametrize(
    ("where", "awaited"),
    [
        ("download", "set.zip.part"),
        pytest.param("unpack", "unpacked/all/train-volume.tif", marks=pytest.mark.slow),
        pytest.param("move", "unpacked/new/train-labels.tif", marks=pytest.mark.slow),
    ],
)
def test_a_kill_leaves_no_incomplete_data_set(isbi, root, site, where, awaited):
    awaited = root.parent / "set.zip.download" / awaited
    site.faults = ["stall"] if where == "download" else []
    process = subprocess.Popen([sys.executable, "-c", FETCH, isbi.url, str(root), where])
    while not (awaited.exists() and awaited.stat().st_size):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not root.exists()
    kept = awaited.stat().st_size
    fetch(isbi, root)
    assert site.starts() == ([0, kept] if where == "download" else [0])
    assert sorted(files_in(root)) == sorted([*STACKS, "test-labels.tif"])
    assert list(root.parent.iterdir()) == [root]


@pytest.mark.parametrize("moves", [1, 2, 3])
def test_the_next_call_completes_an_interrupted_installation(isbi, root, monkeypatch, moves):
    root.mkdir(parents=True)
    (root / "notes.txt").write_text("mine")  # so that the folder cannot be renamed as a whole
    rename = os.rename

    def stop(source, target):
        if os.path.dirname(target) == str(root) and len(list(root.iterdir())) > moves:
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "rename", stop)
        fetch(isbi, root)
    assert STACKS[1] not in files_in(root)
    before = files_in(root)
    fetch(isbi, root)
    assert sorted(files_in(root)) == sorted([*STACKS, "test-labels.tif", "notes.txt"])
    assert before.items() <= files_in(root).items()


def test_a_second_process_waits_for_the_first(isbi, root, site, monkeypatch):
    waiting = threading.Semaphore(0)

    def transfer_when_all_wait(*arguments):
        for _ in range(3):
            assert waiting.acquire(timeout=20)
        transfer.transfer(*arguments)

    monkeypatch.setattr(archives, "transfer", transfer_when_all_wait)
    monkeypatch.setattr(archives, "print", lambda *_, **__: waiting.release(), raising=False)
    threads = [threading.Thread(target=fetch, args=(isbi, root)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(site.requests) == 1
    assert sorted(files_in(root)) == sorted([*STACKS, "test-labels.tif"])
    assert list(root.parent.iterdir()) == [root]
