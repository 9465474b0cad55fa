"""Signal handling that stops a run without losing a training step."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from types import FrameType

from unet_jax.core.errors import EXIT_INTERRUPTED

# Schedulers and `kill` send SIGTERM, Ctrl-C sends SIGINT, and the end of a terminal or ssh session
# sends SIGHUP.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
DUPLICATE_SECONDS = 1.0  # seconds; another SIGINT within this time is a duplicate of the first


class Interrupted(Exception):
    """A signal requested a stop. The state is saved, and rerunning the command resumes the run."""


def stop_signals() -> list[signal.Signals]:
    """Returns the signals that request a stop, without SIGHUP if it is ignored, as under nohup."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in SIGNALS if number != signal.SIGHUP or not ignored]


class StopSignal:
    """Context manager that records SIGTERM, SIGHUP and Ctrl-C for a loop to check.

    A second Ctrl-C acts immediately, because only a person sends it deliberately. A second SIGTERM
    or SIGHUP does not: schedulers repeat SIGTERM, a closing terminal sends SIGHUP twice, and a
    process group may receive a signal directly and once more from a parent that forwards it.

    Attributes:
      requested: whether one of the signals was received.
    """

    requested = False

    def __enter__(self) -> "StopSignal":
        self._first_interrupt: float | None = None
        self._previous = {number: signal.signal(number, self._record) for number in stop_signals()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _record(self, number: int, _: FrameType | None) -> None:
        self.requested = True
        if number != signal.SIGINT:
            return
        now = time.monotonic()
        if self._first_interrupt is None:
            self._first_interrupt = now
        elif now - self._first_interrupt >= DUPLICATE_SECONDS:
            signal.signal(number, self._previous[signal.SIGINT])
            signal.raise_signal(number)

    def check(self) -> None:
        """Raises `Interrupted` if a signal was received; call it only when the state is saved."""
        if self.requested:
            raise Interrupted


@contextlib.contextmanager
def ended_by_signals(line: str, seconds: float = 1) -> Iterator[None]:
    """Ends the process soon after a stop signal, even if its main thread is busy.

    Python calls a signal handler only between its own instructions, so XLA's compiler or an image
    decoder may delay it for minutes. If the context has not been left `seconds` after SIGTERM,
    SIGHUP or Ctrl-C, the process prints `line` and exits with `EXIT_INTERRUPTED`. It does not
    clean up, so that this is safe only for work whose finished files are complete.

    Args:
      line: the text to print to standard output.
      seconds: time between the signal and the exit, seconds.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    context_left = threading.Event()

    def watch() -> None:
        if receiver.recv(1) and not context_left.wait(seconds):
            with contextlib.suppress(OSError):
                os.write(1, f"{line}\n".encode())
            os._exit(EXIT_INTERRUPTED)

    thread = threading.Thread(target=watch, daemon=True)
    with StopSignal():
        previous = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        thread.start()
        try:
            yield
        finally:
            context_left.set()
            signal.set_wakeup_fd(previous)
            sender.close()
            thread.join()
            receiver.close()
