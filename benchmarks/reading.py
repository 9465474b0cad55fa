"""Measures how fast data sets are opened, and their training images read, augmented and batched.

python -m benchmarks.reading --config=configs/ph2.py:unet,bce,small --config=configs/voc.py:small
python -m benchmarks.reading --data=/mnt/data --config=configs/isbi.py:small

A data set is opened twice, with an empty index of checked files and with the index that the first
opening wrote; the user's own index is not used. Its training images are then read one after the
other in one thread, as often as `--images` states. Times per image are CPU times of that thread,
medians over rounds; the files are in the page cache. "with checks" reads as if every file had
changed since it was checked. The last column names the stage that takes longest.
"""

import contextlib
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from benchmarks.augment import open_config
from unet_jax import data
from unet_jax.core.command_help import command_parser
from unet_jax.data.augment import transforms
from unet_jax.data.dataset import Dataset, Example, Split
from unet_jax.data.files import images
from unet_jax.data.fit import Fit
from unet_jax.data.resize import resize
from unet_jax.runs.experiment import resolve_intensities

ROUNDS = 5
COLUMNS = (
    "first opening, s",
    "second opening, s",
    "reading with checks, images/s",
    "reading, images/s",
    "reading and augmenting, images/s",
    "time per image, ms",
    "longest stage",
)


@contextlib.contextmanager
def empty_cache() -> Iterator[None]:
    """Context manager in which the user's cache folder is a temporary one."""
    before = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        try:
            yield
        finally:
            del os.environ["XDG_CACHE_HOME"]
            if before is not None:
                os.environ["XDG_CACHE_HOME"] = before


def time_openings(config: ConfigDict) -> tuple[Dataset, list[float]]:
    """Opens a data set twice; returns it, and the seconds of each opening."""
    seconds = []
    with empty_cache(), contextlib.redirect_stdout(sys.stderr):  # progress is no part of the table
        for _ in range(2):
            start = time.perf_counter()
            dataset = data.open_dataset(config.data)
            seconds.append(time.perf_counter() - start)
    return dataset, seconds


def timed(function: Callable, *arguments: Any) -> tuple[Any, float]:
    """Returns what a call returns, and its CPU time in this thread in seconds."""
    start = time.thread_time()
    result = function(*arguments)
    return result, time.thread_time() - start


@contextlib.contextmanager
def all_checks() -> Iterator[None]:
    """Context manager in which every file counts as changed since it was checked."""
    stamp_of = images.stamp_of
    images.stamp_of = lambda path: None
    try:
        yield
    finally:
        images.stamp_of = stamp_of


def time_round(
    split: Split, config: ConfigDict, indices: np.ndarray, rng: np.random.Generator
) -> dict[str, float]:
    """Reads, augments and batches images; returns the CPU seconds per image of each stage."""
    fit = Fit.of(config.data)
    augment = transforms.of(config)
    seconds = dict.fromkeys(("check", "decode", "resize", "augment", "batch"), 0.0)
    augmented: list[Example] = []
    for index in indices:
        with all_checks():
            _, checked = timed(split.__getitem__, int(index))
        example, read = timed(split.__getitem__, int(index))
        stages = {"check": checked - read, "decode": read}
        if fit.resizes:  # augmentation then finds an image of the right size
            example, stages["resize"] = timed(resize, example, fit.size, fit.size)
        example, stages["augment"] = timed(augment, example, rng)
        augmented.append(example)
        for stage, value in stages.items():
            seconds[stage] += value / len(indices)
    for start in range(0, len(augmented), config.batch_size):
        batch = augmented[start : start + config.batch_size]
        _, stacked = timed(
            lambda batch=batch: {k: np.stack([e[k] for e in batch]) for k in batch[0]}
        )
        seconds["batch"] += stacked / len(indices)
    return seconds


def measure(config: ConfigDict, count: int) -> list[str]:
    """Returns the cells of a config's row.

    Args:
      config: the experiment.
      count: number of images to read in a round.
    """
    dataset, openings = time_openings(config)
    config, _ = resolve_intensities(config, dataset)
    split, rng = dataset.splits["train"], np.random.default_rng(0)
    indices = np.resize(rng.permutation(len(split)), count)
    rounds = [time_round(split, config, indices, rng) for _ in range(1 + ROUNDS)]  # 1 warms up
    seconds = {stage: statistics.median(r[stage] for r in rounds[1:]) for stage in rounds[0]}
    check = seconds.pop("check")
    longest = max(seconds, key=seconds.__getitem__)
    return [
        f"{config.name}, {sum(map(len, dataset.splits.values()))} images",
        *(f"{value:.2f}" for value in openings),
        f"{1 / (check + seconds['decode']):.0f}",
        f"{1 / seconds['decode']:.0f}",
        f"{1 / sum(seconds.values()):.0f}",
        ", ".join(f"{stage} {1e3 * value:.2f}" for stage, value in seconds.items() if value),
        f"{longest} ({seconds[longest] / sum(seconds.values()):.0%})",
    ]


def main() -> None:
    parser = command_parser("python -m benchmarks.reading", __doc__)
    parser.add_argument(
        "--config", action="append", required=True, help="configs/NAME.py[:VARIANT]; repeatable"
    )
    parser.add_argument("--data", type=pathlib.Path, help="folder to use instead of data/")
    parser.add_argument("--images", type=int, default=40, help="images in a round")
    options = parser.parse_args()
    print(f"| | {' | '.join(COLUMNS)} |\n| --- |{' ---: |' * len(COLUMNS)}", flush=True)
    for argument in options.config:
        config = open_config(argument)
        if options.data:
            config.data.root = str(options.data / pathlib.Path(config.data.root).name)
        print(f"| {' | '.join(measure(config, options.images))} |", flush=True)


if __name__ == "__main__":
    main()
