"""What the comparison and a peer pass to each other as files, and the clock of a training.

It needs numpy and Pillow alone, because it is imported in the environments of the peers too.
"""

import argparse
import dataclasses
import json
import pathlib
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

IGNORED = 255  # label of pixels that count nowhere
TRAINING, HISTORY, OWN, RECIPE = "training.json", "metrics.jsonl", "own.json", "recipe.json"
SPLITS = {"train": "train", "validation": "val", "test": "test"}  # names of their folders


@dataclasses.dataclass(frozen=True)
class Case:
    """An image, its label and its name."""

    name: str
    image: np.ndarray  # uint8 [H, W, C]
    label: np.ndarray  # uint8 [H, W], class ids or `IGNORED`


def read_cases(images: pathlib.Path, split: str) -> Iterator[Case]:
    """Yields the images of a split in the order of their names; none if there is no such split.

    Args:
      images: the folder that `images.lay_out` wrote.
      split: train, validation or test.
    """
    folder = images / SPLITS[split]
    for path in sorted((folder / "images").glob("*.png")):
        image = np.asarray(Image.open(path))
        label = np.asarray(Image.open(folder / "masks" / path.name))
        yield Case(path.stem, image if image.ndim == 3 else image[..., None], label)


def write_probability(folder: pathlib.Path, name: str, probability: np.ndarray) -> None:
    """Writes the probability of class 1 of an image, float32 [H, W], as `launch.py` does."""
    path = folder / "probabilities" / f"{name}.tif"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.ascontiguousarray(probability, np.float32))
    picture.save(path, compression="tiff_adobe_deflate")


class Clock:
    """The wall time of a training, which began when its process was started.

    Args:
      started: that time, as of `time.time()`.
      seconds: what the training may take.
    """

    def __init__(self, started: float, seconds: float):
        self.started, self.seconds = started, seconds

    @property
    def share(self) -> float:
        """The share of the time that has passed, at most 1."""
        return min(1.0, (time.time() - self.started) / self.seconds)

    @property
    def is_over(self) -> bool:
        return self.share >= 1


class History:
    """Writes the learning curve of a training, in the format of a run's `metrics.jsonl`."""

    def __init__(self, folder: pathlib.Path):
        self._path = folder / HISTORY
        self._counts: dict[str, int] = {}

    def count(self, split: str) -> int:
        """Returns the number of records of a split."""
        return self._counts.get(split, 0)

    def add(self, step: int, epoch: float, split: str, **scalars: float) -> None:
        """Appends a record; `split` is train or validation."""
        line = {"step": step, "epoch": epoch, "split": split, **scalars, "time": time.time()}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._counts[split] = self.count(split) + 1


def write_training(folder: pathlib.Path, started: float, ended: float, **facts: Any) -> None:
    """Writes `training.json`, which says that a training is complete.

    Args:
      folder: the folder of this peer and seed.
      started: when the process was started, as of `time.time()`.
      ended: when the last update or validation ended.
      facts: `steps`, `parameters`, `versions`, and what else the page shows.
    """
    content = {"seconds": ended - started, "started": started, **facts}
    part = folder / f".{TRAINING}.part"
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(folder / TRAINING)


def exit_on_sigterm() -> None:
    """Makes SIGTERM exit as an error does, so that Python ends the processes that read images."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def parser(description: str | None) -> argparse.ArgumentParser:
    """Returns the arguments of a peer's command."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("stage", choices=("prepare", "train", "predict"))
    found.add_argument("--images", type=pathlib.Path, required=True, help="of `images.lay_out`")
    found.add_argument("--folder", type=pathlib.Path, required=True, help="to write")
    found.add_argument("--shared", type=pathlib.Path, help="folder of what all seeds share")
    found.add_argument("--seconds", type=float, help="wall time of the training")
    found.add_argument("--started", type=float, help="when the training began, time.time()")
    found.add_argument("--seed", type=int)
    found.add_argument("--split", choices=("validation", "test"))
    found.add_argument("--into", type=pathlib.Path, help="folder of the predictions")
    found.add_argument("--tta", action="store_true", help="test-time augmentation")
    found.add_argument("--share", type=float, default=0.0, help="see `nnunet_plan.prepare`")
    return found
