"""Measures the speed of augmentation: of each transform, and of the whole input pipeline.

python -m benchmarks.augment
python -m benchmarks.augment --config=configs/drive.py:native,small --config=configs/isbi.py:small

The first command measures each transform on synthetic images, in CPU time of one thread, and
compares cv2's interpolation with scipy's. The second reads, augments and batches real data as
training does, with 0, 1 and 2 reader processes. The tables give medians and ranges over rounds.
"""

import contextlib
import importlib
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from absl import flags
from ml_collections import ConfigDict
from scipy import ndimage

from configs import base
from unet_jax import data
from unet_jax.core.command_help import command_parser
from unet_jax.data import pipeline
from unet_jax.data.augment import transforms
from unet_jax.data.dataset import Example
from unet_jax.data.fit import FITS, Fit

ROUNDS = 7
IMAGES = 8  # images of each kind in a round
BATCHES = 12  # batches of the input pipeline in a round
SHAPES = ((584, 565, 3), (512, 512, 1))
COMBINED = ("elastic", "rotation", "scale", "brightness", "contrast")
WORKERS = (0, 1, 2)


def make_example(shape: tuple[int, int, int]) -> Example:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, shape, np.uint8)
    return {"image": image, "label": (image[..., 0] > 127).astype(np.uint8)}


def time_transform(names: tuple[str, ...], fit: str, size: int, example: Example) -> Callable:
    """Returns a function that augments `IMAGES` images and returns the images per second."""
    transform = transforms.build(names, base.get_config().augment, fit=Fit(fit, size))
    rng = np.random.default_rng(0)

    def run() -> float:
        start = time.thread_time()  # CPU time of this thread, independent of other processes
        for _ in range(IMAGES):
            transform(example, rng)
        return IMAGES / (time.thread_time() - start)

    return run


def open_config(argument: str) -> ConfigDict:
    """Opens `configs/NAME.py:VARIANT`."""
    path, _, variant = argument.partition(":")
    get_config = importlib.import_module(f"configs.{pathlib.Path(path).stem}").get_config
    return get_config(*filter(None, [variant]))


def time_pipeline(config: ConfigDict, names: tuple[str, ...], workers: int) -> list[float]:
    """Measures images per second in `ROUNDS` consecutive rounds of `BATCHES` batches."""
    dataset = data.open_dataset(config.data)
    batches = pipeline.train_batches(
        dataset.splits["train"],
        batch_size=config.batch_size,
        augment=transforms.build(names, config.augment, fit=Fit.of(config.data)),
        seed=0,
    )
    with contextlib.closing(iter(pipeline.read_ahead(batches, workers))) as ahead:
        for _ in range(4 * pipeline.THREADS):  # starts the readers and empties their buffers
            next(ahead)
        rates = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            for _ in range(BATCHES):
                next(ahead)
            rates.append(BATCHES * config.batch_size / (time.perf_counter() - start))
    return rates


def time_interleaved(runs: list[Callable[[], float]]) -> list[str]:
    """Measures each run's images per second, with the runs interleaved in each round."""
    rounds = [[run() for run in runs] for _ in range(1 + ROUNDS)]  # the first round warms up
    return [median_and_range(column) for column in zip(*rounds[1:], strict=True)]


def median_and_range(rates: Sequence[float]) -> str:
    return f"{statistics.median(rates):.0f} ({min(rates):.0f}-{max(rates):.0f})"


def compare_with_scipy(size: int) -> str:
    """Compares cv2.remap with scipy on one channel and equal positions, bicubically, in ms."""
    image = np.random.default_rng(0).random((size, size), np.float32)
    x = np.arange(size, dtype=np.float32)
    rows, columns = 0.9 * x[:, None] + 0.1 * x + 3.3, 0.9 * x - 0.1 * x[:, None] + 30.3
    runs = {
        "cv2.remap": lambda: cv2.remap(image, columns, rows, cv2.INTER_CUBIC),
        "map_coordinates": lambda: ndimage.map_coordinates(image, [rows, columns], order=3),
    }
    medians = {}
    for name, run in runs.items():
        times = []
        for _ in range(ROUNDS):
            start = time.thread_time()
            run()
            times.append(1e3 * (time.thread_time() - start))
        medians[name] = statistics.median(times)
    summary = ", ".join(f"{name} {ms:.2f} ms" for name, ms in medians.items())
    factor = medians["map_coordinates"] / medians["cv2.remap"]
    return f"One channel, {size}x{size}, cubic: {summary}: {factor:.0f} times"


def main() -> None:
    parser = command_parser("python -m benchmarks.augment", __doc__)
    parser.add_argument("--size", type=int, default=512, help="side of the window, pixels")
    parser.add_argument(
        "--config", action="append", default=[], help="configs/NAME.py[:VARIANT]; repeatable"
    )
    options = parser.parse_args()
    flags.FLAGS(["augment"])  # grain's reader processes need parsed absl flags
    if options.config:
        print(f"| images/s | {' | '.join(f'{n} workers' for n in WORKERS)} |")
        print(f"| --- |{' ---: |' * len(WORKERS)}")
        for argument in options.config:
            config = open_config(argument)
            for names in dict.fromkeys((tuple(config.data.augment), COMBINED)):
                cells = [median_and_range(time_pipeline(config, names, n)) for n in WORKERS]
                print(f"| {config.name}: {', '.join(names) or 'none'} | {' | '.join(cells)} |")
        return
    print(f"{compare_with_scipy(options.size)}; OpenCV {cv2.__version__}\n")
    kinds = [(shape, fit) for shape in SHAPES for fit in FITS]
    columns = [f"{'x'.join(map(str, shape))}, {fit}" for shape, fit in kinds]
    print(f"| images/s, one core, {options.size}x{options.size} | {' | '.join(columns)} |")
    print(f"| --- |{' ---: |' * len(kinds)}")
    examples = {shape: make_example(shape) for shape in SHAPES}
    for names in ((), *((name,) for name in transforms.TRANSFORMS), COMBINED):
        runs = [
            time_transform(names, fit, options.size, examples[shape])
            for shape, fit in kinds
            if shape[-1] == 3 or not {"hue", "saturation"} & {*names}
        ]
        print(f"| {', '.join(names) or 'none'} | {' | '.join(time_interleaved(runs))} |")


if __name__ == "__main__":
    main()
