import subprocess
import sys

import numpy as np

from benchmarks.process_memory import process_memory_mib

MIB = 2**20


def test_the_peak_stays_when_memory_is_returned():
    before = process_memory_mib("VmRSS")
    held = np.ones(200 * MIB, np.uint8)
    assert process_memory_mib("VmRSS") > before + 150
    del held
    assert process_memory_mib("VmRSS") < before + 50
    assert process_memory_mib("VmHWM") > before + 150


def test_the_peak_is_not_that_of_the_process_that_started_this_one():
    held = np.ones(200 * MIB, np.uint8)
    code = "from benchmarks.process_memory import *; print(process_memory_mib('VmHWM'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1 < float(done.stdout) < 100 < held.size / MIB
