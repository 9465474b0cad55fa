"""A process that native code keeps busy ends when it is asked to."""

import signal
import subprocess
import sys
import time

import pytest
from launched import ROOT

BUSY = """
import hashlib, time
from unet_jax.stop import Interrupted, StopSignal, ended_by_signals
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
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out) == (code, f"{line}\n")
    assert time.perf_counter() - began < 30  # one second, were the machine idle
