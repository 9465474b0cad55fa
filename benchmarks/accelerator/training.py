"""Trains the ISBI experiment by the launcher until it ends or its time is up."""

import os
import pathlib
import signal
import tempfile
import threading
from typing import Any

from benchmarks.accelerator.experiment import find_data, overrides
from benchmarks.accelerator.record import Recorder
from unet_jax.core.errors import EXIT_INTERRUPTED
from unet_jax.core.files import read_json
from unet_jax.reporting.launching import LAUNCHER, launch
from unet_jax.runs.log import read_history

GRACE = 15.0  # seconds to save the state after the signal to stop


def measure(settings: dict[str, Any], recorder: Recorder) -> None:
    """Records a row for each validation, with the loss and the speed of the training before it."""
    root, source = find_data(settings["side"])
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder, "run")
        flags = [*overrides(settings, root), f"--workdir={workdir}"]
        recorder.write([], data=source, command=" ".join(["python launch.py", *flags[:-1]]))
        log = pathlib.Path(folder, "log.txt")
        # `launch` forwards the signal to the run, which stops after its step.
        stop = (os.getpid(), signal.SIGTERM)
        timer = threading.Timer(max(1.0, recorder.remaining - GRACE), os.kill, stop)
        timer.daemon = True
        timer.start()
        code = launch([str(LAUNCHER), *flags], log)
        timer.cancel()
        print(log.read_text(), flush=True)
        rows = table_of(read_history(workdir))
        done = {0: "to the end", EXIT_INTERRUPTED: "stopped: out of time"}
        recorder.write(rows, trained=done.get(code, f"failed with exit code {code}"))
        if (workdir / "report.json").exists():
            aggregate = read_json(workdir / "report.json")["aggregate"]
            recorder.write(rows, test={name: x["mean"] for name, x in aggregate.items()})
    if code not in done:
        raise RuntimeError(f"the launcher failed with exit code {code}; see log.txt")


def table_of(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns a row for each validation in a run's records, and for the steps after the last."""
    rows, last = [], {}
    for record in history:
        if record["split"] == "train":
            last = record
        elif record["split"] == "validation":
            rows.append(_row(last, record))
            last = {}
    return [*rows, _row(last, last)] if last else rows


def _row(trained: dict[str, Any], at: dict[str, Any]) -> dict[str, Any]:
    return {
        "epoch": at["epoch"],
        "step": at["step"],
        "train_loss": trained.get("loss"),
        "validation_loss": at["loss"] if at["split"] == "validation" else None,
        "images_per_second": trained.get("images_per_second"),
    }
