"""Progress of a loop over results: a bar on a terminal, lines otherwise, nothing if it is short."""

import datetime
import sys
import time
from collections.abc import Generator, Iterable
from typing import TypeVar

import rich.console
import rich.progress

from unet_jax.core.streams import say

SHORT = 2.0  # seconds; a loop that ends within them, or soon after, shows nothing
LINES_EVERY = 10.0  # seconds between two lines if there is no terminal

T = TypeVar("T")


def track(results: Iterable[T], total: int, label: str, unit: str) -> Generator[T, None, None]:
    """Yields the results and shows the progress once they take longer than `SHORT` seconds.

    Close the iterator if it is not exhausted, so that the bar is removed.

    Args:
      results: the results, computed while they are iterated over.
      total: their number.
      label: what is done, at most 12 characters; the first word of each line.
      unit: what a result stands for, in the plural.
    """
    start = time.perf_counter()
    next_line, bar, lines = start + SHORT, None, 0
    try:
        for done, result in enumerate(results, 1):
            now = time.perf_counter()
            left = (now - start) / done * (total - done)
            if bar:
                bar.update(bar.task_ids[0], completed=done)
            elif now >= next_line and (lines or left > SHORT) and done < total:
                if sys.stdout.isatty():
                    bar = _start_bar(done, total, label, unit)
                else:
                    next_line, lines = now + LINES_EVERY, lines + 1
                    say(f"{label:13s}{done}/{total} {unit}  {_duration(left)} left")
            if done == total and (bar or lines):
                if bar:
                    bar.stop()
                say(f"{label:13s}{done}/{total} {unit} in {_duration(now - start)}")
            yield result
    finally:
        if bar:
            bar.stop()


def _duration(seconds: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=round(seconds))


def _start_bar(done: int, total: int, label: str, unit: str) -> rich.progress.Progress:
    bar = rich.progress.Progress(
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn(unit, markup=False),
        rich.progress.TimeRemainingColumn(),
        console=rich.console.Console(file=sys.stdout),
        transient=True,  # the last line has the total
    )
    bar.add_task(f"{label:12s}", total=total, completed=done)
    bar.start()
    return bar
