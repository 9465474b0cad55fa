"""A user's own data set: `images/` and `masks/`, matched by name, with classes found in the masks.

The image `x.jpg` belongs to the mask `x.png`, `x_mask.png` or a similar name
(`unet_jax.data.files.pairing`). What the values of the masks mean is stated by options of this data
set, by a file `classes.txt`, or recognised (`unet_jax.data.labels.values`).

The images are split at random, whole groups of them if `data.group` is set; or the folder contains
the splits `train/`, `val/` and `test/`, each with its own `images/` and `masks/`. Either of the
last two may be missing.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from ml_collections import ConfigDict

from unet_jax import IGNORED
from unet_jax.core.errors import UserError
from unet_jax.core.fields import Field
from unet_jax.data.dataset import PARTS, Dataset, random_group_split, random_split
from unet_jax.data.files.masks import MaskFile
from unet_jax.data.files.pairing import (
    IMAGES,
    Files,
    compile_pattern,
    find_folder,
    pair_files,
)
from unet_jax.data.files.pairs import Pair, ToLabel, make_dataset, scan_pairs
from unet_jax.data.labels.found import Found, describe, to_label
from unet_jax.data.labels.names import CLASSES, parse_values, read_names
from unet_jax.data.labels.values import Rules, recognise
from unet_jax.data.sources.registry import register

# Usual names of the folders of given splits, in lower case.
GIVEN = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
SOURCE = "name the folder that contains images/ and masks/ with --config.data.root=..."
OPTIONS = {
    # Regular expression that is searched in the names of images. Images with the same first group,
    # such as those of a patient, are in the same part of a split; data.split counts the groups. "":
    # each image is a group.
    "data.group": Field(""),
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
    given = _find_parts(root)
    if given and not _has_images(root):
        files, notes = _pair_parts(root, given, data)
    else:
        paired, notes = pair_files(root, SOURCE, data.image_pattern, data.mask_pattern)
        files = {"": paired}
        notes += [f"{folder} is not used, because {root} has images" for folder in given.values()]
    scanned = scan_pairs({f"{part}/{name}": x for part in files for name, x in files[part].items()})
    pairs = [dataclasses.replace(x, name=x.name.partition("/")[2]) for x in scanned]
    classes, label, meaning, empty = _classes(data, root, [pair.mask for pair in pairs])
    if "" not in files:
        part_of = [pair.name.partition("/")[0] for pair in scanned]
        parts = {
            part: [pair for pair, own in zip(pairs, part_of, strict=True) if own == part]
            for part in PARTS
        }
        _check_groups(parts, data.group)
    else:
        parts = _split(pairs, data)
    if data.foreground and (without := [p for p in parts["train"] if p.mask.path in empty]):
        notes.append(
            f"{len(without)} of {len(parts['train'])} training images have no foreground; "
            f"their windows are drawn anywhere"
        )
    return make_dataset(parts, classes, label, [*meaning, *notes])


def _find_parts(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the folders of given splits by part, in the order of `PARTS`."""
    folders = {part: find_folder(root, names) for part, names in GIVEN.items()}
    return {part: folder for part, folder in folders.items() if folder and _has_images(folder)}


def _pair_parts(
    root: pathlib.Path, found: dict[str, pathlib.Path], data: ConfigDict
) -> tuple[dict[str, Files], list[str]]:
    """Returns the files of each given split, and notes."""
    names = ", ".join(f"{folder.name}/" for folder in found.values())
    if "train" not in found or len(found) == 1:
        raise UserError(
            f"{root}: has {names} with images; expected train/ and at least one of val/ and test/; "
            f"add what is missing, or name a folder with images/ and masks/ to split at random"
        )
    if data.fold:
        raise UserError(f"data.fold={data.fold}: {root} has given splits ({names}); set it to 0")
    files, notes = {}, [f"the splits are those of the folders {names}; data.split is not used"]
    for part, folder in found.items():
        files[part], more = pair_files(folder, SOURCE, data.image_pattern, data.mask_pattern)
        notes += more
    if "test" not in found:
        notes.append("no test images: the report at the end is of the validation images")
    if "validation" not in found:
        notes.append("no validation images: the last model is evaluated, not the best one")
    return files, notes


def _has_images(folder: pathlib.Path) -> bool:
    return find_folder(folder, IMAGES) is not None


def _split(pairs: Sequence[Pair], data: ConfigDict) -> dict[str, list[Pair]]:
    """Splits pairs at random as `data.split` says, whole groups of them if `data.group` is set."""
    names, root = [pair.name for pair in pairs], str(data.root)
    if data.group:
        groups = _groups(names, data.group)
        split = random_group_split(
            groups, data.split, data.split_seed, root, fold=data.fold, unit="group"
        )
    else:
        split = random_split(names, data.split, data.split_seed, root, fold=data.fold)
    return {part: [pairs[i] for i in indices] for part, indices in split.items()}


def _groups(names: Sequence[str], pattern: str) -> list[str]:
    """Returns the group of each name."""
    form = compile_pattern("data.group", pattern)
    found = [(name, form.search(name)) for name in names]
    for name, match in found:
        if not match or match[1] is None:
            raise UserError(f"data.group={pattern!r}: does not match the image {name!r}")
    return [match[1] for _, match in found if match]


def _check_groups(parts: dict[str, list[Pair]], pattern: str) -> None:
    """Raises if images of one group are in two of the given splits."""
    part_of: dict[str, tuple[str, str]] = {}
    for part, pairs in parts.items() if pattern else ():
        names = [pair.name for pair in pairs]
        for name, group in zip(names, _groups(names, pattern), strict=True):
            other_part, other = part_of.setdefault(group, (part, name))
            if other_part != part:
                raise UserError(
                    f"data.group={pattern!r}: the group {group!r} is in {other_part} ({other}) and "
                    f"in {part} ({name}); move all its images into one of them"
                )


def _classes(
    data: ConfigDict, root: pathlib.Path, masks: list[MaskFile]
) -> tuple[tuple[str, ...], ToLabel, list[str], set[pathlib.Path]]:
    """Returns classes, function from a mask to them, notes, and the masks without foreground."""
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
    background = {value for value, i in meaning.ids.items() if i in (0, IGNORED)}
    empty = {
        mask.path
        for mask, pixels in zip(masks, found.pixels_of, strict=True)
        if pixels.keys() <= background
    }
    return meaning.classes, to_label(found, meaning), notes, empty
