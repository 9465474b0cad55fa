"""A user's own data set: `images/` and `masks/`, matched by name, with classes found in the masks.

The image `x.jpg` belongs to the mask `x.png`, `x_mask.png` or a similar name
(`unet_jax.data.files.pairing`). What the values of the masks mean is stated by options of this data
set, by a file `classes.txt`, or recognised (`unet_jax.data.labels.values`).

The images are split at random, whole groups of them if `data.group` is set; or as lists say; or the
folder contains the splits (`unet_jax.data.sources.folder_splits`).
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from ml_collections import ConfigDict

from unet_jax import IGNORED
from unet_jax.core.errors import UserError
from unet_jax.core.fields import Field
from unet_jax.data.dataset import PARTS, Dataset
from unet_jax.data.files.masks import MaskFile
from unet_jax.data.files.pairing import pair_files
from unet_jax.data.files.pairs import make_dataset, scan_pairs
from unet_jax.data.labels.found import Found, describe
from unet_jax.data.labels.instances import Labels, labels_of
from unet_jax.data.labels.names import CLASSES, parse_values, read_names
from unet_jax.data.labels.values import Rules, recognise
from unet_jax.data.sources.folder_splits import (
    SOURCE,
    check_groups,
    find_given,
    hold_out,
    list_names,
    pair_given,
    split_pairs,
    unused_splits,
)
from unet_jax.data.sources.registry import register

OPTIONS = {
    # Regular expression that is searched in the names of images. Images with the same first group,
    # such as those of a patient, are in the same part of a split; data.split counts the groups. "":
    # each image is a group.
    "data.group": Field(""),
    # Files that list the images of each split: on each line a name or path, with or without suffix;
    # lines that start with # are comments. A relative path refers to data.root. "": data.split.
    # data.train_list and one of the others are enough; images in no list are not used.
    "data.train_list": Field(""),
    "data.validation_list": Field(""),
    "data.test_list": Field(""),
    # Share of the training images, or of their groups, that are held out for validation if the
    # folders or lists of splits give none.
    "data.validation_share": Field(0.0, "[0, 0.5]"),
    # Regular expressions that are searched in the file names of images and masks. The first group
    # is the name, which pairs them; other files are ignored. "": the usual names.
    "data.image_pattern": Field(""),
    "data.mask_pattern": Field(""),
    # nonzero: any value but 0 is the foreground | auto: the values show what they mean.
    "data.binary": Field("auto", choices=("auto", "nonzero")),
    "data.ignore": Field((), "[-1e18, 1e18]"),  # values of masks that count nowhere
    # Value or colour and class of each, such as ("0:background", "#ff0000:nerve"); () takes them
    # from classes.txt or the masks. The name `ignored` stands for values that count nowhere, the
    # value * for all values without an entry, which then number the objects of their class.
    "data.mask_values": Field((), entries=str),
    # Masks that number objects: pixels of an object that are at most this many pixels from its edge
    # become a third class, border, so that a network can separate touching objects; 0: they do not.
    "data.object_border": Field(0, "[0, 100]"),
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
    given = find_given(root)
    if given:
        if data.train_list or data.validation_list or data.test_list:
            raise UserError(
                f"data.train_list and the like: {root} has given splits ({given.names}); leave the "
                f"lists out, or name a folder with images/ and masks/"
            )
        files, notes = pair_given(root, given, data)
    else:
        paired, notes = pair_files(root, SOURCE, data.image_pattern, data.mask_pattern)
        listed, more = list_names(root, paired, data)
        notes += more
        names = {part: {name: paired[name] for name in listed[part]} for part in listed}
        files = names or {"": paired}
        notes += [
            f"{folder} is not used, because {root} has images" for folder in unused_splits(root)
        ]
    scanned = scan_pairs({f"{part}/{name}": x for part in files for name, x in files[part].items()})
    pairs = [dataclasses.replace(x, name=x.name.partition("/")[2]) for x in scanned]
    labels, meaning, empty = _labels(data, root, [pair.mask for pair in pairs])
    if "" not in files:
        part_of = [pair.name.partition("/")[0] for pair in scanned]
        parts = {
            part: [pair for pair, own in zip(pairs, part_of, strict=True) if own == part]
            for part in PARTS
        }
        check_groups(parts, data.group)
        parts, more = hold_out(parts, data)
        notes += more
    else:
        parts = split_pairs(pairs, data)
    if data.foreground and (without := [p for p in parts["train"] if p.mask.path in empty]):
        notes.append(
            f"{len(without)} of {len(parts['train'])} training images have no foreground; "
            f"their windows are drawn anywhere"
        )
    return make_dataset(
        parts,
        labels.classes,
        labels.to_label,
        [*meaning, *notes],
        to_instances=labels.to_instances,
        border=labels.border,
    )


def _labels(
    data: ConfigDict, root: pathlib.Path, masks: list[MaskFile]
) -> tuple[Labels, list[str], set[pathlib.Path]]:
    """Returns how labels are read, notes, and the masks without foreground."""
    found, rules = rules_of(data, root, masks)
    meaning = recognise(found, rules)
    labels = labels_of(found, meaning, data.object_border)
    notes = [*describe(found, meaning), *labels.notes]
    if inverted := [mask.path for mask in masks if mask.white_is_zero]:
        notes.append(
            f"{inverted[0]} ({len(inverted)} masks in all) says WhiteIsZero, so viewers show it "
            f"inverted; the stored values count"
        )
    background = {value for value, i in meaning.ids.items() if i in (0, IGNORED)}
    empty = {
        mask.path
        for mask, pixels in zip(masks, found.pixels_of, strict=True)
        if pixels.keys() <= background
    }
    return labels, notes, empty


def rules_of(
    data: ConfigDict, root: pathlib.Path, masks: Sequence[MaskFile], classes_win: bool = False
) -> tuple[Found, Rules]:
    """Returns the values of masks, and what the user states about them.

    Args:
      data: the options of this data set.
      root: the folder that may have a `classes.txt`.
      masks: the masks.
      classes_win: whether a `classes.txt` with values replaces what the options state; otherwise
        both together are refused.

    Raises:
      UserError: the statements contradict each other, or `Found.of` fails.
    """
    names, stated = read_names(root / CLASSES), parse_values(data.mask_values)
    if fractions := [value for value in data.ignore if value != int(value)]:
        raise UserError(f"data.ignore={tuple(data.ignore)}: {fractions[0]} is not a whole number")
    found = Found.of(masks, [int(value) for value in data.ignore], root)
    if classes_win and names.keys:
        return found, Rules(names)
    if stated.keys and names.names:
        raise UserError(f"data.mask_values: {names.source} names the classes too; keep one of them")
    return found, Rules(stated if stated.keys else names, data.binary == "nonzero", data.threshold)
