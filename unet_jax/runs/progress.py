"""Progress of a training run or a prediction: a bar on a terminal, lines otherwise."""

import datetime
import sys
import time

import rich.console
import rich.progress

from unet_jax.core.names import printable
from unet_jax.core.streams import say


class PixelProgress:
    """Progress of a prediction: a bar on a terminal, otherwise one line every ten seconds.

    Args:
      total: number of pixels to predict.
    """

    def __init__(self, total: int):
        self._total, self._done = total, 0
        self._start = self._last_line = time.perf_counter()
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
        """Adds predicted pixels and updates the display.

        Args:
          pixels: number of pixels predicted since the last call.
          name: name of their file.
        """
        self._done += pixels
        now = time.perf_counter()
        pace = self._done / (now - self._start)
        status = f"{pace / 1e6:.2f} Mpixel/s  {printable(name)}"
        if self._bar:
            self._bar.update(self._task, completed=self._done, description=status)
        elif now - self._last_line >= 10:
            self._last_line = now
            left = datetime.timedelta(seconds=round((self._total - self._done) / pace))
            say(f"{self._done / self._total:.0%}  {left} left  {status}")

    def close(self) -> None:
        """Stops the bar, if there is one."""
        if self._bar:
            self._bar.stop()


class Progress:
    """Progress of training (a bar on a terminal, lines otherwise) and its throughput.

    Args:
      start_step: step from which the run starts or resumes.
      total_steps: step at which the run ends.
      batch_size: global batch size, images per step.
    """

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
        """Measures the throughput from `step` on; returns the seconds since the last restart."""
        previous, self._clock = self._clock, time.perf_counter()
        self._clock_step = step
        if self._bar:
            self._bar.update(self._task, completed=step)
        return self._clock - previous

    def images_per_second(self, step: int) -> float | None:
        """Returns the throughput since the clock's restart, images/s; None without a new step."""
        steps = step - self._clock_step
        return steps * self._batch_size / (time.perf_counter() - self._clock) if steps else None

    def update(self, step: int, loss: float) -> float | None:
        """Shows step, loss, throughput and time left, and restarts the clock.

        Args:
          step: the current step.
          loss: the training loss.

        Returns:
          The throughput in images/s, or None if no step was made since the clock's restart.
        """
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
        """Prints a line, above the bar if there is one."""
        if self._bar:
            self._bar.console.print(text, highlight=False, markup=False, emoji=False)
        else:
            say(text)

    def close(self) -> None:
        """Stops the bar, if there is one."""
        if self._bar:
            self._bar.stop()
