"""Writing files so that a kill or a full disk never leaves half of one."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from unet_jax.core.errors import UserError


def write_all(contents: Mapping[pathlib.Path, bytes]) -> None:
    """Writes files that belong together: all are complete before the first replaces its old."""
    staged = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in contents}
    try:
        for path, temporary in staged.items():
            with naming(path):
                temporary.write_bytes(contents[path])
        for path, temporary in staged.items():
            os.replace(temporary, path)
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(place: object) -> Iterator[None]:
    """Gives an OSError its file: where a write fails, the system names none."""
    try:
        yield
    except OSError as error:
        error.filename = str(place)
        raise


def expand(given: str) -> str:
    """A path as a user gave it, with `~` and `~user` expanded: after `=` the shell leaves them.

    Raises a `UserError` where that home folder is unknown.
    """
    expanded = os.path.expanduser(given)
    if given.startswith("~") and expanded.startswith("~"):
        raise UserError(
            f"{given}: the home folder of {given.split('/')[0]} is unknown; give the whole path, "
            f"or ./{given} for a name that begins with ~"
        )
    return expanded


def expand_utf8(given: str) -> str:
    """As `expand`; a `UserError` where the path is not UTF-8, which orbax and TensorBoard need."""
    if printable(expanded := expand(given)) != expanded:
        raise UserError(f"{printable(expanded)}: not a path in UTF-8; rename its folders")
    return expanded


def printable(name: str) -> str:
    """A file's name with its bytes that are not UTF-8 escaped, for files and libraries."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def write_json(path: pathlib.Path, content: Any) -> None:
    write_all({path: (json.dumps(content, indent=1) + "\n").encode()})


def read_json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); bring it back") from error
