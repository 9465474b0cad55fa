"""Kills runs repeatedly, also during a save, and compares them with an uninterrupted run.

python -m benchmarks.robustness.kills --rounds=20 --seed=0

A round is a run from its first step to its report, which up to four signals interrupt: SIGKILL at
a random time, SIGKILL within 50 ms after a save begins, or SIGTERM. After each signal the command
is rerun, with the same or a larger number of epochs: the first starts may be of a shorter run,
which evaluates at its end although the longer one does not at that step. The benchmark fails on the
first difference in the report or in the history (except clock readings), on a damaged checkpoint,
and if a run resumes from an earlier step than it should.

Checkpoints are saved in the background during training, and a save waits for the previous one. When
a run is killed, the state of the last step at which a save was due is therefore on disk, or it is
being saved and the state of the previous save is on disk.
"""

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

from unet_jax.core.command_help import command_parser
from unet_jax.runs.log import read_history

TINY = (
    "--config=configs/demo.py --config.model.width=4 --config.model.depth=2 "
    "--config.data.size=32 --config.data.crops_per_image=2 "
    "--config.optim.schedule=constant --config.eval.every_epochs=2 --config.log.every_steps=1"
).split()
LAUNCHER = "launch.py"
EPOCHS = 8
SHORTER = (5, 7, EPOCHS)  # possible numbers of epochs of the first starts
INTERVAL = 6  # steps per epoch; a run saves after each epoch
DELAY = 0.05  # longest time from the start of a save to the signal, in seconds


def start(workdir: pathlib.Path, data: pathlib.Path, epochs: int) -> subprocess.Popen:
    """Starts a training run; its output goes to a file beside its folder, see `log_of`."""
    command = [sys.executable, LAUNCHER, *TINY, f"--config.data.root={data}"]
    command.append(f"--config.num_epochs={epochs}")
    with log_of(workdir).open("w") as log:
        return subprocess.Popen(
            [*command, f"--workdir={workdir}"], stdout=log, stderr=subprocess.STDOUT
        )


def log_of(workdir: pathlib.Path) -> pathlib.Path:
    """Returns the file with the output of the run's last start."""
    return workdir.with_suffix(".log")


def outcome(workdir: pathlib.Path) -> tuple[dict, list[dict]]:
    """Reads the report and the history of a finished run, without clock readings."""
    clock = ("time", "images_per_second")
    history = [{k: v for k, v in line.items() if k not in clock} for line in read_history(workdir)]
    return json.loads((workdir / "report.json").read_text()), history


def unfinished(workdir: pathlib.Path) -> list[pathlib.Path]:
    """Returns the checkpoints that are being saved, or were when the run was killed."""
    return list(workdir.glob("*/*.orbax-checkpoint-tmp*"))


def wait_for_a_save(process: subprocess.Popen, workdir: pathlib.Path, skip: int) -> None:
    """Waits for the start of a save, after `skip` others, or for the end of the process."""
    old, seen = set(unfinished(workdir)), set()
    while process.poll() is None and len(seen) <= skip:
        seen |= set(unfinished(workdir)) - old
        time.sleep(0.001)


def resumed_from(workdir: pathlib.Path) -> int | None:
    """Returns the step from which the last start resumed; 0 is from scratch, None is unknown."""
    text = log_of(workdir).read_text()
    match = re.search(r"resumes from step (\d+)", text)
    return int(match[1]) if match else 0 if "steps  " in text else None


def newest_on_disk(workdir: pathlib.Path, resumed: int) -> int:
    """Returns the earliest step from which the next start may resume; 0 starts from scratch."""
    steps = re.findall(r"^step (\d+)/", log_of(workdir).read_text(), re.MULTILINE)
    due = (int(steps[-1]) - 1) // INTERVAL * INTERVAL if steps else 0
    being_saved = any(path.parent.name == "checkpoints" for path in unfinished(workdir))
    return max(resumed, due - INTERVAL * being_saved)


def run_to_the_end(
    workdir: pathlib.Path,
    data: pathlib.Path,
    kinds: list[str],
    epochs: list[int],
    seconds: float,
    rng: random.Random,
) -> Counter:
    """Interrupts a run by signals, reruns it after each, and lets the last start finish.

    Args:
      workdir: folder of the run.
      data: folder of the data set.
      kinds: "SIGKILL", "SIGTERM" or "while saving" (a SIGKILL), for each start but the last.
      epochs: number of epochs of each start, one more than there are signals.
      seconds: duration of an uninterrupted run.
      rng: chooses the times of the signals.

    Returns:
      The number of interruptions by kind, and of starts that extended a finished run.

    Raises:
      SystemExit: a start failed, damaged a checkpoint or resumed from too early a step.
    """
    counts, earliest = Counter(), 0
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
        step = resumed_from(workdir)
        if step is not None and step < earliest:
            raise SystemExit(f"{workdir}: resumed from step {step} instead of {earliest}")
        if (workdir / "damaged").exists():
            raise SystemExit(f"{workdir}: a kill damaged a checkpoint")
        if code == 0 and length == epochs[-1]:
            return counts
        if code == 0:
            counts["extensions of a finished run"] += 1
            earliest = max(earliest, length * INTERVAL)
            continue
        counts[signal.Signals(number).name] += 1
        counts["during a save"] += code == -signal.SIGKILL and bool(unfinished(workdir))
        earliest = earliest if step is None else newest_on_disk(workdir, step)
    return counts


def main() -> None:
    """Compares `--rounds` killed runs with an uninterrupted run."""
    parser = command_parser("python -m benchmarks.robustness.kills", __doc__)
    parser.add_argument("--rounds", type=int, default=20, help="number of runs")
    parser.add_argument("--seed", type=int, default=0, help="seeds kinds and times of the signals")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        data = folder / "data"
        for name in ("first", "uninterrupted"):  # the first one also generates the data
            began = time.monotonic()
            if start(folder / name, data, EPOCHS).wait():
                raise SystemExit("the uninterrupted run failed")
        seconds = time.monotonic() - began
        expected = outcome(folder / "uninterrupted")
        counts = Counter()
        for number in range(arguments.rounds):
            workdir = folder / f"killed-{number}"
            choice = ("SIGKILL", "while saving", "while saving", "SIGTERM")
            kinds = rng.choices(choice, k=rng.randint(2, 4))
            epochs = [*sorted(rng.choices(SHORTER, k=len(kinds))), EPOCHS]
            counts += run_to_the_end(workdir, data, kinds, epochs, seconds, rng)
            if outcome(workdir) != expected:
                raise SystemExit(f"round {number} differs from the uninterrupted run")
            text = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
            print(f"{number + 1} rounds: {text}; all equal the uninterrupted run", flush=True)


if __name__ == "__main__":
    main()
