"""PASCAL VOC 2012 segmentation: twenty object classes and background.

Everingham et al., http://host.robots.ox.ac.uk/pascal/VOC/voc2012/
"""

import collections
import pathlib
import re

import numpy as np
from ml_collections import ConfigDict

from unet_jax import IGNORED
from unet_jax.core.errors import UserError
from unet_jax.core.fields import Field
from unet_jax.data.dataset import PARTS, Dataset, random_split
from unet_jax.data.download import archives
from unet_jax.data.files.images import list_values
from unet_jax.data.files.pairs import Pair, make_dataset, scan_pairs
from unet_jax.data.sources.registry import register

CLASSES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse "
    "motorbike person pottedplant sheep sofa train tvmonitor"
).split()
SOURCE = (
    "train or inspect with --config.data.download=True to download it, or get "
    "VOCtrainval_11-May-2012.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2012/, unpack it, "
    "and name the folder that contains VOCdevkit/ with --config.data.root=..."
)
# For each training list: the folder of its masks, and how to get the list and the masks.
LISTS = {
    "train": ("SegmentationClass", SOURCE),
    "trainaug": ("SegmentationClassAug", "make it with python -m unet_jax.prepare voc --root=..."),
}


OPTIONS = {
    # Training images: train (VOC's own list) | trainaug (with the labels of SBD, which
    # python -m unet_jax.prepare voc converts).
    "data.train_list": Field("train", choices=tuple(LISTS)),
}


@register("voc", OPTIONS)
def open_voc(data: ConfigDict) -> Dataset:
    """Opens VOC 2012: training and validation from the list `data.train_list`, test from `val`.

    Void pixels (255) are ignored. If `data.download` is set, a missing data set is downloaded.

    Args:
      data: the section `data` of the config.

    Returns:
      The data set, with 21 classes.

    Raises:
      UserError: files are missing, damaged or do not fit each other, or a test image is in the
        training list.
    """
    root = pathlib.Path(data.root) / "VOCdevkit" / "VOC2012"
    if not root.is_dir() and data.download:
        archives.fetch("voc", pathlib.Path(data.root))
    elif not root.is_dir():
        raise UserError(f"{root}: no such folder; {SOURCE}")
    training = _read_list(root, data.train_list, *LISTS[data.train_list])
    test = _read_list(root, "val", *LISTS["train"])
    if shared := sorted(training.keys() & test.keys()):
        raise UserError(
            f"{_list_path(root, data.train_list)}: {len(shared)} ids such as {shared[0]} are "
            f"also in val.txt, so test images would be used for training; remove them from the list"
        )
    split = random_split(
        [*training],
        data.split,
        data.split_seed,
        str(_list_path(root, data.train_list)),
        fold=data.fold,
        parts=PARTS[:2],
    )
    pairs = _scan(training | test)  # the training images first
    parts = {part: [pairs[i] for i in indices] for part, indices in split.items()}
    return make_dataset({**parts, "test": pairs[len(training) :]}, CLASSES, np.asarray)


def _read_list(
    root: pathlib.Path, name: str, folder: str, source: str
) -> dict[str, tuple[pathlib.Path, pathlib.Path]]:
    """Returns the image and the mask of each id in a list, sorted by id."""
    path = _list_path(root, name)
    if not path.is_file():
        raise UserError(f"{path}: no such list; {source}")
    ids = read_ids(path)
    repeated = len(ids) - len(set(ids))
    if repeated:
        [(twice, _)] = collections.Counter(ids).most_common(1)
        raise UserError(
            f"{path}: {repeated} ids occur more than once, such as {twice}; keep each id once"
        )
    images, masks, files = _list_folder(root / "JPEGImages"), _list_folder(root / folder), {}
    for name in sorted(ids):
        image, mask = images.get(f"{name}.jpg"), masks.get(f"{name}.png")
        if image is None or mask is None:
            missing = root / (f"{folder}/{name}.png" if image else f"JPEGImages/{name}.jpg")
            raise UserError(f"{path}: lists {name}, but there is no {missing}; {source}")
        files[name] = image, mask
    return files


def _list_folder(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the files of a folder by name, which is faster than asking for each of them."""
    return {path.name: path for path in folder.iterdir()} if folder.is_dir() else {}


def read_ids(path: pathlib.Path) -> list[str]:
    """Reads the ids of a list.

    Raises:
      UserError: the list is empty or has an invalid id, which as a path might lead out of the data.
    """
    ids = path.read_text(encoding="utf-8", errors="replace").split()
    strange = [name for name in ids if not re.fullmatch(r"[\w-]{1,80}", name, re.ASCII)]
    if strange or not ids:
        found = f"{strange[0][:80]!r} is not an id" if strange else "is empty"
        raise UserError(
            f"{path}: {found}; expected only ids, such as 2007_000032; download it again"
        )
    return ids


def _scan(files: dict[str, tuple[pathlib.Path, pathlib.Path]]) -> list[Pair]:
    pairs = scan_pairs(files)
    for pair in pairs:
        beyond = [v for v in pair.mask.values if v >= len(CLASSES) and v != IGNORED]
        if pair.mask.colours or pair.mask.lossy or beyond:
            found = "RGB colours" if pair.mask.colours else f"values {list_values(beyond)}"
            found = "a JPEG, which changes values" if pair.mask.lossy else found
            raise UserError(
                f"{pair.mask.path}: {found}; expected class ids 0 to {len(CLASSES) - 1} and "
                f"{IGNORED} = void; download or write it again"
            )
    return pairs


def _list_path(root: pathlib.Path, name: str) -> pathlib.Path:
    return root / "ImageSets" / "Segmentation" / f"{name}.txt"
