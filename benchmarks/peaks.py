"""Measures the peak memory of training steps or forward passes beside PyTorch's.

python -m benchmarks.peaks --width=16 --batch=2 --size=256 --out=peaks.json
python -m benchmarks.peaks --width=16 --batch=1 --size=2048 --task=forward --out=peaks.json

Each measurement is five steps in a process of its own, as in `benchmarks.pytorch.footprint`. JAX
runs twice with the same compilation cache, which is empty at first and has all programs in the
second run. PyTorch runs compiled, with an empty cache, and eagerly.

The peak is the memory of the process above what it used after the imports, and on a GPU the peak of
the framework's allocator. PyTorch compiles in processes of its own, which are not counted.
"""

import concurrent.futures
import multiprocessing
import os
import pathlib
import statistics
import tempfile
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # as benchmarks.speed

from benchmarks.pytorch.footprint import measure
from benchmarks.pytorch.variants import Variant
from benchmarks.tables import table
from benchmarks.timing import LOSS, MODEL, TASKS, Settings, environment
from unet_jax import models
from unet_jax.core.command_help import command_parser
from unet_jax.core.compilation import keep_compiled
from unet_jax.core.files import write_json
from unet_jax.distributed import devices

# A start: its name, the framework, and the mode of torch.compile.
STARTS = (
    ("JAX, first start", "jax", ""),
    ("JAX, programs in the cache", "jax", ""),
    ("PyTorch, compiled", "torch", "default"),
    ("PyTorch, eager", "torch", ""),
)
CACHE = "JAX_COMPILATION_CACHE_DIR"  # would name another cache than the temporary one


def measure_start(framework: str, settings: Settings, mode: str, task: str) -> dict[str, float]:
    """Measures one start; see `footprint.measure`. Call it once in a process."""
    devices.use_cores(settings.batch)
    if framework == "jax":
        keep_compiled()  # as the launcher does
    variant = Variant(channels_last=True, compile=mode, fused=True)
    return measure(framework, settings, variant, task)


def measure_all(settings: Settings, task: str, repeats: int) -> list[dict[str, Any]]:
    """Returns a row for each of `STARTS` with the results of its repeats, MiB and s."""
    rows: list[dict[str, Any]] = [{"start": name, "runs": []} for name, *_ in STARTS]
    spawn = multiprocessing.get_context("spawn")
    os.environ.pop(CACHE, None)
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["XDG_CACHE_HOME"] = os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
            for row, (name, framework, mode) in zip(rows, STARTS, strict=True):
                with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
                    found = pool.submit(measure_start, framework, settings, mode, task).result()
                print(f"{name}: {found['peak_memory_mib']:.0f} MiB", flush=True)
                row["runs"].append(found)
    return rows


def summary(row: dict[str, Any]) -> dict[str, str]:
    """Returns the columns of a row: medians, and ranges in brackets."""

    def cell(key: str) -> str:
        values = [run[key] for run in row["runs"]]
        return f"{statistics.median(values):.0f} ({min(values):.0f}-{max(values):.0f})"

    return {
        "start": row["start"],
        "peak, MiB": cell("peak_memory_mib"),
        "first step, s": cell("first_step_seconds"),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = command_parser("python -m benchmarks.peaks", __doc__)
    parser.add_argument(
        "--model", metavar="NAME", default="unet", choices=models.NETWORKS, help="network"
    )
    parser.add_argument("--width", type=int, default=64, help="channels of the first level")
    parser.add_argument("--depth", type=int, default=4, help="number of poolings")
    parser.add_argument("--batch", type=int, default=2, help="images per step")
    parser.add_argument("--size", type=int, default=256, help="side of the images, pixels")
    parser.add_argument("--task", choices=TASKS, default="train", help="what a step is")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of each measurement")
    parser.add_argument("--out", type=pathlib.Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    model = {"name": options.model, "width": options.width, "depth": options.depth, **MODEL}
    settings = Settings(model, LOSS, channels=1, batch=options.batch, size=options.size)
    rows = measure_all(settings, options.task, options.repeats)
    print(table([summary(row) for row in rows]))
    if options.out:
        described = {k: v for k, v in vars(options).items() if k != "out"}
        write_json(options.out, {"settings": described, **environment(), "rows": rows})


if __name__ == "__main__":
    main()
