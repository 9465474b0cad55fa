"""What a run says while it goes on: metrics.jsonl, TensorBoard events, progress."""

import contextlib
import datetime
import json
import pathlib
import sys
import time
from typing import Any

import numpy as np
import rich.console
import rich.progress

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


class PixelProgress:
    """How far a prediction is: a bar on a terminal, elsewhere a line each ten seconds."""

    def __init__(self, total: int):
        self._total, self._done = total, 0
        self._start = self._said = time.perf_counter()
        self._bar = None
        if sys.stdout.isatty():
            self._bar = rich.progress.Progress(
                rich.progress.BarColumn(),
                rich.progress.TaskProgressColumn(),
                rich.progress.TextColumn("{task.description}", markup=False),
                rich.progress.TimeRemainingColumn(),
                console=rich.console.Console(file=sys.stdout),
            )
            self._task = self._bar.add_task("compiling", total=total)
            self._bar.start()

    def advance(self, pixels: int, name: str) -> None:
        """So many more pixels are done, of the file `name`."""
        self._done += pixels
        now = time.perf_counter()
        pace = self._done / (now - self._start)
        status = f"{pace / 1e6:.2f} Mpixel/s  {printable(name)}"
        if self._bar:
            self._bar.update(self._task, completed=self._done, description=status)
        elif now - self._said >= 10:
            self._said = now
            left = datetime.timedelta(seconds=round((self._total - self._done) / pace))
            say(f"{self._done / self._total:.0%}  {left} left  {status}")

    def close(self) -> None:
        if self._bar:
            self._bar.stop()


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


class Progress:
    """A bar on a terminal, lines elsewhere; and the clock that gives the pace."""

    def __init__(self, start_step: int, total_steps: int, batch_size: int):
        self._total_steps, self._batch_size = total_steps, batch_size
        self._clock, self._clock_step = time.perf_counter(), start_step
        self._bar = None
        if sys.stdout.isatty():
            self._bar = rich.progress.Progress(
                rich.progress.BarColumn(),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TextColumn("{task.description}", markup=False),
                rich.progress.TimeElapsedColumn(),
                console=rich.console.Console(file=sys.stdout),
            )
            self._task = self._bar.add_task("compiling", total=total_steps, completed=start_step)
            self._bar.start()

    def restart_clock(self, step: int) -> float:
        """Counts the pace from here on; returns the seconds since the last restart."""
        previous, self._clock = self._clock, time.perf_counter()
        self._clock_step = step
        if self._bar:
            self._bar.update(self._task, completed=step)
        return self._clock - previous

    def images_per_second(self, step: int) -> float | None:
        """The pace since the clock's restart; None where no step was made since."""
        steps = step - self._clock_step
        return steps * self._batch_size / (time.perf_counter() - self._clock) if steps else None

    def update(self, step: int, loss: float) -> float | None:
        """Shows step, loss, pace and time left; returns the pace and restarts the clock."""
        pace = self.images_per_second(step)
        status = f"loss {loss:.4f}"
        if pace:
            seconds = (self._total_steps - step) * self._batch_size / pace
            left = datetime.timedelta(seconds=round(seconds))
            status += f"  {pace:.1f} images/s  {left} left"
        if self._bar:
            self._bar.update(self._task, completed=step, description=status)
        else:
            say(f"step {step}/{self._total_steps}  {status}")
        self.restart_clock(step)
        return pace

    def say(self, text: str) -> None:
        """A line of its own, above the bar if there is one."""
        if self._bar:
            self._bar.console.print(text, highlight=False, markup=False, emoji=False)
        else:
            say(text)

    def close(self) -> None:
        if self._bar:
            self._bar.stop()
