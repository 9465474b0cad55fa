"""Config fields: their defaults, validation, and suggestions for unknown names."""

import difflib
import re
import reprlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from unet_jax.core.command_help import FIELDS
from unet_jax.core.errors import UserError

MAX_TEXT = 4095  # characters; the longest path on Linux
MAX_NAME = 200  # bytes of an experiment's name in UTF-8; it is also the name of a folder
MAX_ENTRIES = 255  # entries of a tuple; the longest has one number per class
KINDS: dict[type, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a string",
    tuple: f"a tuple of at most {MAX_ENTRIES} entries",
}

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200


class Field(NamedTuple):
    """The default of a field and the values that it may have.

    The type is that of the default. A tuple has numbers, or texts if `entries` is str. A text may
    be empty if the default is. `range` is the interval of a number, or of each number in a
    tuple: "[0, 1)" includes 0 and excludes 1. `choices` are the texts that a text field, or each
    entry of a tuple of texts, may have; `unet_jax/runs/choices.py` takes those of the common
    fields from the registries.
    """

    default: Any
    range: str = ""
    choices: Collection[str] = ()
    entries: type = float


def add_defaults(config: ConfigDict, fields: Mapping[str, Field]) -> ConfigDict:
    """Adds the fields that a config lacks, with their defaults.

    Args:
      config: the config, which is changed.
      fields: fields by dotted name.

    Returns:
      The config.
    """
    for name, field in fields.items():
        section, _, key = name.rpartition(".")
        if section and section not in config:
            config[section] = ConfigDict()
        group = config[section] if section else config
        if key not in group:
            with group.unlocked():
                group[key] = field.default
    return config


def check_field(name: str, field: Field, value: Any) -> None:
    """Checks that a value has the type of a field and lies in its range or is one of its choices.

    Args:
      name: dotted name of the field.
      field: its default, range and choices.
      value: the value; each entry of a tuple is checked.

    Raises:
      UserError: the field cannot have this value; the message starts with its name.
    """
    kind, entries = type(field.default), [value]
    if kind is tuple:
        if not isinstance(value, tuple | list) or len(value) > MAX_ENTRIES:
            raise _invalid(name, value, expected(field))
        value = tuple(value)
        kind, entries = field.entries, value
    for entry in entries:
        if field.choices:
            if not isinstance(entry, str) or entry not in field.choices:
                raise UserError(
                    f"{name}={show(entry)}: unknown; choose one of {', '.join(field.choices)}"
                )
        elif kind is str:
            _check_text(name, entry, least=0 if field.default == "" else 1)
        elif not _is_kind(entry, kind) or (field.range and not within(entry, field.range)):
            raise _invalid(name, value, expected(field))


def expected(field: Field) -> str:
    """Describes the allowed values of a field, such as `a whole number in [1, 32768]`."""
    kind = KINDS[type(field.default)]
    if not field.range:
        return kind
    entries = ", each a number" if isinstance(field.default, tuple) else ""
    return f"{kind}{entries} in {field.range}"


def within(value: float, interval: str) -> bool:
    """Returns whether a number is in an interval.

    Args:
      value: the number; NaN is in no interval.
      interval: bounds such as "[0, 1)", which includes 0 and excludes 1.
    """
    low, high = map(float, interval[1:-1].split(","))
    above = low < value if interval.startswith("(") else low <= value
    return above and (value < high if interval.endswith(")") else value <= high)


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Suggests field names for an unknown name.

    The last part of the name may be an abbreviation (`lr`), belong to another section, or be
    misspelt.

    Args:
      name: the unknown name, with or without sections.
      names: the existing names.

    Returns:
      All names with these initials if there are any, otherwise at most three names, the most
      likely first.
    """
    last = name.rpartition(".")[2]
    short = {field: field.rpartition(".")[2] for field in names}
    initials = [f for f, key in short.items() if "".join(w[0] for w in key.split("_")) == last]
    elsewhere = [field for field, key in short.items() if key == last or last in key.split("_")]
    close = difflib.get_close_matches(last, set(short.values()), 3)
    misspelt = [field for key in close for field in short if short[field] == key]
    whole = difflib.get_close_matches(name, [*short], 3, 0.7)
    if initials and len(last) > 1:
        return initials
    return list(dict.fromkeys(elsewhere + whole + misspelt))[:3]


def no_such_field(name: str, names: Iterable[str]) -> str:
    """Returns a one-line message that no field is called `name`, with suggestions from `names`."""
    if inside := [field for field in names if field.startswith(f"{name}.")]:
        return f"{name} is a section; name one of its fields, such as {inside[0]}"
    meant = " or ".join(nearest(name[:MAX_NAME], names))
    if meant:
        return f"no such field; did you mean {meant}?"
    return f"no such field; see {FIELDS}"


def show(value: Any) -> str:
    """Returns the `repr` of a value, shortened to about 200 characters."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python formats at most 4300 digits
        return f"a number of {value.bit_length()} bits" if isinstance(value, int) else "a value"


def _is_kind(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, int) or (kind is float and isinstance(value, float))


def _check_text(name: str, value: Any, least: int) -> None:
    if not isinstance(value, str) or not least <= len(value) <= MAX_TEXT:
        raise _invalid(name, value, f"a string of {least} to {MAX_TEXT} characters")
    if re.search(r"[\x00-\x1f\x7f]", value):
        raise _invalid(name, value, "a string without line breaks and other control characters")
    if name == "name" and (
        not value.isprintable()
        or len(value.encode()) > MAX_NAME
        or re.search(r"[/\\]", value)
        or value in (".", "..")
    ):
        raise _invalid(
            name,
            value,
            f"the name of a folder, without slashes and of at most {MAX_NAME} bytes, because "
            f"the default --workdir contains it",
        )


def _invalid(name: str, value: Any, expected: str) -> UserError:
    return UserError(f"{name}={show(value)}: must be {expected}")
