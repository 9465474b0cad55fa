"""Stopping a run from outside without losing a step."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator

from unet_jax.errors import EXIT_INTERRUPTED


class Interrupted(Exception):
    """The run was asked to stop. Its state is saved; the same command goes on."""


class StopSignal:
    """Notes SIGTERM and Ctrl-C for a loop to heed; a second one acts as it always does."""

    requested = False

    def __enter__(self) -> "StopSignal":
        self._previous = {
            int(number): signal.signal(number, self._note)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self.requested = True
        signal.signal(number, self._previous[number])

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
