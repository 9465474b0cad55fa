"""Stopping a run from outside without losing a step."""

import signal


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
