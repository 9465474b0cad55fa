"""Memory of this process, as Linux counts it."""

import pathlib
import re


def process_memory_mib(field: str) -> float:
    """Returns a field of /proc/self/status: VmRSS (resident now), VmHWM (its peak), VmSize.

    VmHWM is the peak of this program. `ru_maxrss` is not: it is at least what the process that
    started this one had in memory then.
    """
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.findall(rf"{field}:\s+(\d+) kB", status)[0]) / 1024
