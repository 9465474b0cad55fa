"""Peak memory of this process: the accelerator's if one is used, else the host's."""

import sys
from typing import Any

import jax

from benchmarks.process_memory import process_memory_mib


def _torch_on_gpu() -> Any:
    """Returns the module torch if it is loaded and sees a GPU, else None."""
    torch = sys.modules.get("torch")
    return torch if torch and torch.cuda.is_available() else None


def baseline_mib() -> float:
    """Returns what to subtract from a later `peak_mib`: 0 on a device, else what is in use now."""
    on_host = jax.default_backend() == "cpu" and not _torch_on_gpu()
    return process_memory_mib("VmRSS") if on_host else 0.0


def peak_mib() -> float:
    """Returns the peak so far: of the frameworks' allocators on the device, else of the process."""
    peaks = [(jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)]
    if torch := _torch_on_gpu():
        peaks.append(torch.cuda.max_memory_allocated())
    if max(peaks):
        return max(peaks) / 2**20
    return process_memory_mib("VmHWM")
