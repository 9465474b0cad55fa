"""A user's own data set: `images/` and `masks/`, matched by name, with classes found in the masks.

The image `x.jpg` belongs to the mask `x.png`, `x_mask.png` or a similar name
(`unet_jax.data.files.pairing`). What the values of the masks mean is
stated by options of this data set, by a file `classes.txt`, or recognised
(`unet_jax.data.labels.values`).
"""

import pathlib

from ml_collections import ConfigDict

from unet_jax.core.errors import UserError
from unet_jax.core.fields import Field
from unet_jax.data.dataset import Dataset, random_split
from unet_jax.data.files.masks import MaskFile
from unet_jax.data.files.pairing import pair_files
from unet_jax.data.files.pairs import ToLabel, make_dataset, scan_pairs
from unet_jax.data.labels.found import Found, describe, to_label
from unet_jax.data.labels.names import CLASSES, parse_values, read_names
from unet_jax.data.labels.values import Rules, recognise
from unet_jax.data.sources.registry import register

SOURCE = "name the folder that contains images/ and masks/ with --config.data.root=..."
OPTIONS = {
    # Regular expressions that are searched in the file names of images and masks. The first group
    # is the name, which pairs them; other files are ignored. "": the usual names.
    "data.image_pattern": Field(""),
    "data.mask_pattern": Field(""),
    # nonzero: any value but 0 is the foreground | auto: the values show what they mean.
    "data.binary": Field("auto", choices=("auto", "nonzero")),
    "data.ignore": Field((), "[-1e18, 1e18]"),  # values of masks that count nowhere
    # Value or colour and class of each, such as ("0:background", "#ff0000:nerve"); () takes them
    # from classes.txt or the masks. The name `ignored` stands for values that count nowhere.
    "data.mask_values": Field((), entries=str),
    "data.threshold": Field(0.0, "[0, 1e18]"),  # values from this on are the foreground; 0: auto
}


@register("folder", OPTIONS)
def open_folder(data: ConfigDict) -> Dataset:
    """Opens a folder of images and masks, split at random as `data.split` specifies.

    Args:
      data: the section `data` of the config.

    Returns:
      The data set, whose `notes` describe the classes found in the masks.

    Raises:
      UserError: files are missing, damaged or do not fit each other, or the masks have
        no valid classes.
    """
    root = pathlib.Path(data.root)
    files, notes = pair_files(root, SOURCE, data.image_pattern, data.mask_pattern)
    pairs = scan_pairs(files)
    for pair in pairs:
        if pair.image.orientation != 1:
            raise UserError(
                f"{pair.image.path}: EXIF orientation {pair.image.orientation}, so it is unknown "
                f"whether the mask was drawn on the rotated image; save the image upright"
            )
    classes, label, meaning = _classes(data, root, [pair.mask for pair in pairs])
    split = random_split([*files], data.split, data.split_seed, str(root), fold=data.fold)
    parts = {part: [pairs[i] for i in indices] for part, indices in split.items()}
    return make_dataset(parts, classes, label, [*meaning, *notes])


def _classes(
    data: ConfigDict, root: pathlib.Path, masks: list[MaskFile]
) -> tuple[tuple[str, ...], ToLabel, list[str]]:
    """Returns the classes of the masks, the function that maps a mask to them, and notes."""
    names, stated = read_names(root / CLASSES), parse_values(data.mask_values)
    if stated.keys and names.names:
        raise UserError(f"data.mask_values: {names.source} names the classes too; keep one of them")
    rules = Rules(stated if stated.keys else names, data.binary == "nonzero", data.threshold)
    if fractions := [value for value in data.ignore if value != int(value)]:
        raise UserError(f"data.ignore={tuple(data.ignore)}: {fractions[0]} is not a whole number")
    found = Found.of(masks, [int(value) for value in data.ignore])
    meaning = recognise(found, rules)
    notes = describe(found, meaning)
    if inverted := [mask.path for mask in masks if mask.white_is_zero]:
        notes.append(
            f"{inverted[0]} ({len(inverted)} masks in all) says WhiteIsZero, so viewers show it "
            f"inverted; the stored values count"
        )
    return meaning.classes, to_label(found, meaning), notes
