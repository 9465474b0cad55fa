"""External faults: one line says what to do, and a rerun resumes."""

import contextlib
import errno
import itertools
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable

import grain
import pytest
from launched import ignores, run_here, start
from made_data import TINY
from pictures import _no_pictures as _no_pictures

from unet_jax.core.errors import UserError
from unet_jax.core.faults import explain, newest_checkpoint
from unet_jax.data.pipeline import read_ahead


def test_a_line_names_the_file_the_newest_checkpoint_and_what_to_do(tmp_path):
    error = OSError(errno.ENOSPC, "No space left on device")
    error.filename = "/somewhere/report.json"
    assert explain(error, tmp_path) == (
        "/somewhere/report.json: cannot be written (no space is left on the disk); free disk "
        "space; rerunning the command resumes it"
    )
    for name in ("9", "10", "11.orbax-checkpoint-tmp"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    newest = tmp_path / "checkpoints" / "10"
    assert newest_checkpoint(tmp_path) == newest
    line = explain(OSError(errno.EDQUOT, "Disk quota exceeded"), tmp_path)
    assert line == (
        f"{tmp_path}: cannot be written (the disk quota is used up); the last checkpoint, of step "
        f"10, is {newest}; free disk space; rerunning the command resumes it"
    )


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_known_by_the_words_of_c_and_behind_other_errors(tmp_path, code):
    words = f"""UNKNOWN: Error writing "a" at local file "/d/7/": failed [os_error_code='{code}']"""
    assert "/d/7/: cannot be written" in explain(ValueError(words), tmp_path)
    later = TypeError("what came of it")
    later.__context__ = RuntimeError("and before")
    later.__context__.__cause__ = ValueError(words)
    assert "/d/7/: cannot be written" in explain(later, tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a mistake"),
        OSError(errno.ENOENT, "No such file or directory"),
        ValueError("[os_error_code='2']"),
        RuntimeError("Worker process was late"),
    ],
)
def test_other_errors_keep_their_traceback(tmp_path, error):
    error.__context__ = error  # a ring is no trap
    assert explain(error, tmp_path) is None


@pytest.mark.parametrize(
    ("code", "part"),
    [
        (errno.EACCES, "permission denied); give this user"),
        (errno.EROFS, "read-only"),
        (errno.ENOTDIR, "is a file, not a folder"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ESTALE, "network share"),
    ],
)
def test_system_errors_are_reported_in_one_line(tmp_path, code, part):
    error = OSError(code, os.strerror(code), str(tmp_path / "config.json"))
    line = explain(error, tmp_path)
    assert line.startswith(f"{tmp_path / 'config.json'}: cannot be used (")
    assert part in line
    words = f"""UNKNOWN: Error opening local file "/d/7/x": failed [os_error_code='{code}']"""
    assert explain(ValueError(words), tmp_path).startswith("/d/7/x: cannot be used")


def test_a_deleted_folder_is_named_and_other_missing_files_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = pathlib.Path("run")
    (run / "checkpoints").mkdir(parents=True)

    def missing(path):
        return FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))

    deleted = explain(missing(run.absolute() / "best/7/metrics"), run)
    assert deleted.startswith(f"{run.absolute() / 'best'}: was deleted or moved")
    assert explain(missing(run / "x"), run) is None
    assert explain(missing(run / "checkpoints/7/x"), run) is None
    assert explain(missing(tmp_path / "data/x"), run) is None
    shutil.rmtree(run)
    assert explain(missing(run / "metrics.jsonl"), run).startswith(f"{run.absolute()}: was deleted")


def test_a_link_to_nothing_is_named(tmp_path):
    (tmp_path / "run").symlink_to(tmp_path / "unmounted")
    with pytest.raises(FileExistsError) as error:
        (tmp_path / "run").mkdir(exist_ok=True)
    assert f"link to {tmp_path / 'unmounted'}" in explain(error.value, tmp_path / "run")
    assert explain(FileExistsError(errno.EEXIST, "File exists", str(tmp_path)), tmp_path) is None


def test_an_error_while_closing_does_not_hide_the_first(tmp_path):
    error = ValueError("closed")
    error.__context__ = UserError("what was wrong at first")
    assert explain(error, tmp_path) == "what was wrong at first"


def test_a_full_folder_of_temporary_files_is_named(tmp_path, monkeypatch):
    """And not the run's, for which there is room."""
    batches = grain.MapDataset.range(3)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def dump(_, file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("cloudpickle.dump", dump)
    with pytest.raises(OSError, match="No space") as error:
        read_ahead(batches, workers=1)
    line = explain(error.value, pathlib.Path("run"))
    assert line.startswith(f"{tmp_path}/unet_jax-")
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "none")])
    with pytest.raises(FileNotFoundError) as error:
        read_ahead(batches, workers=1)
    line = explain(error.value, pathlib.Path("run"))
    assert str(tmp_path / "none") in line
    assert "TMPDIR" in line
    assert not line.startswith("run")


@pytest.mark.parametrize(("code", "said"), [(-9, "was killed by SIGKILL"), (3, "died")])
def test_a_dead_reader_process_is_reported_with_its_signal(tmp_path, code, said):
    words = f"Worker process was terminated unexpectedly with exit code {code}. Search the logs"
    line = explain(RuntimeError(words), tmp_path)
    assert line.startswith(f"{tmp_path}: a reader process {said}")
    assert "lower data.workers" in line
    assert "free disk space" not in line


def children(process: subprocess.Popen) -> list[int]:
    """The reader processes of a run."""
    found = []
    for path in pathlib.Path(f"/proc/{process.pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread or a process that is no more
            for pid in path.read_text().split():
                if "spawn_main" in pathlib.Path(f"/proc/{pid}/cmdline").read_text():
                    found.append(int(pid))
    return found


def reach(process: subprocess.Popen, beginning: str) -> list[str]:
    """The lines that a run prints until one begins so."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(beginning):
            return lines
    raise AssertionError("".join(lines))


def is_there(pid: int) -> bool:
    return pathlib.Path(f"/proc/{pid}").exists()


def wait_until(true: Callable[[], object]) -> None:
    limit = time.monotonic() + 120
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.01)


def with_readers(stacks, workdir) -> tuple[str, ...]:
    more = ("--config.num_epochs=400", "--config.eval.every_epochs=400", "--config.data.workers=2")
    return (*TINY, *more, f"--config.data.root={stacks}", f"--workdir={workdir}")


@pytest.mark.slow
def test_a_killed_reader_process_ends_training_in_one_line(stacks, tmp_path):
    process = start(*with_readers(stacks, tmp_path), stderr=subprocess.PIPE)
    reach(process, "step 7/")
    readers = children(process)
    assert len(readers) == 2
    os.kill(readers[1], signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    line = said.splitlines()[0]
    newest = newest_checkpoint(tmp_path)
    assert int(newest.name) >= 6
    assert line.startswith(f"error: {tmp_path}: a reader process was killed by SIGKILL")
    assert f"the last checkpoint, of step {newest.name}, is {newest};" in line
    code, output = run_here("--mode=eval", f"--workdir={tmp_path}", "--checkpoint=last")
    assert code == 0, output  # whole: its checksums are right


@pytest.mark.slow
def test_a_reader_process_that_is_killed_at_start_up_ends_the_run(stacks, tmp_path):
    """More is handed to it than the pipe holds in which Python hands things to a process."""
    assert (stacks / "train-volume.tif").stat().st_size > 2**16
    process = start(*with_readers(stacks, tmp_path), stderr=subprocess.PIPE)
    wait_until(lambda: process.poll() is not None or children(process))
    os.kill(children(process)[0], signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    assert said.startswith(f"error: {tmp_path}: a reader process was killed by SIGKILL")


@pytest.mark.slow
def test_readers_leave_signals_to_the_run_and_end_with_it(stacks, tmp_path, monkeypatch):
    """A scheduler's SIGTERM and Ctrl-C go to all processes; SIGKILL only to the first."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    ignored = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number, code in ((signal.SIGTERM, 75), (signal.SIGKILL, -9)):
        process = start(*with_readers(stacks, tmp_path), start_new_session=True)
        lines = reach(process, "step ")
        readers = children(process)
        assert len(readers) == 2
        if number == signal.SIGKILL:
            process.kill()
        else:
            # A reader that still starts, while the other one feeds the run, ignores nothing yet.
            while not all(ignores(reader, ignored) for reader in readers):
                time.sleep(0.1)
            for reader, other in itertools.product(readers, ignored):
                os.kill(reader, other)
            reach(process, "step ")
            assert children(process) == readers
            os.killpg(process.pid, number)
        said, _ = process.communicate(timeout=300)  # a reader that lives on would hold it open
        assert process.returncode == code, "".join(lines) + said
        assert "Traceback" not in said
        wait_until(lambda left=readers: not any(map(is_there, left)))
        assert not list(tmp_path.glob("unet_jax-*"))  # the file that they were handed
