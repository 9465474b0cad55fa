"""Peak memory of training steps or of forward passes of one framework, in a process of its own.

On a GPU or TPU it is the peak of the framework's allocator, without what the allocator reserves
only. On a CPU it is that of the process minus what it used after the imports.
"""

import os
import sys
from typing import Any

from benchmarks.accelerator.probe import torch_problem
from benchmarks.accelerator.record import Recorder
from benchmarks.accelerator.speed import settings_of
from benchmarks.memory import baseline_mib, peak_mib
from benchmarks.timing import Run, jax_runs, reason
from unet_jax.core.compilation import CompileCount

STEPS = 3
AGAIN = "BENCHMARK_PROGRAMS_ARE_CACHED"


def measure(settings: dict[str, Any], recorder: Recorder) -> None:
    """Records one row: the peak of one framework's task."""
    keys = ("width", "framework", "variant", "precision", "task")
    row: dict[str, Any] = {key: settings[key] for key in keys}
    if settings["framework"] == "torch" and (problem := torch_problem()):
        recorder.write([row | {"failed": problem}])
        return
    try:
        measured = torch_peak(settings) if settings["framework"] == "torch" else jax_peak(settings)
    except Exception as error:  # out of memory
        recorder.write([row | {"failed": reason(error)}])
        return
    recorder.write([row | measured])


def jax_peak(settings: dict[str, Any]) -> dict[str, float]:
    """Measures JAX's peak, `peak_mib`; restarts this process if it had to compile.

    XLA runs kernels while it compiles, to choose among them, and JAX cannot reset its peak. After
    the restart the programs are loaded from the compilation cache. `compiled` is the number of
    those that were not; if it is not 0, the peak may be that of the compilation.
    """
    before = baseline_mib()
    with CompileCount() as count:
        _repeat(jax_runs(settings_of(settings), settings["precision"], 1, [settings["task"]]))
    if count.compiled and AGAIN not in os.environ:
        os.environ[AGAIN] = "1"
        sys.stdout.flush()
        os.execv(sys.executable, sys.orig_argv)
    return {"peak_mib": peak_mib() - before, "compiled": count.compiled}


def torch_peak(settings: dict[str, Any]) -> dict[str, float]:
    """Measures PyTorch's peak, `peak_mib`; on a GPU after compilation and the first steps."""
    import torch

    from benchmarks.pytorch.runs import torch_runs
    from benchmarks.pytorch.variants import Variant

    before = baseline_mib()
    variant = Variant(
        settings["precision"] == "bfloat16",
        channels_last=True,
        compile=settings["compile"],
        fused=True,
    )
    runs = torch_runs(settings_of(settings), variant, [settings["task"]])
    _repeat(runs)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        _repeat(runs)
    return {"peak_mib": peak_mib() - before}


def _repeat(runs: dict[str, Run]) -> None:
    for run in runs.values():
        for _ in range(STEPS):
            run()
