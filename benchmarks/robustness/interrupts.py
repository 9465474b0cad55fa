"""A sweep interrupted again and again by Ctrl-C, compared with an uninterrupted one.

python -m benchmarks.robustness.interrupts --count=20 --seed=0

The sweep is in a process group of its own. While a run of it trains, SIGINT goes to the whole
group, as from a terminal, at a random moment; the same command follows, until the sweep ends or
`--count` signals came while a run trained, with a further sweep where the first ends too early.
Fails where an interrupted run does not end with exit code 75 and its state saved, where a run
resumes from less than the last step that it logged, and where the reports or histories (clock
readings aside) are not those of the uninterrupted sweep.
"""

import argparse
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
from unet_jax.core.errors import EXIT_INTERRUPTED

SEEDS = (0, 1)
LIMIT = 3600  # seconds for a start, on a busy machine


def start(workdir: pathlib.Path, data: pathlib.Path) -> subprocess.Popen:
    """A sweep over `SEEDS`, in a process group of its own."""
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
    return [workdir / f"demo-seed{seed}" for seed in SEEDS]


def said(run: pathlib.Path) -> str:
    """All that the starts of a run printed."""
    log = run.with_name(f"{run.name}.log")
    return log.read_text() if log.exists() else ""


def steps_made(text: str) -> list[int]:
    return [int(step) for step in re.findall(r"^step (\d+)/", text, re.MULTILINE)]


def interrupt(process: subprocess.Popen, workdir: pathlib.Path, rng: random.Random) -> int:
    """Waits until a run trains, and a random moment longer, and interrupts the group.

    Returns 1 if the signal came while a run trained, so that it had a state to save; 0 where the
    sweep or the run ended before.
    """
    before = {run: len(said(run)) for run in runs(workdir)}
    patience, wanted = time.monotonic() + LIMIT, rng.randint(0, 6)
    while process.poll() is None and time.monotonic() < patience:
        if any(len(steps_made(said(run)[n:])) > wanted for run, n in before.items()):
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
    new = {run: said(run)[n:] for run, n in before.items() if len(said(run)) > n}
    (run, text) = list(new.items())[-1]  # the one that ran last
    if not steps_made(text) or (run / "report.json").exists():
        return 0  # between two runs, or while one started or ended
    if not re.search(r"^stopped; the state is saved", text, re.MULTILINE) or "Traceback" in text:
        raise SystemExit(f"{run}: was interrupted without saving: {text}")
    return 1


def check_resumed(run: pathlib.Path) -> int:
    """Fails where a start of a run resumed from less than its last one had logged; counts them."""
    starts = said(run).split("run          ")[1:]
    least, resumed = 0, 0
    for text in starts:
        if "steps  " not in text:
            continue
        found = re.search(r"goes on from the state of step (\d+)", text)
        step = int(found[1]) if found else 0
        if step < least:
            raise SystemExit(f"{run}: resumed from step {step} instead of {least}")
        resumed += found is not None
        least = max(steps_made(text), default=step)
    return resumed


def compare(sweep: pathlib.Path, expected: pathlib.Path) -> None:
    for one, other in zip(runs(expected), runs(sweep), strict=True):
        if (one / "report.json").read_bytes() != (other / "report.json").read_bytes():
            raise SystemExit(f"{other}: another report than the uninterrupted run's")
        if outcome(one) != outcome(other):
            raise SystemExit(f"{other}: another history than the uninterrupted run's")


def finish(workdir: pathlib.Path, data: pathlib.Path) -> None:
    process = start(workdir, data)
    output, _ = process.communicate(timeout=LIMIT)
    if process.returncode:
        raise SystemExit(f"{workdir}: exit code {process.returncode}: {output}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
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
        f"{delivered} interruptions while training in {sweeps} sweeps, {resumed} times resumed; "
        f"all reports and histories are those of the uninterrupted sweep"
    )


if __name__ == "__main__":
    main()
