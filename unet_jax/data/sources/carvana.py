"""Carvana Image Masking Challenge: studio photographs of cars, sixteen of each car.

https://www.kaggle.com/c/carvana-image-masking-challenge
"""

import pathlib

from ml_collections import ConfigDict

from unet_jax.data.dataset import Dataset, random_group_split
from unet_jax.data.files.pairs import (
    binary_label,
    check_binary,
    list_files,
    make_dataset,
    match_files,
    scan_pairs,
)
from unet_jax.data.sources.registry import register

SOURCE = (
    "download train.zip and train_masks.zip of the competition carvana-image-masking-challenge "
    "from https://www.kaggle.com (after login), unpack both into one folder, and name it with "
    "--config.data.root=..."
)


@register("carvana")
def open_carvana(data: ConfigDict) -> Dataset:
    """Opens the labelled images of Carvana, split by car: `data.split` counts cars, not images.

    Images of the same car are nearly identical, so splitting by image would leak training data into
    the test.

    Args:
      data: the section `data` of the config.

    Returns:
      The data set, with the classes `background` and `car`.

    Raises:
      UserError: files are missing, damaged or do not fit each other.
    """
    root = pathlib.Path(data.root)
    images = list_files(root / "train", r"(\w+_\d+)\.jpg", "images CAR_NN.jpg", SOURCE)
    masks = list_files(
        root / "train_masks", r"(\w+_\d+)_mask\.gif", "masks CAR_NN_mask.gif", SOURCE
    )
    pairs = scan_pairs(match_files(images, masks))
    check_binary((pair.mask for pair in pairs), "1 = car")
    cars = [pair.name.rsplit("_", 1)[0] for pair in pairs]
    split = random_group_split(
        cars, data.split, data.split_seed, str(root), fold=data.fold, unit="car"
    )
    parts = {part: [pairs[i] for i in indices] for part, indices in split.items()}
    return make_dataset(parts, ("background", "car"), binary_label)
