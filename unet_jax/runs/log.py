"""Logging of a run: metrics.jsonl and TensorBoard events."""

import contextlib
import json
import pathlib
import time
from typing import Any

import numpy as np

from unet_jax.core.errors import UserError
from unet_jax.core.names import in_markdown, printable
from unet_jax.core.streams import say
from unet_jax.metrics.registry import in_order
from unet_jax.runs.record_file import open_lines

try:
    from unet_jax.runs.tensorboard import open_events, summary
except ImportError:  # TensorBoard is optional, because no result depends on it
    summary: Any = None

METRICS = "metrics.jsonl"


class Writer:
    """Appends scalars to `metrics.jsonl` and to TensorBoard events.

    A resumed run drops the training records after `restored_step`, the validation records at or
    after it, and all records of other splits, because it repeats those steps and evaluations.
    On a disk every record is written immediately, so that a full disk raises OSError at once. In a
    bucket the records are written in batches; `flush` writes those that are left. Without
    tensorboardX no events are written.

    Args:
      folder: the run's folder.
      restored_step: step of the restored checkpoint; 0 for a new run.
    """

    def __init__(self, folder: pathlib.Path, restored_step: int):
        kept = [
            line
            for line in read_history(folder)
            if (line["split"] == "train" and line["step"] <= restored_step)
            or (line["split"] == "validation" and line["step"] < restored_step)
        ]
        content = "".join(json.dumps(line) + "\n" for line in kept)
        self._file = open_lines(folder / METRICS, content)
        self._events: Any = None
        if summary is None:
            say("no TensorBoard events: pip install tensorboardX")
        else:
            self._events = open_events(folder, purge_step=restored_step + 1)

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
            headlines = [f"test/{m.logged}" for m in in_order() if m.headline]
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
        self._file.append(json.dumps(line))
        if self._events:
            for name, value in scalars.items():
                scalar = summary.scalar(printable(f"{split}/{name}"), value)
                self._events.add(step=step, summary=scalar, wall_time=now)

    def flush(self) -> None:
        """Writes the records that are not written yet.

        This must precede every save of a training state, because a run that resumes from it does
        not repeat the earlier steps and validations.
        """
        self._file.flush()
        if self._events:
            self._events.flush()

    def abandon(self) -> None:
        """Makes `close` write nothing, because another process may write the run."""
        self._file.abandon()
        if self._events:
            self._events.abandon()

    def close(self) -> None:
        """Closes both files; raises OSError if the last records cannot be written."""
        try:
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
