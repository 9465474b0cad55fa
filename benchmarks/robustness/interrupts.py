"""Interrupts a sweep repeatedly by Ctrl-C and compares it with an uninterrupted one.

python -m benchmarks.robustness.interrupts --count=20 --seed=0

The sweep has its own process group. While one of its runs trains, SIGINT is sent at a random time
to the whole group, as a terminal does, and the command is rerun. This repeats until `--count`
signals have arrived while a run trained; if a sweep ends before, another one is started. The test
fails if an interrupted run does not save its state and end with exit code 75, if a run resumes from
an earlier step than the last one that it logged, or if a report or history (except clock readings)
differs from that of the uninterrupted sweep.
"""

import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

from benchmarks.robustness.kills import EPOCHS, TINY, outcome
from unet_jax.core.command_help import command_parser
from unet_jax.core.errors import EXIT_INTERRUPTED

SEEDS = (0, 1)
LIMIT = 3600  # time limit of a process in seconds, for a busy machine


def start(workdir: pathlib.Path, data: pathlib.Path) -> subprocess.Popen:
    """Starts a sweep over `SEEDS` in its own process group."""
    seeds = f"--seeds={','.join(map(str, SEEDS))}"
    command = [sys.executable, "-m", "unet_jax.sweep", *TINY, seeds]
    command += [f"--config.num_epochs={EPOCHS}", f"--workdir={workdir}"]
    return subprocess.Popen(
        [*command, f"--config.data.root={data}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )


def runs(workdir: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders of a sweep's runs."""
    return [workdir / f"demo-seed{seed}" for seed in SEEDS]


def read_log(run: pathlib.Path) -> str:
    """Reads the log of a run, which has the output of all its starts."""
    log = run.with_name(f"{run.name}.log")
    return log.read_text() if log.exists() else ""


def steps_made(text: str) -> list[int]:
    """Returns the steps that a log reports."""
    return [int(step) for step in re.findall(r"^step (\d+)/", text, re.MULTILINE)]


def interrupt(process: subprocess.Popen, workdir: pathlib.Path, rng: random.Random) -> int:
    """Interrupts a sweep at a random time while one of its runs trains.

    Args:
      process: the sweep, which leads its process group.
      workdir: folder of the sweep.
      rng: chooses the number of steps and the time to wait.

    Returns:
      1 if the signal arrived while a run trained, so that it had a state to save; 0 if it arrived
      before or after the training of a run, or the sweep ended first.

    Raises:
      SystemExit: the sweep failed, or the run did not save its state.
    """
    before = {run: len(read_log(run)) for run in runs(workdir)}
    deadline, wanted = time.monotonic() + LIMIT, rng.randint(0, 6)
    while process.poll() is None and time.monotonic() < deadline:
        if any(len(steps_made(read_log(run)[n:])) > wanted for run, n in before.items()):
            break
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 0.5))
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=LIMIT)
    if process.returncode == 0:
        return 0
    if process.returncode != EXIT_INTERRUPTED:
        raise SystemExit(f"exit code {process.returncode}: {output}")
    new = {run: read_log(run)[n:] for run, n in before.items() if len(read_log(run)) > n}
    (run, text) = list(new.items())[-1]  # the run that was started last
    if not steps_made(text) or (run / "report.json").exists():
        return 0  # interrupted between two runs, or at a run's start or end
    if not re.search(r"^stopped; the state is saved", text, re.MULTILINE) or "Traceback" in text:
        raise SystemExit(f"{run}: was interrupted without saving: {text}")
    return 1


def check_resumed(run: pathlib.Path) -> int:
    """Counts how often a run resumed; fails if it resumed before the last step in its log."""
    starts = read_log(run).split("run          ")[1:]
    earliest, resumed = 0, 0
    for text in starts:
        if "steps  " not in text:
            continue
        match = re.search(r"resumes from step (\d+)", text)
        step = int(match[1]) if match else 0
        if step < earliest:
            raise SystemExit(f"{run}: resumed from step {step} instead of {earliest}")
        resumed += match is not None
        earliest = max(steps_made(text), default=step)
    return resumed


def compare(sweep: pathlib.Path, expected: pathlib.Path) -> None:
    """Fails if the runs of two sweeps differ in their reports or histories."""
    for one, other in zip(runs(expected), runs(sweep), strict=True):
        if (one / "report.json").read_bytes() != (other / "report.json").read_bytes():
            raise SystemExit(f"{other}: the report differs from that of the uninterrupted run")
        if outcome(one) != outcome(other):
            raise SystemExit(f"{other}: the history differs from that of the uninterrupted run")


def finish(workdir: pathlib.Path, data: pathlib.Path) -> None:
    """Runs a sweep to its end."""
    process = start(workdir, data)
    output, _ = process.communicate(timeout=LIMIT)
    if process.returncode:
        raise SystemExit(f"{workdir}: exit code {process.returncode}: {output}")


def main() -> None:
    """Interrupts sweeps until `--count` signals have arrived during training."""
    parser = command_parser("python -m benchmarks.robustness.interrupts", __doc__)
    parser.add_argument("--count", type=int, default=20, help="number of signals during training")
    parser.add_argument("--seed", type=int, default=0, help="seeds the times of the signals")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        data, expected = folder / "data", folder / "uninterrupted"
        finish(expected, data)
        delivered, starts, resumed, sweeps = 0, 0, 0, 0
        while delivered < arguments.count:
            sweep = folder / f"interrupted-{sweeps}"
            delivered += interrupt(start(sweep, data), sweep, rng)
            starts += 1
            print(f"{starts} starts, {delivered} interrupted while training", flush=True)
            ended = all((run / "report.json").exists() for run in runs(sweep))
            if ended or delivered == arguments.count:
                finish(sweep, data)
                compare(sweep, expected)
                resumed += sum(map(check_resumed, runs(sweep)))
                sweeps += 1
    print(
        f"{delivered} interruptions while training in {sweeps} sweeps, {resumed} resumed runs; "
        f"all reports and histories equal those of the uninterrupted sweep"
    )


if __name__ == "__main__":
    main()
