"""Any folder of images and masks as one split, with the classes of a finished run."""

import dataclasses
import pathlib

import numpy as np
from ml_collections import ConfigDict

from unet_jax.core.errors import UserError
from unet_jax.core.fields import add_defaults
from unet_jax.core.files import printable
from unet_jax.data import opened
from unet_jax.data.dataset import PARTS, Dataset
from unet_jax.data.files.images import check_channels
from unet_jax.data.files.pairing import pair_files
from unet_jax.data.files.pairs import make_dataset, scan_pairs
from unet_jax.data.intensities import check_type
from unet_jax.data.labels.found import describe
from unet_jax.data.labels.instances import labels_of
from unet_jax.data.labels.known import KnownClasses, as_known
from unet_jax.data.sources.folder import OPTIONS, rules_of
from unet_jax.data.sources.folder_splits import find_given

LONGEST = 80  # characters of a folder's name that the name of its split has
SOURCE = "name the folder that contains images/ and masks/ with --data=..."


def open_labelled(
    data: ConfigDict, root: pathlib.Path, known: KnownClasses, channels: int
) -> Dataset:
    """Opens a folder as `open_folder` reads it; all of its images are one split, `data-NAME`.

    Options of the run's own folder data set, such as `data.binary`, hold for this folder too,
    unless its `classes.txt` states what the values of its masks mean.

    Args:
      data: the section `data` of the run's config.
      root: the folder.
      known: the classes of the run.
      channels: number of channels of the run's images, which those of this folder get.

    Returns:
      The data set, whose other splits are empty.

    Raises:
      UserError: the folder cannot be read, or its images or classes do not suit the run.
    """
    if not root.exists():
        raise UserError(f"--data={root}: no such folder; {SOURCE}")
    with opened(root, "--data", "--data"):
        return _open(data, root, known, channels)


def _open(data: ConfigDict, root: pathlib.Path, known: KnownClasses, channels: int) -> Dataset:
    if given := find_given(root):
        raise UserError(
            f"--data={root}: has the splits {given.names}; name a folder that has one of them as "
            f"images/ and masks/"
        )
    own = data.name == "folder"
    options = add_defaults(ConfigDict({"data": data.to_dict() if own else {}}), OPTIONS).data
    files, notes = pair_files(root, SOURCE, options.image_pattern, options.mask_pattern)
    pairs = scan_pairs(files)
    for pair in pairs:
        check_channels(pair.image.path, pair.image.channels, channels)
        check_type(pair.image.path, np.dtype(pair.image.dtype), {data.dtype})
    found, rules = rules_of(options, root, [pair.mask for pair in pairs], classes_win=True)
    border = options.object_border
    without_border = known.names[:-1] if border else known.names
    meaning = as_known(found, rules, dataclasses.replace(known, names=without_border))
    labels = labels_of(found, meaning, border)
    described = [*describe(found, meaning, least=1), *labels.notes]
    notes = [f"the images are all those of {root}", *described, *notes]
    split = f"data-{printable(root.resolve().name)[:LONGEST]}"
    dataset = make_dataset(
        {part: [] for part in PARTS} | {"test": pairs},
        labels.classes,
        labels.to_label,
        notes,
        channels,
        to_instances=labels.to_instances,
        border=labels.border,
    )
    empty, images = dataset.splits["train"], dataset.splits["test"]
    return dataclasses.replace(
        dataset,
        splits=dict.fromkeys(PARTS, empty) | {split: images},
        sha256={split: dataset.sha256["test"]},
    )
