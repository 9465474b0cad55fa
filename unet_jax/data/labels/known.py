"""What the values of masks mean if their classes are known: those of a finished run."""

import dataclasses
import re

from unet_jax import IGNORED, is_binary
from unet_jax.core.errors import UserError
from unet_jax.data.labels.found import Found, Meaning
from unet_jax.data.labels.names import VOID, ClassNames, Key
from unet_jax.data.labels.values import BINARY, Rules, recognise

_VALUE = re.compile(r"class-(\d{1,18})|#([0-9a-f]{6})")  # names that `recognise` gives to values


@dataclasses.dataclass(frozen=True)
class KnownClasses:
    """The classes of a run, in the order of its outputs."""

    names: tuple[str, ...]
    recorded: bool  # whether the run recorded these names; older runs have only their number
    run: str  # folder of the run, for messages


def as_known(found: Found, rules: Rules, known: KnownClasses) -> Meaning:
    """Finds the known class of each value of masks, in which not every class need occur.

    In this order:

    - what the user states (`rules`) holds;
    - ids 0 ... K - 1 are the K known classes, and so are 0 and 255 (or 1) if K = 2;
    - if the names of the known classes state values (`class-11`, `#ff0000`), each has its class;
    - otherwise the values are recognised as those of a data set of their own.

    The classes must then be the known ones, in any order. Names do not matter if the run recorded
    none, nor where two classes have the names that `recognise` gives to any two.

    Args:
      found: the values of all masks.
      rules: what the user states about them.
      known: the classes of the run.

    Returns:
      The meaning of the values, with the ids of the run, and its names if it recorded them.

    Raises:
      UserError: the classes are not those of the run, or `recognise` fails.
    """
    stated = bool(rules.names.keys) or rules.nonzero or rules.threshold > 0
    if not stated and (plain := _plain_ids(found, rules, known)):
        return _aligned(found, plain, known)
    if not (stated or rules.names.names or _is_plain_binary(found, known)):
        if known.recorded and all(map(_VALUE.fullmatch, known.names)):
            rules = Rules(_keyed(known))
    return _aligned(found, recognise(found, rules), known)


def _is_plain_binary(found: Found, known: KnownClasses) -> bool:
    plain = not found.colours and {*found.values} <= {0, 1, 255}
    return is_binary(len(known.names)) and plain


def _plain_ids(found: Found, rules: Rules, known: KnownClasses) -> Meaning | None:
    """Takes ids 0 ... K - 1 of more than two classes as they are; None if there are others."""
    count, names = len(known.names), rules.names.names or known.names
    ids = {*found.values} - {IGNORED}
    if is_binary(count) or found.colours or any(mask.lossy for mask in found.masks):
        return None  # `recognise` has the rules for two classes
    # 0 and 255 alone are two classes rather than one with ignored pixels.
    if len(names) != count or not ids <= {*range(count)} or {*found.values} == {0, IGNORED}:
        return None
    return Meaning(names, dict.fromkeys(found.pixels, IGNORED) | {value: value for value in ids})


def _keyed(known: KnownClasses) -> ClassNames:
    """Reads the value or colour of each class from its name."""
    keys = []
    for name in known.names:
        colour = name.startswith("#")
        keys.append((Key(int(name[1:], 16) if colour else int(name[6:]), colour), name))
    ignored = Key(IGNORED, False)
    if ignored not in (key for key, _ in keys):
        keys.append((ignored, VOID))
    return ClassNames(known.names, tuple(keys), f"the classes of {known.run}")


def _aligned(found: Found, meaning: Meaning, known: KnownClasses) -> Meaning:
    """Gives values the ids of the known classes; raises if the classes differ."""
    ours, theirs = known.names, meaning.classes
    if len(theirs) == len(ours) and not known.recorded:
        return meaning
    unnamed = BINARY in (ours, theirs)
    if len(theirs) == len(ours) and (unnamed or sorted(theirs) == sorted(ours)):
        order = range(len(ours)) if unnamed else [ours.index(name) for name in theirs]
        new_id = {i: order[i] for i in range(len(ours))} | {IGNORED: IGNORED}
        ids = {value: new_id[i] for value, i in meaning.ids.items()}
        return dataclasses.replace(meaning, classes=ours, ids=ids)
    shown = f"{', '.join(ours)}" if known.recorded else f"{len(ours)} classes"
    raise UserError(
        f"{found.folder}: has the classes {', '.join(theirs)}, but the run {known.run} has "
        f"{shown}; state them in {found.classes_file}, a line each, such as '0 {ours[0]}'"
    )
