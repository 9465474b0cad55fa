"""Runs killed again and again, also in the middle of a save, compared with an unbroken one.

python -m benchmarks.robustness.kills --rounds=20 --seed=0

A round is a run from its first step to its report, which up to four signals end early: SIGKILL at a
random time, SIGKILL within 50 ms of the moment at which a save begins, or SIGTERM. The same command
follows each, or the command with more epochs: the first starts may be of a shorter run, which
evaluates at its end where the longer one does not. Fails on the first difference in the report or
in the history (clock readings aside), on a checkpoint that is damaged, and where a start goes on
from less than it should:

A save goes on in the background while training goes on, and the next waits for its end. So when a
run dies, the state of the last step at which a save was due is on disk, or it is being saved, and
then that of the time before is.
"""

import argparse
import json
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter

from unet_jax.runs.log import read_history

TINY = (
    "--config=configs/demo.py --config.model.width=4 --config.model.depth=2 "
    "--config.data.size=32 --config.data.crops_per_image=2 "
    "--config.optim.schedule=constant --config.eval.every_epochs=2 --config.log.every_steps=1"
).split()
EPOCHS = 8
SHORTER = (5, 7, EPOCHS)  # that the first starts may have
INTERVAL = 6  # steps of an epoch, after each of which it saves
DELAY = 0.05  # seconds, at most, from the beginning of a save to the signal


def start(workdir: pathlib.Path, data: pathlib.Path, epochs: int) -> subprocess.Popen:
    """The command; what it prints goes to a file beside the run's folder."""
    command = [sys.executable, "launch.py", *TINY, f"--config.data.root={data}"]
    command.append(f"--config.num_epochs={epochs}")
    with log_of(workdir).open("w") as log:
        return subprocess.Popen(
            [*command, f"--workdir={workdir}"], stdout=log, stderr=subprocess.STDOUT
        )


def log_of(workdir: pathlib.Path) -> pathlib.Path:
    return workdir.with_suffix(".log")


def outcome(workdir: pathlib.Path) -> tuple[dict, list[dict]]:
    """The report and the history of a run that ended."""
    clock = ("time", "images_per_second")
    history = [{k: v for k, v in line.items() if k not in clock} for line in read_history(workdir)]
    return json.loads((workdir / "report.json").read_text()), history


def unfinished(workdir: pathlib.Path) -> list[pathlib.Path]:
    """The checkpoints that are being saved, or were when the run died."""
    return list(workdir.glob("*/*.orbax-checkpoint-tmp*"))


def wait_for_a_save(process: subprocess.Popen, workdir: pathlib.Path, skip: int) -> None:
    """Returns in the middle of a save, after so many others; or when the process has ended."""
    old, seen = set(unfinished(workdir)), set()
    while process.poll() is None and len(seen) <= skip:
        seen |= set(unfinished(workdir)) - old
        time.sleep(0.001)


def went_on_from(workdir: pathlib.Path) -> int | None:
    """The step that the last start went on from; None where it died before it said so."""
    said = log_of(workdir).read_text()
    found = re.search(r"goes on from the state of step (\d+)", said)
    return int(found[1]) if found else 0 if "steps  " in said else None


def newest_on_disk(workdir: pathlib.Path, went_on: int) -> int:
    """The least step that the next start must go on from; 0 is the beginning."""
    made = re.findall(r"^step (\d+)/", log_of(workdir).read_text(), re.MULTILINE)
    due = (int(made[-1]) - 1) // INTERVAL * INTERVAL if made else 0
    being_saved = any(path.parent.name == "checkpoints" for path in unfinished(workdir))
    return max(went_on, due - INTERVAL * being_saved)


def run_to_the_end(
    workdir: pathlib.Path,
    data: pathlib.Path,
    kinds: list[str],
    epochs: list[int],
    seconds: float,
    rng: random.Random,
) -> Counter:
    """Ends a run by signals of these `kinds`, then lets it end; counts what came of them.

    `epochs` are those of each start, of which the last has no signal.
    """
    counts, least = Counter(), 0
    for kind, length in zip([*kinds, ""], epochs, strict=True):
        process = start(workdir, data, length)
        number = signal.SIGTERM if kind == "SIGTERM" else signal.SIGKILL
        if kind == "while saving":
            wait_for_a_save(process, workdir, skip=rng.randint(0, 3))
            time.sleep(rng.uniform(0, DELAY))
        elif kind:
            try:
                process.wait(rng.uniform(0.2, 0.9) * seconds)
            except subprocess.TimeoutExpired:
                pass
        if kind:
            process.send_signal(number)
        code = process.wait()
        if code not in ((0, 75, -number) if kind else (0,)):
            raise SystemExit(f"exit code {code}: {log_of(workdir).read_text()}")
        step = went_on_from(workdir)
        if step is not None and step < least:
            raise SystemExit(f"{workdir}: went on from step {step} instead of {least}")
        if (workdir / "damaged").exists():
            raise SystemExit(f"{workdir}: a kill damaged a checkpoint")
        if code == 0 and length == epochs[-1]:
            return counts
        if code == 0:
            counts["extended after its end"] += 1
            least = max(least, length * INTERVAL)
            continue
        counts[signal.Signals(number).name] += 1
        counts["in the middle of a save"] += code == -signal.SIGKILL and bool(unfinished(workdir))
        least = least if step is None else newest_on_disk(workdir, step)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        data = folder / "data"
        for name in ("first", "unbroken"):  # the first one also makes the data
            began = time.monotonic()
            if start(folder / name, data, EPOCHS).wait():
                raise SystemExit("the unbroken run failed")
        seconds = time.monotonic() - began
        expected = outcome(folder / "unbroken")
        counts = Counter()
        for number in range(arguments.rounds):
            workdir = folder / f"killed-{number}"
            choice = ("SIGKILL", "while saving", "while saving", "SIGTERM")
            kinds = rng.choices(choice, k=rng.randint(2, 4))
            epochs = [*sorted(rng.choices(SHORTER, k=len(kinds))), EPOCHS]
            counts += run_to_the_end(workdir, data, kinds, epochs, seconds, rng)
            if outcome(workdir) != expected:
                raise SystemExit(f"round {number} differs from the unbroken run")
            said = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
            print(f"{number + 1} rounds: {said}; all like the unbroken run", flush=True)


if __name__ == "__main__":
    main()
