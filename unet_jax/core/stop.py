"""Stopping a run from outside without losing a step."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from types import FrameType

from unet_jax.core.errors import EXIT_INTERRUPTED

# A scheduler's or a user's `kill`, Ctrl-C, and the end of the terminal or ssh session.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SAME = 1.0  # seconds within which another Ctrl-C is a copy of the first, not a second one


class Interrupted(Exception):
    """The run was asked to stop. Its state is saved; the same command goes on."""


def heeded() -> list[signal.Signals]:
    """The signals that ask for a stop: under nohup, which ignores SIGHUP, that one does not."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in SIGNALS if number != signal.SIGHUP or not ignored]


class StopSignal:
    """Notes SIGTERM, SIGHUP and Ctrl-C for a loop to check; a second Ctrl-C acts at once.

    Only a human sends a second one who means it. Schedulers repeat SIGTERM, a terminal that closes
    sends SIGHUP twice, and a group of processes may get one signal and have it forwarded as well.
    """

    requested = False

    def __enter__(self) -> "StopSignal":
        self._first_interrupt: float | None = None
        self._previous = {number: signal.signal(number, self._note) for number in heeded()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.requested = True
        if number != signal.SIGINT:
            return
        now = time.monotonic()
        if self._first_interrupt is None:
            self._first_interrupt = now
        elif now - self._first_interrupt >= SAME:
            signal.signal(number, self._previous[signal.SIGINT])
            signal.raise_signal(number)

    def check(self) -> None:
        """Raises `Interrupted` if a signal came: call it where the state is saved."""
        if self.requested:
            raise Interrupted


@contextlib.contextmanager
def ended_by_signals(line: str, seconds: float = 1) -> Iterator[None]:
    """Ends the process within `seconds` of SIGTERM or Ctrl-C, though its main thread is busy.

    Python calls a handler only between the steps of its own code: XLA's compiler or a decoder may
    keep it waiting for minutes. What has not left the context by itself then ends with `line` and
    `EXIT_INTERRUPTED`, without any clearing up: only for work whose finished files are whole.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    left = threading.Event()

    def watch() -> None:
        if receiver.recv(1) and not left.wait(seconds):
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
            left.set()
            signal.set_wakeup_fd(previous)
            sender.close()
            thread.join()
            receiver.close()
