"""A user's own data set: `images/` and `masks/`, matched by name, with classes found in the masks.

The image `x.jpg` belongs to the mask `x.png` or `x_mask.png`. The values that occur in all masks
together determine the classes:

- 0 and 255, or 0 and 1: two classes, `background` and `foreground`;
- 0, 1 and 255: the same two classes, and 255 is ignored;
- 0, 1, 2, ... without a gap: as many classes, at most 64, and 255 is ignored;
- RGB colours: one class for each, at most 64, sorted by #rrggbb, so that black comes first.

A file `classes.txt` with one name per line names the classes and fixes their number. Then ids may
be missing, and there may be more than 64 classes. The values of a palette mask are its indices, or
its grey values if all colours of the palette are grey.
"""

import functools
import pathlib
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from unet_jax import IGNORED
from unet_jax.core.errors import UserError
from unet_jax.data.dataset import Dataset, random_split
from unet_jax.data.files.images import list_colours, list_values, pack_colours
from unet_jax.data.files.masks import MAX_COLOURS, MaskFile
from unet_jax.data.files.pairs import ToLabel, list_files, make_dataset, match_files, scan_pairs
from unet_jax.data.sources.registry import register

CLASSES = "classes.txt"
PATTERN = r"(.+?)(?:_mask)?\.(?i:png|jpe?g|tiff?|bmp|gif)"
EXPECTED = "PNG, JPEG, TIFF, BMP and GIF files"
SOURCE = "name the folder that contains images/ and masks/ with --config.data.root=..."
ONE_CLASS = "nothing to learn; expected at least two classes"


@register("folder")
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
    images = list_files(root / "images", PATTERN, EXPECTED, SOURCE)
    masks = list_files(root / "masks", PATTERN, EXPECTED, SOURCE)
    pairs = scan_pairs(match_files(images, masks))
    for pair in pairs:
        if pair.image.orientation != 1:
            raise UserError(
                f"{pair.image.path}: EXIF orientation {pair.image.orientation}, so it is unknown "
                f"whether the mask was drawn on the rotated image; save the image upright"
            )
    names = _read_names(root / CLASSES)
    classes, to_label, note = recognise([pair.mask for pair in pairs], names)
    split = random_split([*images], data.split, data.split_seed, str(root), fold=data.fold)
    parts = {part: [pairs[i] for i in indices] for part, indices in split.items()}
    notes = [note]
    if inverted := [pair.mask.path for pair in pairs if pair.mask.white_is_zero]:
        notes.append(
            f"{inverted[0]} ({len(inverted)} masks in all) says WhiteIsZero, so viewers show it "
            f"inverted; the stored values count"
        )
    return make_dataset(parts, classes, to_label, notes)


def recognise(
    masks: Sequence[MaskFile], names: Sequence[str]
) -> tuple[Sequence[str], ToLabel, str]:
    """Finds the classes of masks by the rules in this module's docstring.

    Args:
      masks: all masks.
      names: names of the classes from `classes.txt`; empty without that file.

    Returns:
      Names of the classes, a picklable function that maps a mask to classes, uint8 [H, W], and a
      description of the masks.

    Raises:
      UserError: the values of the masks do not determine the classes, or do not fit `names`.
    """
    coloured = [mask for mask in masks if not _is_grey(mask)]
    if not coloured:
        return _recognise_values(masks, names)
    for mask in masks:
        if not mask.colours:
            raise UserError(
                f"{mask.path}: grey or palette, but {coloured[0].path} has RGB colours; save all "
                f"masks in the same format"
            )
    return _recognise_colours(masks, names)


def _recognise_values(
    masks: Sequence[MaskFile], names: Sequence[str]
) -> tuple[Sequence[str], ToLabel, str]:
    folder = masks[0].path.parent
    _check_palettes(masks)
    for mask in masks:
        if mask.lossy and not set(mask.values) <= {0, 255}:
            raise UserError(
                f"{mask.path}: a JPEG mask with values {list_values(mask.values)}; JPEG changes "
                f"class ids, so save the mask again from its source, as PNG"
            )
    values_of = [
        (mask.path, {value & 0xFF if mask.colours else value for value in mask.values})
        for mask in masks
    ]
    values = sorted(set().union(*(values for _, values in values_of)))
    if len(names) in (0, 2) and set(values) <= {0, 1, 255}:
        _check_scale(values_of)
        names = names or ("background", "foreground")
        ids = {0: 0, 1: 1} if 1 in values else {0: 0, 255: 1}
    else:
        names = names or _number_classes(values_of, values)
        _check_range(values_of, len(names))
        ids = {i: i for i in range(len(names))}
    found = {ids[value] for value in values if value in ids}
    if len(found) < 2:
        raise UserError(f"{folder}: all masks have only {list_values(values)}; {ONE_CLASS}")
    note = f"mask values {list_values(values)}: {len(names)} classes"
    if 255 in values and 255 not in ids:
        note += ", 255 is ignored"
    if absent := [name for i, name in enumerate(names) if i not in found]:
        note += f", no pixel of {', '.join(absent)}"
    table = np.full(256, IGNORED, np.uint8)
    table[[*ids]] = [*ids.values()]
    return names, functools.partial(_label_value, table), note


def _check_palettes(masks: Sequence[MaskFile]) -> None:
    """Raises if a palette index has different colours in two masks: it identifies no class."""
    first: dict[int, tuple[int, MaskFile]] = {}
    for mask in masks:
        for index, colour in zip(mask.values, mask.palette, strict=bool(mask.palette)):
            first_colour, other = first.setdefault(index, (colour, mask))
            if colour != first_colour:
                raise UserError(
                    f"{mask.path}: palette index {index} is #{colour:06x}, but #{first_colour:06x} "
                    f"in {other.path.name}; the files number their colours differently, so save "
                    f"the masks again as RGB or grey PNG"
                )


def _check_scale(values_of: Sequence[tuple[pathlib.Path, set[int]]]) -> None:
    """Raises if some masks have 1 and others 255, since either may be the foreground."""
    if not any({1, 255} <= values for _, values in values_of):
        paths = {v: path for path, values in values_of for v in values}
        if {1, 255} <= paths.keys():
            raise UserError(
                f"{paths[255]}: values 0 and 255, but {paths[1].name} has 0 and 1; save all masks "
                f"with the same two values"
            )


def _number_classes(
    values_of: Sequence[tuple[pathlib.Path, set[int]]], values: list[int]
) -> list[str]:
    """Returns names for the ids 0, 1, 2, ...; raises if the values are not such ids."""
    ids = [value for value in values if value != IGNORED]
    if ids != [*range(len(ids))] or len(ids) > MAX_COLOURS:
        most, _ = max(values_of, key=lambda of_mask: len(of_mask[1]))
        raise UserError(
            f"{most.parent}: values {list_values(values)} in all masks, most in {most.name}; "
            f"expected 0 and 255, 0 and 1, or ids 0, 1, 2, ...; save them without smooth edges, "
            f"or, if they are correct, name all classes, starting with class 0, in "
            f"{most.parent.parent / CLASSES}"
        )
    return [f"class-{i}" for i in ids]


def _check_range(values_of: Sequence[tuple[pathlib.Path, set[int]]], classes: int) -> None:
    for path, values in values_of:
        if unnamed := sorted(values - {*range(classes), IGNORED}):
            raise UserError(
                f"{path}: values {list_values(unnamed)}; {CLASSES} names {classes} classes, 0 to "
                f"{classes - 1}; add names there, or fix the mask"
            )


def _recognise_colours(
    masks: Sequence[MaskFile], names: Sequence[str]
) -> tuple[Sequence[str], ToLabel, str]:
    folder = masks[0].path.parent
    colours = sorted(set().union(*(mask.values for mask in masks)))
    found = f"{folder}: {len(colours)} colours ({list_colours(colours)})"
    if len(colours) < 2:
        raise UserError(f"{found}; {ONE_CLASS}")
    if len(colours) > MAX_COLOURS:
        raise UserError(
            f"{found}; expected at most {MAX_COLOURS}, one for each class; save the masks without "
            f"smooth edges"
        )
    if names and len(names) != len(colours):
        raise UserError(
            f"{found}, but {CLASSES} names {len(names)} classes; expected a name for each, in "
            f"the order of #rrggbb"
        )
    names = names or [f"#{colour:06x}" for colour in colours]
    to_label = functools.partial(_label_colour, np.array(colours, np.uint32))
    return names, to_label, f"{len(colours)} RGB colours in the masks, each a class"


def _label_value(table: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return table[mask if mask.ndim == 2 else mask[..., 0]]


def _label_colour(colours: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.searchsorted(colours, pack_colours(mask)).astype(np.uint8)


def _is_grey(mask: MaskFile) -> bool:
    """Whether all values of a mask are grey."""
    return not mask.colours or all(value == (value & 0xFF) * 0x010101 for value in mask.values)


def _read_names(path: pathlib.Path) -> tuple[str, ...]:
    if not path.exists():
        return ()
    if not path.is_file():
        raise UserError(f"{path}: is not a regular file; move it elsewhere")
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    if not 2 <= len(names) <= IGNORED or len(set(names)) < len(names):
        raise UserError(
            f"{path}: {len(names)} names, {len(set(names))} different; expected 2 to {IGNORED} "
            f"different ones, a line each"
        )
    return names
