"""ISBI 2012: segmentation of neuronal structures in electron-microscopy stacks.

Thirty 512x512 slices of Drosophila nerve cord with labels, 0 = membrane and 255 = cell
(Arganda-Carreras et al., 2015, https://doi.org/10.3389/fnana.2015.00142).
"""

import functools
import hashlib
import pathlib
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from unet_jax.core.errors import UserError
from unet_jax.data.dataset import Dataset, Split, random_split
from unet_jax.data.download import archives
from unet_jax.data.files.pairs import UNSPLIT
from unet_jax.data.files.tiff import read_tiff
from unet_jax.data.sources.registry import register

VOLUME, LABELS = "train-volume.tif", "train-labels.tif"
CHALLENGE_VOLUME, CHALLENGE_LABELS = "test-volume.tif", "test-labels.tif"


@register("isbi")
def open_isbi(data: ConfigDict) -> Dataset:
    """Opens the training volume of ISBI 2012, split by slice as `data.split` specifies.

    If the folder has the challenge's test volume and its labels too, they are one more split,
    `challenge`. If `data.download` is set, missing stacks are downloaded.

    Args:
      data: the section `data` of the config.

    Returns:
      The data set; class 0 is `membrane`, class 1 is `cell`.

    Raises:
      UserError: the stacks are missing, damaged or do not fit each other.
    """
    root = pathlib.Path(data.root)
    missing = [name for name in (VOLUME, LABELS) if not (root / name).is_file()]
    if missing and data.download:
        archives.fetch("isbi", root)
    elif missing:
        raise UserError(
            f"{' and '.join(missing)} not found in the folder {root}; train or inspect with "
            f"--config.data.download=True to download them, or get them from "
            f"{archives.ARCHIVES['isbi'].url} and put them there, name their folder with "
            f"--config.data.root=..., or try --config=configs/demo.py, which needs no download"
        )
    volume, labels = _read_pair(root / VOLUME, root / LABELS)
    names = [f"slice-{i:02d}" for i in range(len(volume))]
    parts = random_split(names, data.split, data.split_seed, str(root / VOLUME), fold=data.fold)
    splits = {part: _split(volume, labels, names, rows) for part, rows in parts.items()}
    if (root / CHALLENGE_VOLUME).is_file() and (root / CHALLENGE_LABELS).is_file():
        pair = _read_pair(root / CHALLENGE_VOLUME, root / CHALLENGE_LABELS)
        rows = range(len(pair[0]))
        splits["challenge"] = _split(*pair, [f"slice-{i:02d}" for i in rows], rows)
    return Dataset(
        splits=splits,
        classes=("membrane", "cell"),
        channels=1,
        sha256={
            VOLUME: hashlib.sha256(volume.tobytes()).hexdigest(),
            LABELS: hashlib.sha256(labels.tobytes()).hexdigest(),
        },
        cells=True,
        notes=() if data.split else (UNSPLIT,),
    )


def _read_pair(
    volume_path: pathlib.Path, labels_path: pathlib.Path
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a volume and its labels as stored, 0 = membrane, each [slices, H, W]."""
    volume, labels = _read_stack(volume_path), _read_stack(labels_path)
    if volume.shape != labels.shape:
        raise UserError(
            f"{labels_path}: {_shape(labels)}, but {volume_path.name} has {_shape(volume)}; "
            f"each slice needs a label of the same size"
        )
    values = np.unique(labels)
    if values.tolist() not in ([0, 255], [0, 1]):
        raise UserError(
            f"{labels_path}: label values {_shorten(values)}; expected two, "
            f"0 = membrane and 255 (or 1) = cell"
        )
    return volume, labels


def _read_stack(path: pathlib.Path) -> np.ndarray:
    """Reads a stack, uint8 or uint16 [slices, H, W]."""
    stack = read_tiff(path)
    if stack.ndim != 3 or stack.size == 0:
        raise UserError(
            f"{path}: an array of shape {stack.shape}; expected slices of one channel, "
            f"[slices, height, width]"
        )
    if stack.dtype not in (np.uint8, np.uint16):
        raise UserError(f"{path}: pixels of type {stack.dtype}; expected uint8 or uint16")
    return stack


def _split(
    volume: np.ndarray, labels: np.ndarray, names: Sequence[str], rows: Sequence[int]
) -> Split:
    return Split(
        names=tuple(names[row] for row in rows),
        sizes=(volume.shape[1:],) * len(rows),
        read=functools.partial(_read_slice, volume[list(rows)], labels[list(rows)] > 0),
    )


def _read_slice(
    volume: np.ndarray, labels: np.ndarray, index: int
) -> tuple[np.ndarray, np.ndarray]:
    return volume[index, :, :, None], labels[index].astype(np.uint8)


def _shape(stack: np.ndarray) -> str:
    return f"{len(stack)} slices of {stack.shape[1]}x{stack.shape[2]}"


def _shorten(values: np.ndarray) -> str:
    shown = ", ".join(map(str, values[:5]))
    return f"{shown}, ... ({len(values)} values)" if len(values) > 5 else shown
