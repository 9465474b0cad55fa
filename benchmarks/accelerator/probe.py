"""Describes the device, and whether PyTorch can use it as well."""

from typing import Any

import jax

from benchmarks.accelerator.record import Recorder
from benchmarks.timing import environment, reason


def measure(_: dict[str, Any], recorder: Recorder) -> None:
    """Records the platform, the device and the versions."""
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    recorder.write(
        [],
        platform=jax.default_backend(),
        devices=jax.local_device_count(),
        device_memory_gib=limit and limit / 2**30,
        torch=torch_problem() or "PyTorch can use the device",
        **environment(),
    )


def torch_problem() -> str | None:
    """Returns why PyTorch cannot be compared with JAX on JAX's device; None if it can."""
    try:
        import torch
    except ModuleNotFoundError:
        return "PyTorch is not installed"
    except (ImportError, OSError) as error:  # it lacks a library of CUDA, for example
        return f"PyTorch cannot be imported: {reason(error)}"

    platform = jax.default_backend()
    if platform == "tpu":
        return f"PyTorch {torch.__version__} has no TPU support"
    if platform == "gpu" and not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} has no GPU support, or finds no GPU"
    if platform == "cpu" and torch.cuda.is_available():
        return "PyTorch would use the GPU, which JAX does not find"
    return None
