"""Writes the images of an experiment as a plain folder, from which the peers read them."""

import pathlib
import shutil

import numpy as np
from PIL import Image

from benchmarks.peers.exchange import IGNORED, SPLITS
from unet_jax.core.errors import UserError
from unet_jax.data.dataset import Dataset


def lay_out(dataset: Dataset, folder: pathlib.Path) -> None:
    """Writes `train/`, `val/` and `test/`, each with `images/` and `masks/`, and `classes.txt`.

    Images keep their size and pixels. The values of the masks are 0, 1 and, for ignored pixels,
    255. A complete folder is left as it is.

    Args:
      dataset: the data set.
      folder: the folder to write.

    Raises:
      UserError: the task is none that all peers can train.
    """
    check(dataset)
    if folder.exists():
        return
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    ignored = False
    for split, name in SPLITS.items():
        images = dataset.splits[split]
        if not len(images):
            continue
        for kind in ("images", "masks"):
            (part / name / kind).mkdir(parents=True)
        for index, stem in enumerate(images.names):
            image, label = images.read(index)
            if image.dtype != np.uint8:
                raise UserError(f"{stem}: is {image.dtype}; the peers read images of 8 bits")
            picture = image[..., 0] if image.shape[2] == 1 else image
            Image.fromarray(picture).save(part / name / "images" / f"{stem}.png")
            Image.fromarray(label).save(part / name / "masks" / f"{stem}.png")
            ignored |= bool((label == IGNORED).any())
    lines = [f"{value} {name}" for value, name in enumerate(dataset.classes)]
    lines += [f"{IGNORED} ignored"] if ignored else []
    (part / "classes.txt").write_text("\n".join(lines) + "\n")
    part.rename(folder)


def check(dataset: Dataset) -> None:
    """Raises a `UserError` if the peers cannot train on a data set."""
    if len(dataset.classes) != 2:
        raise UserError(
            f"{len(dataset.classes)} classes: the peers are compared on two; choose another config"
        )
    if dataset.channels not in (1, 3):
        raise UserError(f"{dataset.channels} channels: the peers read grey and RGB images")
    if not len(dataset.splits["test"]):
        raise UserError("no test images: the peers are compared on them; set data.split")
    for split in dataset.splits.values():
        if bad := [name for name in split.names if pathlib.PurePath(name).name != name]:
            raise UserError(f"{bad[0]}: the name of an image contains a folder; rename it")
