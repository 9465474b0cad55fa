"""Measures how the cost of a run grows with its work, to find super-linear growth.

python -m benchmarks.scaling --out=scaling.json
python -m benchmarks.scaling --axis=size --axis=width

One axis is varied at a time. `size`, `batch`, `width` and `depth` change the training step of a
small U-Net; the work is the floating-point operations of the forward pass. `devices` gives each
device the same number of images (XLA_FLAGS=--xla_force_host_platform_device_count=2 splits a CPU
into two devices). `images` is the number of slices that are opened, evaluated and reported. The
values of an axis are interleaved. Growth is the exponent p of cost = work^p from the row above: 1
is linear, and values above 1.2 are marked.
"""

import functools
import math
import pathlib
import statistics
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import tifffile
from ml_collections import ConfigDict

from benchmarks.steps import training_step
from benchmarks.tables import table
from benchmarks.timing import environment, measure
from configs import base
from unet_jax import data, models
from unet_jax.core.command_help import command_parser
from unet_jax.core.files import write_json
from unet_jax.core.intensities import Intensities
from unet_jax.data.sources.phantom import FILE_NAMES, generate
from unet_jax.distributed import devices as parallel
from unet_jax.evaluation.evaluate import write_report
from unet_jax.evaluation.evaluator import Evaluator
from unet_jax.inference.ensemble import single_network

VALUES = {
    "size": (64, 128, 256, 512),
    "batch": (1, 2, 4, 8, 16),
    "width": (8, 16, 32, 64),
    "depth": (1, 2, 3, 4, 5),
    "devices": (1, 2, 4, 8),
    "images": (16, 32, 64, 128, 256),
}
PLAIN = {"size": 128, "batch": 4, "width": 16, "depth": 4}  # values of the axes not varied
SLICE = 128  # side of the slices of the axis `images`, pixels
STEEP = 1.2  # growth above this is marked


def make_config(axis: str = "", value: int = 0) -> ConfigDict:
    """Returns the config of a small experiment, with one axis changed."""
    config, chosen = base.get_config(), PLAIN | {axis: value}
    config.data.size, config.batch_size = chosen["size"], chosen["batch"]
    config.model.width, config.model.depth = chosen["width"], chosen["depth"]
    if axis == "devices":
        config.batch_size *= value
    return config


def step_costs(axis: str, value: int) -> tuple[dict[str, float], Callable[[], None]]:
    """Returns work, memory and compilation time of a training step, and the step."""
    devices = jax.local_devices()[: value if axis == "devices" else 1]
    step = training_step(make_config(axis, value), 1, devices)
    assert step.gflop is not None  # CPUs and GPUs report it
    costs = {
        "work": step.gflop,
        "temporary_mib": step.compiled.memory_analysis().temp_size_in_bytes / 2**20,
        "compile_seconds": step.seconds,
    }
    return costs, step.run


def evaluation_costs(
    images: int, folder: pathlib.Path
) -> tuple[dict[str, float], Callable[[], None]]:
    """Returns the number of images and a function that opens, evaluates and reports them."""
    folder.mkdir()
    for name, stack in zip(FILE_NAMES, generate(images + 1, SLICE), strict=True):
        tifffile.imwrite(folder / name, stack, photometric="minisblack")
    config = make_config()
    config.data.root, config.data.split, config.model.width = str(folder), (1, 0, images), 4
    model, mesh = models.build(**config.model), parallel.local_mesh(jax.local_devices()[:1])
    variables = parallel.replicate(models.init(model, 1, config.seed), mesh)

    open_dataset = functools.partial(data.open_dataset, config.data)
    evaluator = Evaluator(
        config, open_dataset(), single_network(model, Intensities.of(config.data)), mesh
    )

    def evaluate() -> None:
        scores = list(evaluator.scores(variables, open_dataset().splits["test"]))
        write_report(
            evaluator,
            variables,
            split="test",
            checkpoint="last",
            step=0,
            selected=False,
            folder=folder,
            scores=scores,
            chosen={},
        )

    return {"work": images}, evaluate


def growth(work: float, cost: float, work_above: float, cost_above: float) -> float:
    """Returns the exponent p of cost = work^p between two measurements."""
    return math.log(cost / cost_above) / math.log(work / work_above)


def measure_axis(axis: str, values: list[int], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Measures an axis: a row for each value with medians, ranges and growth from the row above."""
    jax.clear_caches()  # compiled programs use memory maps, whose number per process is limited
    costs, runs = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for value in values:
            if axis == "images":
                prepared = evaluation_costs(value, pathlib.Path(folder, str(value)))
            else:
                prepared = step_costs(axis, value)
            costs[value], runs[str(value)] = prepared
            runs[str(value)]()
        found = measure(runs, rounds, seconds)
    return list(_rows(axis, costs, found))


def _rows(
    axis: str, costs: dict[int, dict[str, float]], found: dict[str, list[float]]
) -> Iterator[dict[str, Any]]:
    above: dict[str, Any] = {}
    for value, known in costs.items():
        ms = found[str(value)]
        row: dict[str, Any] = {"axis": axis, "value": value, **known}
        row |= {"ms": statistics.median(ms), "low": min(ms), "high": max(ms)}
        for cost in ("ms", "temporary_mib", "compile_seconds"):
            if above and cost in row:
                row[f"growth of {cost}"] = growth(
                    row["work"], row[cost], above["work"], above[cost]
                )
        above = row
        yield row


def format_axis(axis: str, rows: list[dict[str, Any]]) -> str:
    """Formats the rows of an axis as a Markdown table."""
    unit = "images" if axis == "images" else "GFLOP"
    lines = []
    for row in rows:
        line = {axis: row["value"], unit: row["work"]}
        line["ms (range)"] = f"{row['ms']:.4g} ({row['low']:.4g}-{row['high']:.4g})"
        for cost, title in (("temporary_mib", "MiB"), ("compile_seconds", "s to compile")):
            if cost in row:
                line[title] = row[cost]
        for cost, title in (("ms", "of time"), ("temporary_mib", "of memory")):
            if cost in rows[0]:
                p = row.get(f"growth of {cost}")
                mark = " super-linear" if p is not None and p > STEEP else ""
                line[f"growth {title}"] = "" if p is None else f"{p:.2f}{mark}"
        lines.append(line)
    return table(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = command_parser("python -m benchmarks.scaling", __doc__)
    parser.add_argument(
        "--axis",
        metavar="NAME",
        choices=VALUES,
        action="append",
        help="what is varied; repeatable; default: all",
    )
    parser.add_argument("--most", type=int, default=10**9, help="largest value of an axis to use")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the timing")
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each value")
    parser.add_argument("--out", type=pathlib.Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    rows = []
    for axis in options.axis or VALUES:
        most = jax.local_device_count() if axis == "devices" else options.most
        values = [value for value in VALUES[axis] if value <= most]
        rows += (found := measure_axis(axis, values, options.rounds, options.seconds))
        print(format_axis(axis, found), flush=True)
        print()
    if options.out:
        described = {k: v for k, v in vars(options).items() if k != "out"}
        write_json(options.out, {"settings": described, **environment(), "rows": rows})


if __name__ == "__main__":
    main()
