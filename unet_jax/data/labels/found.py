"""The values that occur in the masks of a data set, and how they map to classes."""

import dataclasses
import functools
import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NoReturn

import numpy as np

from unet_jax import IGNORED
from unet_jax.core.errors import UserError
from unet_jax.data.files.images import list_colours, list_values, pack_colours
from unet_jax.data.files.masks import MaskFile, read_mask
from unet_jax.data.files.pairs import ToLabel
from unet_jax.data.labels.names import CLASSES, Key

MAX_ROWS = 64  # rows of the table of classes


@dataclasses.dataclass(frozen=True)
class Found:
    """The values of all masks, which are either numbers or colours."""

    masks: Sequence[MaskFile]
    pixels_of: Sequence[Mapping[int, int]]  # number of pixels of each value, for each mask
    ignore: frozenset[int]  # values that the user ignores
    root: pathlib.Path | None = None  # the folder that may have a `classes.txt`

    @classmethod
    def of(
        cls,
        masks: Sequence[MaskFile],
        ignore: Sequence[int] = (),
        root: pathlib.Path | None = None,
    ) -> "Found":
        """Collects the values of masks.

        Args:
          masks: all masks.
          ignore: values that count nowhere.
          root: the folder that may have a `classes.txt`; by default that above the masks' folder.

        Raises:
          UserError: some masks have colours and others numbers, palettes differ, or numbers are
            ignored in masks that have colours.
        """
        coloured = [mask for mask in masks if not _is_grey(mask)]
        if coloured and ignore:
            raise UserError(
                f"data.ignore={tuple(ignore)}: {coloured[0].path} has RGB colours; give the "
                f"colours that count nowhere the name 'ignored' in data.mask_values"
            )
        for mask in masks if coloured else ():
            if not mask.colours:
                raise UserError(
                    f"{mask.path}: grey or palette, but {coloured[0].path} has RGB colours; save "
                    f"all masks in the same format"
                )
        _check_palettes(masks)
        pixels_of = [
            {
                value & 0xFF if mask.colours and not coloured else value: count
                for value, count in zip(mask.values, mask.counts, strict=True)
            }
            for mask in masks
        ]
        return cls(masks, pixels_of, frozenset(ignore), root)

    @functools.cached_property
    def colours(self) -> bool:
        """Whether the values are colours 0xRRGGBB."""
        return not all(map(_is_grey, self.masks))

    @functools.cached_property
    def pixels(self) -> dict[int, int]:
        """Number of pixels of each value in all masks, sorted by value."""
        total: Counter[int] = Counter()
        for pixels in self.pixels_of:
            total.update(pixels)
        return dict(sorted(total.items()))

    @functools.cached_property
    def values(self) -> list[int]:
        """The sorted values without those that the user ignores."""
        return [value for value in self.pixels if value not in self.ignore]

    @property
    def folder(self) -> pathlib.Path:
        """The folder of the masks."""
        return self.masks[0].path.parent

    @property
    def classes_file(self) -> pathlib.Path:
        """The file that may name the classes."""
        return (self.root or self.folder.parent) / CLASSES

    def show(self, values: Sequence[int]) -> str:
        """Formats the first values for a message."""
        return list_colours(values) if self.colours else list_values(values)

    def masks_with(self, value: int) -> list[MaskFile]:
        """Returns the masks that have a value."""
        return [m for m, has in zip(self.masks, self.pixels_of, strict=True) if value in has]

    def place_of(self, value: int) -> tuple[MaskFile, int, int]:
        """Returns the first mask with a value, and row and column of the first such pixel."""
        mask = self.masks_with(value)[0]
        pixels = read_mask(mask.path)
        pixels = pixels[..., 0] if pixels.ndim == 3 else pixels
        row, column = np.argwhere(pixels == value)[0].tolist()
        return mask, row, column

    def value_of(self, key: Key) -> int | None:
        """Returns the value that a user's number or colour stands for; None if it cannot occur."""
        if self.colours or not key.is_colour:
            return key.value if self.colours == key.is_colour else None
        for mask in self.masks:
            for value, colour in zip(mask.values, mask.palette, strict=bool(mask.palette)):
                if colour == key.value:
                    return value
        grey = key.value & 0xFF
        has_palette = any(mask.palette for mask in self.masks)
        return grey if grey * 0x010101 == key.value and not has_palette else None

    def refuse(self, hint: str) -> NoReturn:
        """Raises a `UserError` that lists the values and names the mask that has most of them."""
        most = max(self.masks, key=lambda mask: len(mask.values))
        kind = "colours" if self.colours else "values"
        raise UserError(
            f"{self.folder}: {kind} {self.show(self.values)} in all masks, most in "
            f"{most.path.name}; {hint}"
        )


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What the values of masks mean."""

    classes: tuple[str, ...]  # names of the classes
    ids: Mapping[int, int]  # the class, or `IGNORED`, of each value that occurs
    remark: str = ""  # how it was found, if that needs to be said
    instances: frozenset[int] = frozenset()  # values that number objects of their class


def to_label(found: Found, meaning: Meaning) -> ToLabel:
    """Returns a picklable function that maps a mask to classes, uint8 [H, W]."""
    values = np.array(sorted(meaning.ids), np.int64)
    labels = np.array([meaning.ids[value] for value in values.tolist()], np.uint8)
    table, small = np.full(256, IGNORED, np.uint8), (values >= 0) & (values < 256)
    table[values[small]] = labels[small]
    return functools.partial(_label, values, labels, table, found.colours)


def describe(found: Found, meaning: Meaning, least: int = 2) -> list[str]:
    """Describes what the values mean: a summary, and a table of value, class and share of pixels.

    Args:
      found: the values of all masks.
      meaning: their classes.
      least: number of classes that must have pixels, 1 or 2.

    Raises:
      UserError: fewer classes have pixels.
    """
    pixels, ids = found.pixels, meaning.ids
    rows = [
        (name, [value for value in pixels if ids[value] == i])
        for i, name in [*enumerate(meaning.classes), (IGNORED, "ignored")]
    ]
    present = [name for name, values in rows[:-1] if values]
    if len(present) < least:
        one = f"{len(pixels)} colours " if found.colours else ""
        why = "nothing to learn; expected at least two classes" if least > 1 else "all ignored"
        raise UserError(f"{found.folder}: all masks have only {one}{found.show([*pixels])}; {why}")
    kind = f"{len(pixels)} RGB colours" if found.colours else f"values {found.show([*pixels])}"
    summary = f"{kind} in the masks: {len(meaning.classes)} classes"
    if rows[-1][1]:
        summary += f", {found.show(rows[-1][1])} is ignored"
    if absent := [name for name in meaning.classes if name not in present]:
        summary += f", no pixel of {', '.join(absent)}"
    total = sum(pixels.values())
    shown = [(found.show(values), name, values) for name, values in rows if values]
    wide, long = (max(len(row[k]) for row in shown) for k in (0, 1))
    table = [
        f"mask value {of:<{wide}} = {name:<{long}} {sum(pixels[v] for v in values) / total:7.2%} "
        f"of the pixels"
        for of, name, values in shown
    ]
    more = [f"and {len(table) - MAX_ROWS} more classes"] * (len(table) > MAX_ROWS)
    return [summary, *[meaning.remark] * bool(meaning.remark), *table[:MAX_ROWS], *more]


def _label(
    values: np.ndarray, labels: np.ndarray, table: np.ndarray, colours: bool, mask: np.ndarray
) -> np.ndarray:
    if mask.ndim == 3:
        mask = pack_colours(mask) if colours else mask[..., 0]
    if mask.dtype == np.uint8:
        return table[mask]
    places = np.minimum(np.searchsorted(values, mask), len(values) - 1)
    return np.where(values[places] == mask, labels[places], np.uint8(IGNORED))


def _is_grey(mask: MaskFile) -> bool:
    """Whether all values of a mask are grey."""
    return not mask.colours or all(value == (value & 0xFF) * 0x010101 for value in mask.values)


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
