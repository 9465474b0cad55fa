"""What a run says while it goes on: metrics.jsonl, TensorBoard events, progress."""

import contextlib
import json
import pathlib
import time
from typing import Any

import numpy as np

from unet_jax.core.errors import UserError
from unet_jax.core.files import naming, write_all
from unet_jax.core.names import in_markdown, printable
from unet_jax.core.streams import say

try:
    from unet_jax.runs.tensorboard import EventFile, summary
except ImportError:  # events are for looking only
    summary: Any = None

METRICS = "metrics.jsonl"
# What the hyperparameter page of TensorBoard sets beside the config.
HEADLINES = ("validation/loss", "test/loss", "test/dice", "test/mean_iou")


class Writer:
    """Appends scalars to `metrics.jsonl` and to TensorBoard events.

    A run that goes on from `restored_step` forgets what was written beyond it, and what was
    evaluated at it or at the end: those evaluations are made again. Without tensorboardX there
    are no events. What is written is on its way to the disk at once, and a full one an OSError.
    """

    def __init__(self, folder: pathlib.Path, restored_step: int):
        path = self._path = folder / METRICS
        kept = [
            line
            for line in read_history(folder)
            if (line["split"] == "train" and line["step"] <= restored_step)
            or (line["split"] == "validation" and line["step"] < restored_step)
        ]
        write_all({path: "".join(json.dumps(line) + "\n" for line in kept).encode()})
        self._file = open(path, "a+", buffering=1)  # a line at a time reaches the disk
        self._events: Any = None
        if summary is None:
            say("no TensorBoard events: pip install tensorboardX")
        else:
            self._events = EventFile(folder, purge_step=restored_step + 1)

    def describe(self, fields: dict[str, Any]) -> None:
        """Shows the config's fields as text and as hyperparameters."""
        if self._events:
            rows = "".join(f"| {n} | {in_markdown(str(v))} |\n" for n, v in fields.items())
            table = summary.text("config", f"| field | value |\n| --- | --- |\n{rows}")
            plain = {
                k: v if isinstance(v, (int, float)) else printable(str(v))
                for k, v in fields.items()
            }
            metrics = dict.fromkeys(HEADLINES, 0.0)
            experiment, start, _ = summary.hparams(plain, metrics)
            for shown in (table, experiment, start):
                self._events.add(summary=shown)

    def show(self, step: int, name: str, image: np.ndarray) -> None:
        """Shows a picture, uint8 [H, W, 3]."""
        if self._events:
            shown = summary.image(printable(name), image, dataformats="HWC")
            self._events.add(step=step, summary=shown)

    def write(self, step: int, epoch: float, split: str, scalars: dict[str, float]) -> None:
        now = time.time()
        line = {"step": step, "epoch": round(epoch, 4), "split": split, **scalars, "time": now}
        with naming(self._path):
            if not self._path.exists():  # deleted: what is open still has all of it
                self._file.seek(0)
                write_all({self._path: self._file.read().encode()})
                self._file.close()
                self._file = open(self._path, "a+", buffering=1)
            self._file.write(json.dumps(line) + "\n")
        if self._events:
            for name, value in scalars.items():
                shown = summary.scalar(printable(f"{split}/{name}"), value)
                self._events.add(step=step, summary=shown, wall_time=now)

    def close(self) -> None:
        try:
            with naming(self._path):
                self._file.close()
        finally:
            if self._events:
                self._events.close()


def read_history(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The records of `metrics.jsonl`; a last line that a kill cut short is left out.

    Raises a `UserError` for any other line that is no record: those after it would be lost.
    """
    path = folder / METRICS
    if not path.exists():
        return []
    *lines, last = path.read_bytes().split(b"\n")
    history = []
    for number, line in enumerate(lines, 1):
        try:
            history.append(_check_record(json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}: line {number} is no record of a run ({error}); mend or remove it"
            ) from None
    with contextlib.suppress(ValueError, RecursionError):
        history.append(_check_record(json.loads(last)))
    return history


def _check_record(record: Any) -> dict[str, Any]:
    """A record as `Writer.write` makes it; raises a `ValueError` for anything else."""
    fields = record if isinstance(record, dict) else {}
    if not isinstance(fields.get("step"), int) or not isinstance(fields.get("split"), str):
        raise ValueError("without step or split")
    for name, value in fields.items():
        whole = isinstance(value, int) and abs(value) < 2**53
        if name != "split" and not (whole or value is None or isinstance(value, float)):
            raise ValueError(f"{name[:40]!r} is no number")
    return fields
