"""A full disk: one line says what to do, and a rerun resumes."""

import contextlib
import pathlib
import re
import resource
import shutil
import subprocess

import jax
import pytest
from launched import ROOT, WITHOUT_PICTURES, command, history, numbers, start
from made_data import TINY
from pictures import _no_pictures as _no_pictures
from shared_programs import _shared_programs as _shared_programs
from shared_programs import config as config

import unet_jax.training.loop
import unet_jax.training.validation
from unet_jax.core.faults import explain
from unet_jax.core.files import write_all
from unet_jax.distributed import devices
from unet_jax.runs.checkpoints import Checkpoints
from unet_jax.runs.log import Writer
from unet_jax.training.loop import train


@contextlib.contextmanager
def limits():
    """No file of this process may grow beyond so many bytes: write(2) itself fails, in C++ too.

    Its tests take `capsys`, since what pytest captures otherwise would be such a file.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# Where the room ends (at which call of what, and how many bytes a file may have from then on), what
# the line names, and the step of the checkpoint that it names.
FULL = {
    "config": (unet_jax.training.loop, "init_state", 1, 100, r"/(config|split)\.json", None),
    "state": (Checkpoints, "save", 3, 4000, r"checkpoints/6\.", 4),
    "best": (Checkpoints, "save_best", 2, 4000, r"best/4\.|checkpoints/6\.", 4),
    "log": (Writer, "write", 6, "metrics.jsonl", r"metrics\.jsonl", 4),
    "events": (Writer, "write", 6, "events.*", r"events\.out", 4),
    "report": (unet_jax.training.validation, "write_report", 1, 2000, r"/report\.json", 6),
}


def fill_at(patch, limit, folder: pathlib.Path, owner, name: str, call: int, room) -> None:
    """From the `call`th call of `owner.name` on, files have `room`: bytes, or that of a file."""
    real, calls = getattr(owner, name), []

    def called(*arguments, **options):
        calls.append(None)
        if len(calls) == call:
            if owner is Checkpoints:
                arguments[0].wait()  # what was begun before shall have had its room
            grown = next(folder.glob(room)).stat().st_size + 50 if isinstance(room, str) else room
            limit(grown)
        return real(*arguments, **options)

    patch.setattr(owner, name, called)


def save_at_once(patch) -> None:
    save, save_best = Checkpoints.save, Checkpoints.save_best
    patch.setattr(Checkpoints, "save", lambda self, *x: (save(self, *x), self.wait()))
    patch.setattr(Checkpoints, "save_best", lambda self, *x: (save_best(self, *x), self.wait()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict:
    return {"folder": tmp_path_factory.mktemp("whole")}


# When one write fails, orbax leaves, and the others that it had begun complain of it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
@pytest.mark.parametrize("case", FULL)
def test_a_full_disk_ends_a_run_in_one_line_and_loses_nothing(
    case, config, dataset, tmp_path, monkeypatch, capsys, whole
):
    owner, name, call, room, place, step = FULL[case]
    config.num_epochs = 3
    mesh = devices.local_mesh(jax.devices()[:1])
    if "report" not in whole:  # also compiles, so that later runs write nothing to the cache
        whole["report"] = train(config, dataset, whole["folder"], mesh)
    if case == "log":
        monkeypatch.setattr("unet_jax.runs.log.summary", None)
    with limits() as limit, monkeypatch.context() as patch:
        if owner is Writer:
            save_at_once(patch)
        fill_at(patch, limit, tmp_path, owner, name, call, room)
        with pytest.raises((OSError, ValueError)) as error:
            train(config, dataset, tmp_path, mesh)
    line = explain(error.value, tmp_path)
    where = line.partition(": cannot be written")[0]
    unnamed = owner is Checkpoints and where == str(tmp_path)  # some of orbax's errors name no file
    assert unnamed or re.search(place, where), line
    newest = tmp_path / "checkpoints" / str(step)
    assert (f"of step {step}, is {newest};" in line) == (step is not None)
    assert ("the last checkpoint" in line) == (step is not None)
    assert "a file would be larger than this process may write" in line
    assert not (tmp_path / "report.json").exists()
    assert train(config, dataset, tmp_path, mesh) == whole["report"]
    assert history(tmp_path) == history(whole["folder"])
    assert not (tmp_path / "damaged").exists()


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, capsys):
    path = tmp_path / "report.json"
    write_all({path: b"old"})
    with limits() as limit:
        limit(10)
        with pytest.raises(OSError, match=re.escape(str(path))):
            write_all({path: bytes(100)})
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_a_lost_output_does_not_change_the_exit_code(stacks, tmp_path):
    """As where a log is on the full disk; /dev/full is one."""
    with open("/dev/full", "w") as full:
        arguments = (*TINY, f"--config.data.root={stacks}", f"--workdir={tmp_path}")
        process = start(*arguments, stdout=full, stderr=subprocess.PIPE)
        _, said = process.communicate(timeout=300)
    assert process.returncode == 2
    (line,) = said.strip().splitlines()
    assert line.startswith(
        "error: standard output: cannot be written (no space is left on the disk); "
    )


def can_mount(folder: pathlib.Path) -> bool:
    mount = f"mount -t tmpfs -o size=64k tmpfs {folder}"
    return shutil.which("unshare") is not None and not subprocess.call(
        ["unshare", "-rm", "sh", "-c", mount], stderr=subprocess.DEVNULL
    )


@pytest.mark.slow
def test_a_disk_that_is_full_and_has_room_again(stacks, tmp_path):
    """A real one, which holds two states and not three."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    if not can_mount(disk):
        pytest.skip("no disk can be made here: unshare -rm fails")
    arguments = (*TINY, f"--config.data.root={stacks}", f"--workdir={disk / 'run'}")
    run = " ".join(command(*arguments, script=WITHOUT_PICTURES))
    script = (
        f"mount -t tmpfs -o size=600k tmpfs {disk}; {run} >{tmp_path}/first 2>{tmp_path}/error; "
        f"echo $?; mount -o remount,size=50m {disk}; {run} >{tmp_path}/second; echo $?; "
        f"cp -r {disk}/run {kept}"
    )
    codes = subprocess.run(["unshare", "-rm", "sh", "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    assert codes.stdout.split() == [b"2", b"0"]
    (line,) = (tmp_path / "error").read_text().splitlines()
    found = re.fullmatch(
        rf"error: {disk}/run.*: cannot be written \(no space is left on the disk\); the last "
        rf"checkpoint, of step (\d+), is {disk}/run/checkpoints/(\d+); free disk space; rerunning "
        rf"the command resumes it",
        line,
    )
    assert found[1] == found[2]
    assert f"resumes from step {found[1]}\n" in (tmp_path / "second").read_text()
    assert [line["step"] for line in history(kept) if line["split"] == "train"] == [*range(1, 13)]
    assert numbers(kept)["step"]
