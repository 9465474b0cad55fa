"""Names of classes, from the file `classes.txt` or from the field `data.mask_values`."""

import codecs
import dataclasses
import pathlib
import re
from collections.abc import Sequence

from unet_jax import IGNORED
from unet_jax.core.errors import UserError

CLASSES = "classes.txt"
VOID = "ignored"  # the name of values that count nowhere
REST = "*"  # stands for all other values, each of which is the number of an object
_VALUE = r"#[0-9a-fA-F]{6}|-?\d{1,18}|\*"
_LINE = re.compile(rf"({_VALUE})\s*[:=,;]?\s+(\S.*)")
_ENTRY = re.compile(rf"\s*({_VALUE})\s*[:=]\s*(\S.*?)\s*")


@dataclasses.dataclass(frozen=True)
class Key:
    """A value of a mask as a user writes it: a number, or a colour 0xRRGGBB."""

    value: int
    is_colour: bool

    def __str__(self) -> str:
        return f"#{self.value:06x}" if self.is_colour else str(self.value)


@dataclasses.dataclass(frozen=True)
class ClassNames:
    """Names of classes, and the values that have them if these are given too."""

    names: tuple[str, ...] = ()  # different names; () if none are given
    keys: tuple[tuple[Key, str], ...] = ()  # value and name; () if only names are given
    source: str = ""  # what gives them, for messages
    objects: str = ""  # the class whose objects all other values number, if there is one


def read_names(path: pathlib.Path) -> ClassNames:
    """Reads `classes.txt`: on each line a name, or on each line a value and a name.

    A value is a number or a colour `#rrggbb`. Two values may have one name. `*` stands for all
    other values, which then number the objects of the class. The name `ignored` stands for values
    that count nowhere.

    Args:
      path: the file, which need not exist.

    Raises:
      UserError: the file is not text, or its lines do not name at least two classes.
    """
    if not path.exists():
        return ClassNames()
    if not path.is_file():
        raise UserError(f"{path}: is not a regular file; move it elsewhere")
    lines = read_lines(path)
    matches = {number: _LINE.fullmatch(line) for number, line in lines.items()}
    valued = [number for number, match in matches.items() if match]
    plain = [number for number, match in matches.items() if not match]
    if valued and plain:
        raise UserError(
            f"{path}: line {valued[0]} ({lines[valued[0]][:40]!r}) starts with a value, but line "
            f"{plain[0]} ({lines[plain[0]][:40]!r}) does not; write a value before every name, or "
            f"before none"
        )
    if valued:
        return _keyed([match.groups() for match in matches.values() if match], str(path))
    names = tuple(lines.values())
    if not 2 <= len(names) <= IGNORED or len(set(names)) < len(names):
        raise UserError(
            f"{path}: {len(names)} names, {len(set(names))} different; expected 2 to {IGNORED} "
            f"different ones, a line each"
        )
    return ClassNames(names, source=str(path))


def read_lines(path: pathlib.Path) -> dict[int, str]:
    """Returns the lines of a text file that are not blank, by their number from 1.

    The file is UTF-8, or UTF-16 with a byte order mark, which PowerShell writes.

    Raises:
      UserError: the file is not text.
    """
    lines = enumerate(_decode(path).splitlines(), 1)
    return {number: line.strip() for number, line in lines if line.strip()}


def parse_values(entries: Sequence[str]) -> ClassNames:
    """Parses the field `data.mask_values`, such as ("0:background", "#ff0000:nerve").

    Raises:
      UserError: an entry is not a value, a colon and a name, or a value is repeated.
    """
    pairs = []
    for entry in entries:
        match = _ENTRY.fullmatch(entry)
        if not match:
            raise UserError(
                f"data.mask_values: {entry!r} is not a value and a name; write them as "
                f"'17:road' or '#ff0000:road'"
            )
        pairs.append(match.groups())
    return _keyed(pairs, "data.mask_values") if pairs else ClassNames()


def _keyed(pairs: Sequence[Sequence[str]], source: str) -> ClassNames:
    keys = []
    for text, name in pairs:
        if text == REST:
            continue
        is_colour = text.startswith("#")
        keys.append((Key(int(text[1:], 16) if is_colour else int(text), is_colour), name))
    values = [key for key, _ in keys]
    if repeated := [key for key in values if values.count(key) > 1]:
        raise UserError(f"{source}: {repeated[0]} has two names; keep one of them")
    rest = [name for text, name in pairs if text == REST]
    if len(rest) > 1 or VOID in rest:
        raise UserError(f"{source}: '{REST}' needs one name, that of the class of the objects")
    names = tuple(dict.fromkeys(name for _, name in pairs if name != VOID))
    if not 2 <= len(names) <= IGNORED:
        raise UserError(
            f"{source}: {len(names)} different names; expected 2 to {IGNORED} besides '{VOID}'"
        )
    return ClassNames(names, tuple(keys), source, *rest)


def _decode(path: pathlib.Path) -> str:
    """Decodes UTF-8, and UTF-16 with a byte order mark, which PowerShell writes."""
    content = path.read_bytes()
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if is_utf16 else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}: line {line} is not {encoding[:6].rstrip('-')} text (byte "
            f"{content[error.start]:#04x}); save the file as UTF-8"
        ) from None
    if "\0" in text:
        raise UserError(f"{path}: contains bytes 0, so it is not UTF-8; save the file as UTF-8")
    return text
