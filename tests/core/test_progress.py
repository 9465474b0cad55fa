"""Progress of a loop: nothing, lines or a bar."""

import io
import sys

import pytest

from unet_jax.core import progress
from unet_jax.core.progress import track


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def consume(clock, total: int, seconds: float) -> None:
    """Iterates over results that each take `seconds`."""

    def results():
        for i in range(total):
            clock[0] += seconds
            yield i

    assert [*track(results(), total, "checking", "files")] == [*range(total)]


def test_a_short_loop_shows_nothing(clock, capsys):
    consume(clock, 10, 0.2)
    consume(clock, 0, 1)
    consume(clock, 1, 60)  # nothing is left to wait for
    consume(clock, 35, 0.1)
    assert capsys.readouterr().out == ""


def test_a_long_loop_prints_a_line_now_and_then_and_its_total(clock, capsys):
    consume(clock, 40, 0.5)
    first, second, last = capsys.readouterr().out.splitlines()
    assert first == "checking     4/40 files  0:00:18 left"
    assert second == "checking     24/40 files  0:00:08 left"
    assert last == "checking     40/40 files in 0:00:20"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar_and_then_the_total(clock, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    consume(clock, 40, 0.5)
    output = sys.stdout.getvalue()
    assert "\u2501" in output
    assert output.splitlines()[-1].endswith("checking     40/40 files in 0:00:20")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_the_bar_is_removed_if_the_loop_stops_early(clock, monkeypatch, stop):
    monkeypatch.setattr(sys, "stdout", Terminal())
    bars = []
    start = progress._start_bar
    monkeypatch.setattr(progress, "_start_bar", lambda *a: bars.append(start(*a)) or bars[-1])

    def results():
        for i in range(9):
            clock[0] += 1
            yield i
        raise stop

    with pytest.raises(stop):
        [*track(results(), 40, "checking", "files")]
    early = track(iter(range(40)), 40, "checking", "files")
    next(early)
    clock[0] += 9
    next(early)
    early.close()
    assert len(bars) == 2
    assert all(bar.finished or not bar.live.is_started for bar in bars)
