"""A user's own data set: `images/` and `masks/`, matched by name, classes found from the masks.

The image `x.jpg` goes with the mask `x.png` or `x_mask.png`. The values of all masks together say
what they are:

- 0 and 255, or 0 and 1: two classes, `background` and `foreground`;
- 0, 1 and 255: the same, and 255 is ignored;
- 0, 1, 2, ... without a gap: that many classes, at most 64, and 255 is ignored;
- RGB colours: each is a class, in the order of #rrggbb, so that black is first; at most 64.

A file `classes.txt` with a name a line names the classes and fixes their number: then an id may
be missing, and there may be more than 64. The values of a palette mask are its indices, or its
greys where it has no colours.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from unet_jax import IGNORED
from unet_jax.core.errors import UserError
from unet_jax.data.dataset import Dataset, random_split
from unet_jax.data.files.images import (
    MAX_COLOURS,
    MaskFile,
    list_colours,
    list_values,
    pack_colours,
)
from unet_jax.data.files.pairs import ToLabel, list_files, make_dataset, match_files, scan_pairs

CLASSES = "classes.txt"
PATTERN = r"(.+?)(?:_mask)?\.(?i:png|jpe?g|tiff?|bmp|gif)"
EXPECTED = "PNG, JPEG, TIFF, BMP and GIF files"
SOURCE = "name the folder that holds images/ and masks/ with --config.data.root=..."
ONE_CLASS = "nothing to learn; expected at least two classes"


def open_folder(data: ConfigDict) -> Dataset:
    """The images, dealt into three parts by `data.split`; what was recognised is in `notes`."""
    root = pathlib.Path(data.root)
    images = list_files(root / "images", PATTERN, EXPECTED, SOURCE)
    masks = list_files(root / "masks", PATTERN, EXPECTED, SOURCE)
    pairs = scan_pairs(match_files(images, masks))
    for pair in pairs:
        if pair.image.orientation != 1:
            raise UserError(
                f"{pair.image.path}: EXIF orientation {pair.image.orientation}, and whether the "
                f"mask was drawn on the turned image is unknown; write the image upright"
            )
    names = _read_names(root / CLASSES)
    classes, to_label, note = recognise([pair.mask for pair in pairs], names)
    places = random_split([*images], data.split, data.split_seed, str(root), fold=data.fold)
    parts = {part: [pairs[i] for i in rows] for part, rows in places.items()}
    return make_dataset(parts, classes, to_label, [note])


def recognise(
    masks: Sequence[MaskFile], names: Sequence[str]
) -> tuple[Sequence[str], ToLabel, str]:
    """Classes, the map from masks to them, and what the masks are, in words.

    `names` are those of the user, or none. See the top of this file for the rules.
    """
    coloured = [mask for mask in masks if not _is_grey(mask)]
    if not coloured:
        return _recognise_values(masks, names)
    for mask in masks:
        if not mask.colours:
            raise UserError(
                f"{mask.path}: grey or palette, but {coloured[0].path} has RGB colours; write all "
                f"masks in one way"
            )
    return _recognise_colours(masks, names)


def _recognise_values(
    masks: Sequence[MaskFile], names: Sequence[str]
) -> tuple[Sequence[str], ToLabel, str]:
    folder = masks[0].path.parent
    _refuse_renumbered(masks)
    of_mask = {mask.path: {value & 0xFF for value in mask.values} for mask in masks}
    values = sorted(set().union(*of_mask.values()))
    if len(names) in (0, 2) and set(values) <= {0, 1, 255}:
        _refuse_two_scales(of_mask)
        names = names or ("background", "foreground")
        ids = {0: 0, 1: 1} if 1 in values else {0: 0, 255: 1}
    else:
        names = names or _number_classes(of_mask, values)
        _refuse_beyond(of_mask, len(names))
        ids = {i: i for i in range(len(names))}
    found = {ids[value] for value in values if value in ids}
    if len(found) < 2:
        raise UserError(f"{folder}: all masks have {list_values(values)} alone; {ONE_CLASS}")
    note = f"masks of {list_values(values)}: {len(names)} classes"
    if 255 in values and 255 not in ids:
        note += ", 255 ignored"
    if absent := [name for i, name in enumerate(names) if i not in found]:
        note += f", no pixel of {', '.join(absent)}"
    table = np.full(256, IGNORED, np.uint8)
    table[[*ids]] = [*ids.values()]
    return names, functools.partial(_label_value, table), note


def _refuse_renumbered(masks: Sequence[MaskFile]) -> None:
    """Some writers number the colours of each file anew; then an index says nothing."""
    first: dict[int, tuple[int, MaskFile]] = {}
    for mask in masks:
        for index, colour in zip(mask.values, mask.palette, strict=bool(mask.palette)):
            there, other = first.setdefault(index, (colour, mask))
            if colour != there:
                raise UserError(
                    f"{mask.path}: palette index {index} is #{colour:06x}, but #{there:06x} in "
                    f"{other.path.name}; each file numbers its colours anew, so write the masks "
                    f"again as RGB or grey PNG"
                )


def _refuse_two_scales(of_mask: Mapping[pathlib.Path, set[int]]) -> None:
    """Where 1 and 255 are never in one mask, each of them seems to be the foreground."""
    if not any({1, 255} <= values for values in of_mask.values()):
        paths = {v: path for path, values in of_mask.items() for v in values}
        if {1, 255} <= paths.keys():
            raise UserError(
                f"{paths[255]}: values 0 and 255, but {paths[1].name} has 0 and 1; write all masks "
                f"in one way"
            )


def _number_classes(of_mask: Mapping[pathlib.Path, set[int]], values: list[int]) -> list[str]:
    """Names for the ids 0, 1, 2, ..., where the values are those."""
    ids = [value for value in values if value != IGNORED]
    if ids != [*range(len(ids))] or len(ids) > MAX_COLOURS:
        most = max(of_mask, key=lambda path: len(of_mask[path]))
        raise UserError(
            f"{most.parent}: values {list_values(values)} in all masks, most in {most.name}; "
            f"expected 0 and 255, 0 and 1, or ids 0, 1, 2, ...; write them without smooth edges, "
            f"or, if they are right, name each class from 0 on in {most.parent.parent / CLASSES}"
        )
    return [f"class-{i}" for i in ids]


def _refuse_beyond(of_mask: Mapping[pathlib.Path, set[int]], classes: int) -> None:
    for path, values in of_mask.items():
        if beyond := sorted(values - {*range(classes), IGNORED}):
            raise UserError(
                f"{path}: values {list_values(beyond)}; {CLASSES} names {classes} classes, 0 to "
                f"{classes - 1}; add names there, or mend the mask"
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
            f"{found}; expected at most {MAX_COLOURS}, one a class; write the masks without "
            f"smooth edges"
        )
    if names and len(names) != len(colours):
        raise UserError(
            f"{found}, but {CLASSES} names {len(names)} classes; expected a name for each, in "
            f"the order of #rrggbb"
        )
    names = names or [f"#{colour:06x}" for colour in colours]
    to_label = functools.partial(_label_colour, np.array(colours, np.uint32))
    return names, to_label, f"masks of {len(colours)} RGB colours, each a class"


def _label_value(table: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return table[mask if mask.ndim == 2 else mask[..., 0]]


def _label_colour(colours: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.searchsorted(colours, pack_colours(mask)).astype(np.uint8)


def _is_grey(mask: MaskFile) -> bool:
    """Whether red, green and blue are the same in all that a mask has."""
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
