"""What a run costs as its work grows, one thing at a time: does any cost grow faster than the work?

python -m benchmarks.scaling --out=scaling.json
python -m benchmarks.scaling --axis=size --axis=width

`size`, `batch`, `width`, `depth` change the training step of a small U-Net, whose work are the
forward pass's floating-point operations; `devices` gives each device as many images (XLA_FLAGS=
--xla_force_host_platform_device_count=2 divides a CPU); `images` is the number of slices that are
opened, evaluated and reported on. Those of an axis are timed in turns. Growth is the exponent p of
cost = work^p from the row above: 1 is linear, and what is above 1.2 is marked.
"""

import argparse
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

from benchmarks.parity import table
from benchmarks.speed import environment, measure
from benchmarks.steps import training_step
from configs import base
from unet_jax import data, models, parallel
from unet_jax.data.phantom import FILE_NAMES, generate
from unet_jax.ensemble import one
from unet_jax.evaluate import Evaluator, write_report
from unet_jax.files import write_json

VALUES = {
    "size": (64, 128, 256, 512),
    "batch": (1, 2, 4, 8, 16),
    "width": (8, 16, 32, 64),
    "depth": (1, 2, 3, 4, 5),
    "devices": (1, 2, 4, 8),
    "images": (16, 32, 64, 128, 256),
}
PLAIN = {"size": 128, "batch": 4, "width": 16, "depth": 4}  # where the axis is another
SLICE = 128  # side of the slices that `images` counts, pixels
STEEP = 1.2  # growth that is marked


def make_config(axis: str = "", value: int = 0) -> ConfigDict:
    """A small experiment with one thing changed."""
    config, chosen = base.get_config(), PLAIN | {axis: value}
    config.data.size, config.batch_size = chosen["size"], chosen["batch"]
    config.model.width, config.model.depth = chosen["width"], chosen["depth"]
    if axis == "devices":
        config.batch_size *= value
    return config


def step_costs(axis: str, value: int) -> tuple[dict[str, float], Callable[[], None]]:
    """Work, memory and compilation of a training step, and the step."""
    devices = jax.local_devices()[: value if axis == "devices" else 1]
    step = training_step(make_config(axis, value), 1, devices)
    assert step.gflop is not None  # CPUs and GPUs say it
    costs = {
        "work": step.gflop,
        "temporary_mib": step.compiled.memory_analysis().temp_size_in_bytes / 2**20,
        "compile_seconds": step.seconds,
    }
    return costs, step.run


def evaluation_costs(
    images: int, folder: pathlib.Path
) -> tuple[dict[str, float], Callable[[], None]]:
    """The number of images, and their whole evaluation, from the stack's file to the report."""
    folder.mkdir()
    for name, stack in zip(FILE_NAMES, generate(images + 1, SLICE), strict=True):
        tifffile.imwrite(folder / name, stack, photometric="minisblack")
    config = make_config()
    config.data.root, config.data.split, config.model.width = str(folder), (1, 0, images), 4
    model, mesh = models.build(**config.model), parallel.local_mesh(jax.local_devices()[:1])
    variables = parallel.replicate(models.init(model, 1, config.seed), mesh)

    open_dataset = functools.partial(data.DATASETS["isbi"], config.data)
    evaluator = Evaluator(config, open_dataset(), one(model, config.data.input_range), mesh)

    def evaluate() -> None:
        scores = list(evaluator.scores(variables, open_dataset().splits["test"]))
        write_report(
            evaluator,
            variables,
            split="test",
            checkpoint="last",
            step=0,
            folder=folder,
            scores=scores,
            chosen={},
        )

    return {"work": images}, evaluate


def growth(work: float, cost: float, work_above: float, cost_above: float) -> float:
    """The exponent p of cost = work^p between two measurements."""
    return math.log(cost / cost_above) / math.log(work / work_above)


def measure_axis(axis: str, values: list[int], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """A row for each value: medians, ranges, and the growth of each cost from the row above."""
    jax.clear_caches()  # each program takes some of the memory maps that a process may have
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


def said(axis: str, rows: list[dict[str, Any]]) -> str:
    """The rows of an axis as a table in Markdown."""
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
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--axis", choices=VALUES, action="append", help="default: all")
    parser.add_argument("--most", type=int, default=10**9, help="largest value of an axis")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each value")
    parser.add_argument("--out", type=pathlib.Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    rows = []
    for axis in options.axis or VALUES:
        most = jax.local_device_count() if axis == "devices" else options.most
        values = [value for value in VALUES[axis] if value <= most]
        rows += (found := measure_axis(axis, values, options.rounds, options.seconds))
        print(said(axis, found), flush=True)
        print()
    if options.out:
        described = {k: v for k, v in vars(options).items() if k != "out"}
        write_json(options.out, {"settings": described, **environment(), "rows": rows})


if __name__ == "__main__":
    main()
