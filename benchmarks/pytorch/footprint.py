"""Measures one framework in a new process: the time to its first step, and its peak memory.

python -m benchmarks.pytorch.footprint jax --config=configs/isbi.py:small,flips --out=jax.json
python -m benchmarks.pytorch.footprint torch --config=configs/isbi.py:small,flips --out=torch.json

It runs five training steps (or forward passes, with --task=forward) on one batch of the config's
size, without any compilation cache, on as many CPU devices as the launcher takes. Time
and memory count from the end of the imports, which are those of both frameworks. On a CPU the
memory is the process's minus what it used after the imports; on a GPU it is the peak of the
framework's allocator. `benchmarks.peaks` measures a network of any width, also with a cache.
"""

import json
import os
import pathlib
import tempfile
import time

from benchmarks.memory import baseline_mib, peak_mib
from benchmarks.pytorch.runs import torch_runs
from benchmarks.pytorch.throughput import settings_of
from benchmarks.pytorch.train_twin import choose_variant, open_config
from benchmarks.pytorch.variants import Variant
from benchmarks.timing import TASKS, Settings, device_counts, jax_runs
from unet_jax import models
from unet_jax.core.command_help import command_parser, describe_config
from unet_jax.core.compilation import release_memory_after_compiling
from unet_jax.core.files import write_json

STEPS = 5


def measure(framework: str, settings: Settings, variant: Variant, task: str) -> dict[str, float]:
    """Measures a framework in a task; call it once in a process.

    Args:
      framework: jax or torch.
      settings: the network, loss and batch.
      variant: how PyTorch runs.
      task: train or forward.

    Returns:
      `first_step_seconds`, with all that comes before the step, and `peak_memory_mib`.
    """
    before = baseline_mib()
    start = time.perf_counter()
    if framework == "jax":
        release_memory_after_compiling()  # as the launcher does
        dtype = models.build(**settings.model).dtype
        count = device_counts(settings.batch)[-1]
        run = jax_runs(settings, dtype.name, count, tasks=(task,))[task]
    else:
        run = torch_runs(settings, variant, tasks=(task,))[task]
    run()
    first = time.perf_counter() - start
    for _ in range(STEPS - 1):
        run()
    return {"first_step_seconds": first, "peak_memory_mib": peak_mib() - before}


def main() -> None:
    parser = command_parser("python -m benchmarks.pytorch.footprint", __doc__)
    parser.add_argument("framework", choices=("jax", "torch"), help="what is measured")
    parser.add_argument("--task", choices=TASKS, default="train", help="what a step is")
    parser.add_argument("--compile", default="default", help="mode of torch.compile; '' is eager")
    parser.add_argument("--out", type=pathlib.Path, help="JSON file to write")
    describe_config(parser)
    options, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        config, dataset = open_config(arguments)
        content = measure(
            options.framework,
            settings_of(config, dataset),
            choose_variant(config, options.compile),
            options.task,
        )
    print(json.dumps(content))
    if options.out:
        write_json(options.out, content)


if __name__ == "__main__":
    main()
