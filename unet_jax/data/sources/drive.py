"""DRIVE: retinal photographs with manually traced blood vessels.

Staal et al., 2004, https://doi.org/10.1109/TMI.2004.825627
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Iterator, Sequence

import numpy as np
from ml_collections import ConfigDict

from unet_jax import IGNORED
from unet_jax.data.dataset import PARTS, Dataset, Split, random_split
from unet_jax.data.files.images import read_image
from unet_jax.data.files.pairs import (
    Pair,
    binary_label,
    check_binary,
    hash_pairs,
    list_files,
    match_files,
    scan_pairs,
)
from unet_jax.data.sources.registry import register

SOURCE = (
    "download DRIVE from https://drive.grand-challenge.org (after registration), unpack it, and "
    "name the folder that contains training/ and test/ with --config.data.root=..."
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A photograph, paired with each of its masks."""

    manual: Pair
    field: Pair  # the field of view; the camera records nothing outside it
    second: Pair | None  # the second observer's mask


@register("drive")
def open_drive(data: ConfigDict) -> Dataset:
    """Opens DRIVE: training and validation from the folder `training`, test from `test`.

    Pixels outside the field of view are ignored. If a folder has the second observer's masks, they
    are the `observer` of its splits.

    Args:
      data: the section `data` of the config.

    Returns:
      The data set, with the classes `background` and `vessel`.

    Raises:
      UserError: files are missing, damaged or do not fit each other.
    """
    root = pathlib.Path(data.root)
    training, test = _scan(root / "training", "training"), _scan(root / "test", "test")
    names = [case.manual.name for case in training]
    where = str(root / "training")
    split = random_split(names, data.split, data.split_seed, where, fold=data.fold, parts=PARTS[:2])
    parts = {part: [training[i] for i in indices] for part, indices in split.items()}
    parts["test"] = test
    return Dataset(
        splits={part: _split(cases) for part, cases in parts.items()},
        classes=("background", "vessel"),
        channels=3,
        sha256={part: hash_pairs(_pairs(cases)) for part, cases in parts.items() if cases},
        notes=("pixels outside the field of view are ignored",),
    )


def _scan(folder: pathlib.Path, kind: str) -> list[Case]:
    """Returns the cases of a folder, sorted by number."""
    images = _list(folder / "images", f"_{kind}.tif")
    manual = _scan_masks(images, folder / "1st_manual", "_manual1.gif", "255 = vessel")
    field = _scan_masks(images, folder / "mask", f"_{kind}_mask.gif", "255 = field of view")
    second: list = [None] * len(manual)
    if (folder / "2nd_manual").is_dir():
        second = _scan_masks(images, folder / "2nd_manual", "_manual2.gif", "1 = vessel")
    return [Case(*pairs) for pairs in zip(manual, field, second, strict=True)]


def _scan_masks(
    images: dict[str, pathlib.Path], folder: pathlib.Path, ending: str, meaning: str
) -> list[Pair]:
    pairs = scan_pairs(match_files(images, _list(folder, ending)))
    check_binary((pair.mask for pair in pairs), meaning)
    return [dataclasses.replace(pair, name=pair.image.path.stem) for pair in pairs]


def _list(folder: pathlib.Path, ending: str) -> dict[str, pathlib.Path]:
    """Lists the files of a folder by number."""
    return list_files(folder, rf"(\d+){re.escape(ending)}", f"files NN{ending}", SOURCE)


def _split(cases: Sequence[Case]) -> Split:
    second_masks = [case.second for case in cases if case.second]
    return Split(
        names=tuple(case.manual.name for case in cases),
        sizes=tuple(case.manual.image.size for case in cases),
        read=functools.partial(_read, cases),
        observer=functools.partial(_observe, second_masks) if second_masks else None,
    )


def _pairs(cases: Sequence[Case]) -> Iterator[Pair]:
    for case in cases:
        yield from filter(None, (case.manual, case.field, case.second))


def _read(cases: Sequence[Case], index: int) -> tuple[np.ndarray, np.ndarray]:
    case, image = cases[index], cases[index].manual.image
    label = binary_label(case.manual.read_mask())
    label[case.field.read_mask() == 0] = IGNORED
    return read_image(image.path, 3, image.stamp), label


def _observe(masks: Sequence[Pair], index: int) -> np.ndarray:
    return binary_label(masks[index].read_mask())
