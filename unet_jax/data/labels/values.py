"""What the values of masks mean: as the user states it, or as the values themselves show.

Without a statement of the user, in this order:

- 0 and 255, or 0 and 1: two classes, `background` and `foreground`; 0, 1 and 255: the same two
  classes, and 255 is ignored;
- ids 0, 1, 2, ... without a gap: as many classes, at most 64, and 255 is ignored;
- smooth edges between 0 and 255: two classes, separated in the middle, if at least 99 % of the
  pixels are near the two ends;
- any two values: two classes;
- ids from 1, or ids with gaps up to 255: a class for each, in their order, at most 64;
- RGB colours: a class for each, at most 64, sorted by #rrggbb, so that black comes first.

Anything else is refused: numbers of objects (instance ids), in particular, are not classes. The
user states that they are such by a line `* NAME` in `classes.txt`. With `data.binary=nonzero` they
are recognised: there are more than eight values, and either most are in one mask only, or most
masks have nearly all values from 1 up to a highest one of their own.
"""

import dataclasses
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from unet_jax import IGNORED
from unet_jax.core.errors import UserError
from unet_jax.data.files.masks import MAX_COLOURS, MaskFile
from unet_jax.data.labels.found import Found, Meaning
from unet_jax.data.labels.names import VOID, ClassNames

BINARY = ("background", "foreground")
LOW, HIGH = 32, 223  # values up to LOW and from HIGH on are near the ends of 0 ... 255
MIN_SHARE = 0.99  # least share of the pixels near the ends in a mask with smooth edges
RARE = 100  # a third value is a stray one if 0 and 255 are this many times as frequent
OBJECTS = "numbers of objects: --config.data.binary=nonzero makes all of them the foreground"
SMOOTH = "smooth edges: --config.data.threshold=128 separates two classes"


@dataclasses.dataclass(frozen=True)
class Rules:
    """What the user states about the values of the masks."""

    names: ClassNames = dataclasses.field(default_factory=ClassNames)
    nonzero: bool = False  # whether any value but 0 is the foreground
    threshold: float = 0.0  # values from this on are the foreground; 0: no threshold

    def __post_init__(self) -> None:
        stated = {
            "data.binary": self.nonzero,
            "data.threshold": self.threshold > 0,
            self.names.source: bool(self.names.keys),
        }
        used = [name for name, is_set in stated.items() if is_set]
        if len(used) > 1:
            raise UserError(f"{' and '.join(used)}: each states what the values mean; keep one")


def recognise(found: Found, rules: Rules) -> Meaning:
    """Finds what the values of masks mean, by the rules in this module's docstring.

    Args:
      found: the values of all masks.
      rules: what the user states.

    Raises:
      UserError: the values do not determine the classes, or do not fit what the user states.
    """
    if rules.names.keys:
        return _as_named(found, rules.names)
    lossy = _lossy_masks(found)
    if rules.nonzero and lossy:
        raise UserError(
            f"{lossy[0].path}: a JPEG mask with values {found.show(found.values)}, of which JPEG "
            f"adds some to 0; set --config.data.threshold=128 instead of data.binary"
        )
    if rules.nonzero:
        return _nonzero(found, rules)
    if rules.threshold:
        if found.colours:
            raise UserError(
                f"data.threshold={rules.threshold:g}: the masks have RGB colours; name them with "
                f"data.mask_values"
            )
        return _separated(found, rules.threshold, rules)
    return _colours(found, rules.names) if found.colours else _numbers(found, rules)


def _as_named(found: Found, names: ClassNames) -> Meaning:
    """Gives each value the class that the user names for it."""
    position = {name: i for i, name in enumerate(names.names)} | {VOID: IGNORED}
    if names.objects and (found.colours or _lossy_masks(found)):
        has = "RGB colours" if found.colours else "values that JPEG changed"
        raise UserError(
            f"{names.source}: '*' says that the masks number objects, but those in {found.folder} "
            f"have {has}; name each value"
        )
    ids = {
        value: position[name]
        for key, name in names.keys
        if (value := found.value_of(key)) is not None
    }
    numbers = [value for value in found.values if value not in ids] if names.objects else []
    ids |= dict.fromkeys(numbers, position.get(names.objects, IGNORED))
    for value in found.values:
        if value not in ids:
            mask = found.masks_with(value)[0]
            raise UserError(
                f"{mask.path}: {found.show([value])} ({found.pixels[value]} pixels in all masks) "
                f"has no name in {names.source}; add it there, as a class or as "
                f"'{VOID}', or fix the mask"
            )
    meaning = _meaning(found, names.names, {value: ids[value] for value in found.values})
    return dataclasses.replace(meaning, instances=frozenset(numbers))


def _nonzero(found: Found, rules: Rules) -> Meaning:
    """Makes any value but 0 the foreground; the values may number its objects."""
    ids = {value: int(value != 0) for value in found.values}
    numbers = [value for value, i in ids.items() if i]
    if found.colours or len(numbers) < 2:
        return _binary(found, ids, rules)
    if not _number_objects(found):
        remark = (
            "the values do not seem to number objects, so that metrics of objects use the "
            "connected components of the masks; if they do, write '0 background' and '* object' "
            f"in {found.classes_file} instead of data.binary"
        )
        return _binary(found, ids, rules, remark)
    remark = "the values of the foreground number its objects, which metrics of objects use"
    return dataclasses.replace(_binary(found, ids, rules, remark), instances=frozenset(numbers))


def _numbers(found: Found, rules: Rules) -> Meaning:
    """Recognises classes in numbers."""
    values, names = found.values, rules.names.names
    lossy = _lossy_masks(found)
    if not lossy and len(names) in (0, 2) and {*values} <= {0, 1, 255}:
        _check_scale(found)
        _check_stray(found)
        return _binary(found, {0: 0, 1: 1, 255: IGNORED} if 1 in values else {0: 0, 255: 1}, rules)
    ids = [value for value in values if value != IGNORED]
    without_gap = ids == [*range(len(ids))] and 2 <= len(ids) <= MAX_COLOURS
    may_be_smooth = lossy or (not without_gap and len(names) in (0, 2))
    if may_be_smooth and _is_smooth(found, bool(lossy)):
        between = sum(n for v, n in found.pixels.items() if v in values and LOW < v < HIGH)
        share = between / sum(found.pixels[value] for value in values)
        remark = (
            f"{'JPEG masks' if lossy else 'masks with smooth edges'}: values from 128 on are the "
            f"foreground; {share:.2%} of the pixels are between {LOW} and {HIGH}"
        )
        return _separated(found, 128, rules, remark)
    if lossy:
        raise UserError(
            f"{lossy[0].path}: a JPEG mask with values {found.show(values)}; JPEG changes "
            f"class ids, so save the mask again from its source, as PNG, or set "
            f"--config.data.threshold=128 if it has two classes"
        )
    if names:
        return _with_names(found, rules.names)
    if without_gap:
        _check_objects(found)
        return _ordered(found, ids)
    if len(values) == 2:
        return _binary(found, {value: i for i, value in enumerate(values)}, rules)
    if ids == [*range(1, len(ids) + 1)] and 2 <= len(ids) <= MAX_COLOURS:
        _check_objects(found)
        return _ordered(found, ids)
    _check_stray(found)
    _check_gaps(found)
    return _ordered(found, values)


def _with_names(found: Found, names: ClassNames) -> Meaning:
    """Gives the ids 0, 1, 2, ..., or as many values as there are names, the names in order."""
    count, values = len(names.names), found.values
    ids = [value for value in values if value != IGNORED or value < count]
    if len(ids) > 1 and 0 <= ids[0] and ids[-1] < count:
        return _meaning(found, names.names, {value: value for value in ids})
    from_one = [*range(1, count + 1)]
    if len(values) == count or ids == from_one:
        chosen = from_one if ids == from_one else values
        return _meaning(found, names.names, {value: i for i, value in enumerate(chosen)})
    beyond = [value for value in values if not 0 <= value < count and value != IGNORED]
    if beyond and len(values) > count:
        mask = found.masks_with(beyond[0])[0]
        raise UserError(
            f"{mask.path}: values {found.show(beyond)}; {names.source} names {count} classes, 0 to "
            f"{count - 1}; add names there, or fix the mask"
        )
    example = " and ".join(
        f"'{value} {name}'" for value, name in zip(values[:2], names.names, strict=False)
    )
    raise UserError(
        f"{names.source}: names {count} classes ({', '.join(names.names)[:80]}), but the masks "
        f"have {len(values)} value{'s' * (len(values) != 1)} ({found.show(values)}); name as many, "
        f"or write the value before each name, such as {example}"
    )


def _colours(found: Found, names: ClassNames) -> Meaning:
    """Makes each colour a class."""
    colours = found.values
    if len(colours) > MAX_COLOURS:
        raise UserError(
            f"{found.folder}: {len(colours)} colours ({found.show(colours)}); expected at most "
            f"{MAX_COLOURS}, one for each class; save the masks without smooth edges"
        )
    if names.names:
        lines = ", ".join(f"'#{colour:06x} NAME'" for colour in colours[:8])
        more = ", ..." * (len(colours) > 8)
        raise UserError(
            f"{names.source}: names {len(names.names)} classes without their colours; the masks "
            f"have {len(colours)} colours; write the lines {lines}{more}, each with its name"
        )
    shown = tuple(f"#{colour:06x}" for colour in colours)
    return _meaning(found, shown, {colour: i for i, colour in enumerate(colours)})


def _binary(found: Found, ids: dict[int, int], rules: Rules, remark: str = "") -> Meaning:
    names = rules.names.names or BINARY
    if len(names) != 2:
        raise UserError(
            f"{rules.names.source}: names {len(names)} classes ({', '.join(names)[:80]}), but the "
            f"masks have two; name two classes"
        )
    return _meaning(found, names, ids, remark)


def _separated(found: Found, threshold: float, rules: Rules, remark: str = "") -> Meaning:
    """Makes values from a threshold on the foreground."""
    remark = remark or f"values from {threshold:g} on are the foreground (data.threshold)"
    return _binary(found, {v: int(v >= threshold) for v in found.values}, rules, remark)


def _ordered(found: Found, ids: list[int]) -> Meaning:
    """Makes each id a class, in their order; 255 is ignored unless it is one of them."""
    return _meaning(found, tuple(f"class-{v}" for v in ids), {v: i for i, v in enumerate(ids)})


def _meaning(
    found: Found, names: tuple[str, ...], ids: dict[int, int], remark: str = ""
) -> Meaning:
    """Makes every value that has no class an ignored one."""
    kept = {value: i for value, i in ids.items() if value in {*found.values}}
    return Meaning(names, dict.fromkeys(found.pixels, IGNORED) | kept, remark)


def _lossy_masks(found: Found) -> list[MaskFile]:
    """Returns the JPEG masks with other values than 0 and 255, which JPEG may have added."""
    return [
        mask
        for mask, pixels in zip(found.masks, found.pixels_of, strict=True)
        if mask.lossy and not pixels.keys() <= {0, 255}
    ]


def _is_smooth(found: Found, lossy: bool) -> bool:
    """Whether nearly all pixels are near the two ends of 0 ... 255, and the others between."""
    values, pixels = found.values, found.pixels
    if len(values) < 3 or values[0] < 0 or values[-1] > 255:
        return False
    low, high = (sum(pixels[v] for v in values if near(v)) for near in (LOW.__ge__, HIGH.__le__))
    between = [v for v in values if LOW < v < 255]
    if not lossy and (len(values) <= 8 or not between):
        return False  # class ids, perhaps with 255 = ignored
    return min(low, high) > 0 and low + high >= MIN_SHARE * sum(pixels[v] for v in values)


def _check_scale(found: Found) -> None:
    """Raises if some masks have 1 and others 255, since either may be the foreground."""
    if not any({1, 255} <= pixels.keys() for pixels in found.pixels_of):
        ones, full = found.masks_with(1), found.masks_with(255)
        if ones and full and {1, 255} <= {*found.values}:
            raise UserError(
                f"{full[0].path}: values 0 and 255, but {ones[0].path.name} has 0 and 1; save all "
                f"masks with the same two values"
            )


def _check_stray(found: Found) -> None:
    """Raises if a third value among 0 and 255 is too rare to be meant."""
    if len(found.values) != 3 or found.values[0] != 0 or found.values[2] != 255:
        return
    stray, pixels = found.values[1], found.pixels
    if pixels[stray] * RARE < min(pixels[0], pixels[255]):
        mask, row, column = found.place_of(stray)
        raise UserError(
            f"{mask.path}: the pixel in row {row}, column {column} has the value {stray} "
            f"({pixels[stray]} such pixels in {len(found.masks_with(stray))} masks) among 0 and "
            f"255; fix the mask, ignore them with --config.data.ignore=({stray},), or name all "
            f"values in {found.classes_file}"
        )


def _check_gaps(found: Found) -> None:
    """Raises unless values with gaps can be ids of classes."""
    values = found.values
    named = f"class ids: name each in {found.classes_file}, with lines such as '{values[-1]} NAME'"
    if not values or len(values) == 1:
        return  # reported as too few classes
    if values[0] < 0:
        found.refuse(f"--config.data.ignore=({values[0]},) ignores that value; {named}")
    if len(values) > MAX_COLOURS or (255 in values and len(values) > 8):
        found.refuse(f"{SMOOTH}; {OBJECTS}; {named}")
    if values[-1] > 255:
        found.refuse(f"{OBJECTS}; {named}")
    if 255 in values and any(0 < value < LOW for value in values):
        found.refuse(f"255 may be ignored (--config.data.ignore=(255,)) or a class; {named}")
    _check_objects(found)


def _check_objects(found: Found) -> None:
    """Raises if the values seem to number the objects of each image."""
    if _number_objects(found):
        found.refuse(
            f"{OBJECTS}; class ids: name each in {found.classes_file}, with lines such as "
            f"'{found.values[-1]} NAME'"
        )


def _number_objects(found: Found) -> bool:
    """Returns whether the values seem to number the objects of each image."""
    of_masks = [{*pixels} - {0, IGNORED, *found.ignore} for pixels in found.pixels_of]
    counts = Counter(value for values in of_masks for value in values)
    if len(counts) <= 8 or len(found.masks) < 3:
        return False
    differing = sum(counts.values()) <= 1.5 * len(counts)
    return differing or _are_numbered([values for values in of_masks if values])


def _are_numbered(of_masks: Sequence[Collection[int]]) -> bool:
    """Returns whether most masks have nearly all ids from 1 up to a highest one of their own.

    A few gaps remain where an object was deleted, or lies behind others.
    """
    most = 0.8 * len(of_masks)
    exact = [len(ids) for ids in of_masks if max(ids) == len(ids)]
    dense = [ids for ids in of_masks if len(ids) >= 0.8 * max(ids)]
    low, high = np.quantile([max(ids) for ids in of_masks], (0.25, 0.75))
    is_exact = len(exact) >= most and len({*exact}) >= 3
    return is_exact or (len(dense) >= most and bool(high >= 1.25 * low))
