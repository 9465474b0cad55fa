"""Measures the time of each group of metrics on the masks of real data sets.

python -m benchmarks.metrics --data=/mnt/data --out=metrics.json
python -m benchmarks.metrics --config=configs/voc.py:small

Labels of the test split are resized to 512x512 pixels. The prediction is the label with a noisy
contour and some specks. Times are CPU times of one thread per image, medians and ranges of seven
rounds, of all metrics of a group of `eval.metrics` together, including what is counted for them.
"""

import dataclasses
import functools
import os
import pathlib
import statistics
import sys
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from scipy import ndimage

from benchmarks.augment import open_config
from benchmarks.reading import timed
from benchmarks.tables import table
from unet_jax import IGNORED, data, is_binary
from unet_jax.core.command_help import command_parser
from unet_jax.core.errors import UserError, print_error
from unet_jax.core.files import write_json
from unet_jax.data.dataset import Dataset
from unet_jax.data.resize import resize_label
from unet_jax.evaluation.image import count
from unet_jax.metrics.registry import (
    GROUPS,
    Metric,
    Pixels,
    Task,
    class_values,
    metrics_of,
)

CONFIGS = ("configs/isbi.py", "configs/drive.py", "configs/ph2.py:unet,bce", "configs/voc.py")
SIDE = 512  # pixels
ROUNDS = 7
THRESHOLD = 0.5


def make_pixels(label: np.ndarray, classes: int, rng: np.random.Generator) -> Pixels:
    """Makes a prediction with a noisy contour of a label, uint8 [H, W]."""
    present = [k for k in np.unique(label) if k != IGNORED]
    scores = np.full((classes, *label.shape), -np.inf, np.float32)
    for k in present or [0]:
        noisy = (label == k) + rng.normal(0, 0.7, label.shape)
        scores[k] = ndimage.gaussian_filter(noisy, 1.5)
    if is_binary(classes):
        probability = 1 / (1 + np.exp(8 * (THRESHOLD - scores[1])))
        return Pixels(label, (probability > THRESHOLD).astype(np.uint8), probability)
    shares = np.exp(8 * (scores - scores.max(0)))
    probability = (shares / shares.sum(0)).max(0)
    return Pixels(label, scores.argmax(0).astype(np.uint8), probability)


def compute(metrics: Sequence[Metric], pixels: Pixels, *, task: Task) -> None:
    """Computes metrics of an image, and nothing is known of its label."""
    pixels = dataclasses.replace(pixels, of_labels={})
    counts = count(pixels, task, loss=0.0) if any(metric.of_counts for metric in metrics) else None
    for metric in metrics:
        if metric.of_counts and counts:
            metric.of_counts(counts)
        elif metric.of_pixels:
            metric.of_pixels(pixels)
        elif metric.at_thresholds:
            metric.at_thresholds(pixels, sorted({THRESHOLD, *metric.thresholds}))
    class_values(pixels, task, metrics)


def measure(dataset: Dataset, images: int) -> dict[str, list[float]]:
    """Measures the groups on images of a data set's final split.

    Args:
      dataset: the data set.
      images: their number, at most.

    Returns:
      Milliseconds per image of each group in each round; empty if it has no metrics for the data
      set.
    """
    split, rng = dataset.splits[dataset.final_split], np.random.default_rng(0)
    labels = [resize_label(split.read(i)[1], SIDE, SIDE) for i in range(min(images, len(split)))]
    examples = [make_pixels(label, len(dataset.classes), rng) for label in labels]
    milliseconds: dict[str, list[float]] = {}
    for group in GROUPS:
        task = Task(len(dataset.classes), dataset.cells, groups=(group,))
        metrics = [metric for metric in metrics_of(task) if metric.group == group]
        run = functools.partial(compute, metrics, task=task)
        milliseconds[group] = time_rounds(run, examples) if metrics else []
    return milliseconds


def time_rounds(function: Callable[[Pixels], None], examples: Sequence[Pixels]) -> list[float]:
    """Returns the milliseconds per example of a function in each round."""
    rounds = []
    for _ in range(1 + ROUNDS):  # the first warms up
        seconds = [timed(function, example)[1] for example in examples]
        rounds.append(1e3 * statistics.mean(seconds))
    return rounds[1:]


def shown(rounds: Sequence[float]) -> str:
    """Formats the median and the range of the rounds' times."""
    if not rounds:
        return "–"
    return f"{statistics.median(rounds):.3g} ({min(rounds):.3g} to {max(rounds):.3g})"


def main(arguments: Sequence[str]) -> None:
    parser = command_parser("python -m benchmarks.metrics", __doc__)
    parser.add_argument(
        "--config", action="append", help="configs/NAME.py[:VARIANT]; repeatable; default: all"
    )
    parser.add_argument(
        "--data",
        type=pathlib.Path,
        default=os.environ.get("UNET_DATA", "data"),
        help="folder of the data sets, which is UNET_DATA or data/ by default",
    )
    parser.add_argument("--images", type=int, default=5, help="images of each data set")
    parser.add_argument("--out", type=pathlib.Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    rows = []
    for argument in options.config or CONFIGS:
        config = open_config(argument)
        config.data.root = str(options.data / pathlib.Path(config.data.root).name)
        dataset = data.open_dataset(config.data)
        times = measure(dataset, options.images)
        times["together"] = [sum(each) for each in zip(*filter(None, times.values()), strict=True)]
        rows.append({"data": config.data.name, "classes": len(dataset.classes), **times})
    print("Milliseconds per image of 512x512 pixels, all metrics of a group: median (range)\n")
    print(table([{k: shown(v) if isinstance(v, list) else v for k, v in r.items()} for r in rows]))
    if options.out:
        write_json(options.out, {"side": SIDE, "rounds": ROUNDS, "milliseconds": rows})


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(print_error(error))
