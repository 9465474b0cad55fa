"""Runs killed at random moments, repeated until they end, compared with an unbroken one.

python -m benchmarks.kills --seconds=120 --seed=0

Kills by SIGKILL two times in three, else by SIGTERM. Fails on the first difference in the report
or in the history (clock readings aside).
"""

import argparse
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

from unet_jax.writer import read_history

TINY = (
    "--config=configs/demo.py --config.model.width=4 --config.model.depth=2 "
    "--config.data.size=32 --config.data.crops_per_image=2 --config.num_epochs=8 "
    "--config.optim.schedule=constant --config.eval.every_epochs=1 --config.log.every_steps=1"
).split()


def start(workdir: pathlib.Path, data: pathlib.Path) -> subprocess.Popen:
    command = [sys.executable, "launch.py", *TINY, f"--config.data.root={data}"]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def outcome(workdir: pathlib.Path) -> tuple[dict, list[dict]]:
    """The report and the history of a run that ended."""
    clock = ("time", "images_per_second")
    history = [{k: v for k, v in line.items() if k not in clock} for line in read_history(workdir)]
    return json.loads((workdir / "report.json").read_text()), history


def run_to_the_end(
    workdir: pathlib.Path, data: pathlib.Path, seconds: float, rng: random.Random
) -> list[int]:
    """Starts, kills and repeats until a run ends by itself; returns the signals it took."""
    taken = []
    while True:
        process = start(workdir, data)
        number = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        try:
            process.communicate(timeout=rng.uniform(0.2, 0.9 * seconds))
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            process.communicate()
        if process.returncode == 0:
            return taken
        if process.returncode not in (75, -number):
            raise SystemExit(f"exit code {process.returncode} after {number!r}")
        taken.append(number)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        data = folder / "data"
        for name in ("first", "unbroken"):  # the first one also makes the data
            began = time.monotonic()
            if start(folder / name, data).wait():
                raise SystemExit("the unbroken run failed")
        seconds = time.monotonic() - began
        expected = outcome(folder / "unbroken")
        runs, taken, end = 0, [], time.monotonic() + arguments.seconds
        while time.monotonic() < end:
            workdir = folder / f"killed-{runs}"
            taken += run_to_the_end(workdir, data, seconds, rng)
            if outcome(workdir) != expected:
                raise SystemExit(f"run {runs} differs from the unbroken one")
            runs += 1
    kills, terms = taken.count(signal.SIGKILL), taken.count(signal.SIGTERM)
    print(f"{runs} runs, {kills} SIGKILLs, {terms} SIGTERMs: all like the unbroken run")


if __name__ == "__main__":
    main()
