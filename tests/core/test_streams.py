"""Standard output that is closed, has no reader, or takes ASCII only."""

import subprocess
import sys

import pytest
from launched import ROOT, WITHOUT_PICTURES, start
from made_data import TINY

from unet_jax.core.streams import make_streams_robust

CHILD = """
import os, sys, time
from unet_jax.core.streams import make_streams_robust
make_streams_robust()
print("first", flush=True)
sys.stdin.readline()
for _ in range(3):
    print("later " + "x" * 10_000, flush=True)
print("error \\udcfc", file=sys.stderr)
with open(sys.argv[1], "w") as file:
    file.write(f"{file.fileno()} {os.system('echo of a child process')}")
"""


def child(path, **options) -> subprocess.Popen:
    command = [sys.executable, "-c", CHILD, str(path)]
    return subprocess.Popen(command, cwd=ROOT, text=True, **options)


def test_a_pipe_that_nobody_reads_any_more_ends_nothing(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = child(tmp_path / "end", **pipes)
    assert process.stdout.readline() == "first\n"
    process.stdout.close()
    process.stdin.write("\n")
    process.stdin.close()
    process.stdin = process.stdout = None
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said == "error \\udcfc\n"
    assert (tmp_path / "end").read_text().endswith(" 0")


@pytest.mark.parametrize("closed", [(1,), (0, 1), (0, 1, 2)])
def test_closed_streams_are_the_null_device(tmp_path, closed):
    shell = " ".join(f"{number}{'<' if number == 0 else '>'}&-" for number in closed)
    command = f'exec "$0" "$@" {shell}'
    arguments = ["sh", "-c", command, sys.executable, "-c", CHILD, str(tmp_path / "end")]
    process = subprocess.run(
        arguments, cwd=ROOT, input="\n", capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    number, code = map(int, (tmp_path / "end").read_text().split())
    assert number > 2  # no file of the run takes the place of a stream
    assert code == 0
    assert process.stderr == ("" if 2 in closed else "error \\udcfc\n")


def test_characters_outside_ascii_are_escaped(tmp_path, monkeypatch):
    with open(tmp_path / "out", "w", encoding="ascii", errors="strict") as file:
        monkeypatch.setattr(sys, "stdout", file)
        monkeypatch.setattr(sys, "stderr", file)
        make_streams_robust()
        print("0.5 – 0.7 f\udcfcr", flush=True)
    assert (tmp_path / "out").read_text() == "0.5 \\u2013 0.7 f\\udcfcr\n"


# Since Python 3.13 it is reported that the file cannot be closed either.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_still_an_error(monkeypatch):
    with open("/dev/full", "w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        monkeypatch.setattr(sys, "stderr", file)
        make_streams_robust()
        with pytest.raises(OSError, match="No space"):
            print("x", flush=True)
        monkeypatch.undo()


@pytest.mark.slow
def test_a_run_continues_after_its_output_is_closed(stacks, tmp_path):
    """As of `python launch.py ... | head -1`."""
    arguments = (
        *TINY,
        "--config.num_epochs=1",
        f"--config.data.root={stacks}",
        f"--workdir={tmp_path}",
    )
    process = start(*arguments, script=WITHOUT_PICTURES, stderr=subprocess.PIPE)
    assert process.stdout.readline().startswith("run ")
    process.stdout.close()
    process.stdout = None
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert said == ""
    assert (tmp_path / "report.json").exists()
