"""ISBI 2012: segmentation of neuronal structures in electron-microscopy stacks.

Thirty 512x512 slices of Drosophila nerve cord and their labels, 0 = membrane and 255 = cell
(Arganda-Carreras et al., 2015, https://doi.org/10.3389/fnana.2015.00142).
"""

import functools
import hashlib
import pathlib

import numpy as np
from ml_collections import ConfigDict

from unet_jax.data import phantom
from unet_jax.data.dataset import Dataset, Split, random_split
from unet_jax.data.tiff import read_tiff
from unet_jax.errors import UserError

VOLUME, LABELS = "train-volume.tif", "train-labels.tif"
SOURCE = "https://downloads.imagej.net/ISBI-2012-challenge.zip"


def open_isbi(data: ConfigDict) -> Dataset:
    """The training volume, dealt into train, validation and test slices by `data.split`.

    Class 0 is `membrane`, class 1 `cell`. Raises a `UserError` for stacks that are missing,
    broken, or do not fit each other.
    """
    root = pathlib.Path(data.root)
    missing = [name for name in (VOLUME, LABELS) if not (root / name).is_file()]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} not found in the folder {root}; get the stacks from "
            f"{SOURCE} and put them there, name their folder with --config.data.root=..., or "
            f"try --config=configs/demo.py, which needs no download"
        )
    volume = _read_stack(root / VOLUME)
    labels = _read_stack(root / LABELS)
    if volume.shape != labels.shape:
        raise UserError(
            f"{root / LABELS}: {_shape(labels)}, but {VOLUME} has {_shape(volume)}; "
            f"each slice needs a label of its own size"
        )
    values = np.unique(labels)
    if values.tolist() not in ([0, 255], [0, 1]):
        raise UserError(
            f"{root / LABELS}: label values {_shorten(values)}; expected two, "
            f"0 = membrane and 255 (or 1) = cell"
        )
    names = [f"slice-{i:02d}" for i in range(len(volume))]
    parts = random_split(names, data.split, data.split_seed, where=str(root / VOLUME))
    classes = (labels > 0).astype(np.uint8)
    return Dataset(
        splits={part: _split(volume, classes, names, rows) for part, rows in parts.items()},
        classes=("membrane", "cell"),
        channels=1,
        sha256={
            VOLUME: hashlib.sha256(volume.tobytes()).hexdigest(),
            LABELS: hashlib.sha256(labels.tobytes()).hexdigest(),
        },
    )


def open_phantom(data: ConfigDict) -> Dataset:
    """Made stacks of the same kind (`phantom.py`), written to `data.root` the first time."""
    phantom.write(pathlib.Path(data.root))
    return open_isbi(data)


def _read_stack(path: pathlib.Path) -> np.ndarray:
    """An integer stack [slices, H, W]."""
    stack = read_tiff(path)
    if stack.ndim != 3 or stack.size == 0:
        raise UserError(
            f"{path}: an array of shape {stack.shape}; expected slices of one channel, "
            f"[slices, height, width]"
        )
    if stack.dtype not in (np.uint8, np.uint16):
        raise UserError(f"{path}: pixels of type {stack.dtype}; expected uint8 or uint16")
    return stack


def _split(volume: np.ndarray, labels: np.ndarray, names: list[str], rows: list[int]) -> Split:
    return Split(
        names=tuple(names[row] for row in rows),
        sizes=(volume.shape[1:],) * len(rows),
        read=functools.partial(_read_slice, volume[rows], labels[rows]),
    )


def _read_slice(
    volume: np.ndarray, labels: np.ndarray, index: int
) -> tuple[np.ndarray, np.ndarray]:
    return volume[index, :, :, None], labels[index]


def _shape(stack: np.ndarray) -> str:
    return f"{len(stack)} slices of {stack.shape[1]}x{stack.shape[2]}"


def _shorten(values: np.ndarray) -> str:
    shown = ", ".join(map(str, values[:5]))
    return f"{shown}, ... ({len(values)} values)" if len(values) > 5 else shown
