"""Peak memory of this process: the accelerator's if one is used, else the host's."""

import pathlib
import resource
import sys

import jax


def resident_mib() -> float:
    """Returns this process's resident memory now."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def device_peak_mib() -> float | None:
    """Returns the peak of the frameworks' allocators on the device; None if neither counts it."""
    peaks = [(jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)]
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        peaks.append(torch.cuda.max_memory_allocated())
    return max(peaks) / 2**20 or None


def baseline_mib() -> float:
    """Returns what to subtract from a later `peak_mib`: 0 on a device, else what is in use now."""
    return resident_mib() if jax.default_backend() == "cpu" else 0.0


def peak_mib() -> float:
    """Returns the peak so far: the device's if it is counted, else this process's on the host."""
    return device_peak_mib() or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
