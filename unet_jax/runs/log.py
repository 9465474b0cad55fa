"""Logging of a run: metrics.jsonl and TensorBoard events."""

import contextlib
import json
import pathlib
import time
from typing import Any

import numpy as np

from unet_jax.core.errors import UserError
from unet_jax.core.files import set_error_filename, write_all
from unet_jax.core.names import in_markdown, printable
from unet_jax.core.streams import say
from unet_jax.metrics.registry import in_order

try:
    from unet_jax.runs.tensorboard import EventFile, summary
except ImportError:  # TensorBoard is optional, because no result depends on it
    summary: Any = None

METRICS = "metrics.jsonl"


class Writer:
    """Appends scalars to `metrics.jsonl` and to TensorBoard events.

    A resumed run drops the training records after `restored_step`, the validation records at or
    after it, and all records of other splits, because it repeats those steps and evaluations.
    Every record is written immediately, so that a full disk raises OSError at once. Without
    tensorboardX no events are written.

    Args:
      folder: the run's folder.
      restored_step: step of the restored checkpoint; 0 for a new run.
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
        self._file = open(path, "a+", buffering=1)  # line-buffered: each record is written at once
        self._events: Any = None
        if summary is None:
            say("no TensorBoard events: pip install tensorboardX")
        else:
            self._events = EventFile(folder, purge_step=restored_step + 1)

    def describe(self, fields: dict[str, Any]) -> None:
        """Writes the config to TensorBoard, as a table and as hyperparameters.

        Args:
          fields: values by dotted field name.
        """
        if self._events:
            rows = "".join(f"| {n} | {in_markdown(str(v))} |\n" for n, v in fields.items())
            table = summary.text("config", f"| field | value |\n| --- | --- |\n{rows}")
            plain = {
                k: v if isinstance(v, (int, float)) else printable(str(v))
                for k, v in fields.items()
            }
            # TensorBoard's HParams page shows these metrics beside the config.
            headlines = [f"test/{m.key}" for m in in_order() if m.headline]
            metrics = dict.fromkeys(["validation/loss", "test/loss", *headlines], 0.0)
            experiment, start, _ = summary.hparams(plain, metrics)
            for part in (table, experiment, start):
                self._events.add(summary=part)

    def show(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes an image to TensorBoard.

        Args:
          step: training step.
          name: name of the image.
          image: uint8 [H, W, 3].
        """
        if self._events:
            image_summary = summary.image(printable(name), image, dataformats="HWC")
            self._events.add(step=step, summary=image_summary)

    def write(self, step: int, epoch: float, split: str, scalars: dict[str, float]) -> None:
        """Appends one record of scalars.

        Args:
          step: training step.
          epoch: epoch, as a fraction.
          split: train, validation, test, ...
          scalars: values by name.

        Raises:
          OSError: the record cannot be written.
        """
        now = time.time()
        line = {"step": step, "epoch": round(epoch, 4), "split": split, **scalars, "time": now}
        with set_error_filename(self._path):
            if not self._path.exists():  # it was deleted, but the open file has all records
                self._file.seek(0)
                write_all({self._path: self._file.read().encode()})
                self._file.close()
                self._file = open(self._path, "a+", buffering=1)
            self._file.write(json.dumps(line) + "\n")
        if self._events:
            for name, value in scalars.items():
                scalar = summary.scalar(printable(f"{split}/{name}"), value)
                self._events.add(step=step, summary=scalar, wall_time=now)

    def close(self) -> None:
        """Closes both files; raises OSError if the last records cannot be written."""
        try:
            with set_error_filename(self._path):
                self._file.close()
        finally:
            if self._events:
                self._events.close()


def read_history(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Reads the records of `metrics.jsonl`, without a last line that a kill truncated.

    Args:
      folder: the run's folder.

    Returns:
      The records in order; none if the file does not exist.

    Raises:
      UserError: any other line is not a record; ignoring it would lose the lines after it.
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
                f"{path}: line {number} is not a record of a run ({error}); fix or remove it"
            ) from None
    with contextlib.suppress(ValueError, RecursionError):
        history.append(_check_record(json.loads(last)))
    return history


def _check_record(record: Any) -> dict[str, Any]:
    """Returns a valid record of `Writer.write`; raises `ValueError` for anything else."""
    fields = record if isinstance(record, dict) else {}
    if not isinstance(fields.get("step"), int) or not isinstance(fields.get("split"), str):
        raise ValueError("no step or split")
    for name, value in fields.items():
        is_integer = isinstance(value, int) and abs(value) < 2**53
        if name != "split" and not (is_integer or value is None or isinstance(value, float)):
            raise ValueError(f"{name[:40]!r} is not a number")
    return fields
