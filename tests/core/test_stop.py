"""Signals that ask for a stop: in this process, and in one that native code keeps busy."""

import os
import signal
import subprocess
import sys
import time
import types

import pytest
from launched import ROOT

from unet_jax.core import stop
from unet_jax.core.stop import Interrupted, StopSignal

BUSY = """
import hashlib, time
from unet_jax.core.stop import Interrupted, StopSignal, ended_by_signals
try:
    with ended_by_signals("stopped by force"), StopSignal() as stop:
        print("ready", flush=True)
        WORK
    print("done")
except Interrupted:
    print("stopped by itself")
"""
# Python's handler would wait for minutes here, as it does for XLA's compiler.
NATIVE = "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
LOOP = "exec('while True:\\n time.sleep(0.01)\\n stop.check()')"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("work", "code", "line"),
    [(NATIVE, 75, "stopped by force"), (LOOP, 0, "stopped by itself"), ("pass", 0, "done")],
)
def test_a_busy_process_ends_within_seconds(number, work, code, line):
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY.replace("WORK", work)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        began = time.perf_counter()
        if work != "pass":
            process.send_signal(number)
        out = process.stdout.read()  # `communicate` would lose what is buffered already
        process.wait(60)
        process.stdout.close()
    finally:
        process.kill()
    assert (process.returncode, out) == (code, f"{line}\n")
    assert time.perf_counter() - began < 60  # one second, were the machine idle


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_request_is_noted_however_often_it_is_repeated(number):
    """A group and its leader both pass Ctrl-C on, terminals send SIGHUP twice."""
    before = signal.getsignal(number)
    with StopSignal() as requests:
        for _ in range(3):
            os.kill(os.getpid(), number)
        with pytest.raises(Interrupted):
            requests.check()
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_late_repetition_of_a_schedulers_request_is_no_abort(number, monkeypatch):
    monkeypatch.setattr(stop, "DUPLICATE_SECONDS", 0.0)
    with StopSignal() as requests:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert requests.requested


def test_a_second_ctrl_c_aborts(monkeypatch):
    clock = iter([10.0, 10.9, 11.1])
    # In this module alone: other threads read the clock, too.
    monkeypatch.setattr(stop, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    # A command in the background of a script starts with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with StopSignal():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_under_nohup_the_end_of_a_terminal_stops_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as requests:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not requests.requested
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
