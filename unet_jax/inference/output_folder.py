"""Checks of a prediction's output folder: its settings record and the paths to write."""

import itertools
import os
import pathlib
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from unet_jax.core.bucket import is_bucket
from unet_jax.core.errors import UserError
from unet_jax.core.files import read_json, write_json
from unet_jax.data.files.inputs import RECORD


def check_paths(
    output: pathlib.Path,
    written: Mapping[pathlib.Path, Iterable[pathlib.Path]],
    common: Iterable[pathlib.Path],
) -> None:
    """Checks that each path is written once, is inside `output`, and overwrites no input.

    Names that differ only in case or in Unicode normalisation count as equal, since some file
    systems do not distinguish them.

    Args:
      output: the output folder.
      written: for each input file, the files that its prediction writes and the folders that it
        replaces as a whole.
      common: the files that are written once for all of them.

    Raises:
      UserError: a path is outside `output`, is an input, or equals or contains another path.
    """
    real = pathlib.Path(os.path.realpath(output))
    inputs = {_identity(source): source for source in written}
    inside: dict[pathlib.Path, bool] = {}
    entries = [(_folded(path, output), path, path) for path in common]
    for source, paths in written.items():
        for path in paths:
            if path.parent not in inside:
                parent = pathlib.Path(os.path.realpath(path.parent))
                inside[path.parent] = parent.is_relative_to(real)
            if not inside[path.parent] or not path.is_relative_to(output):
                raise UserError(
                    f"{source}: would be written to {path}, which is outside --output={output}; "
                    f"remove the symbolic links from that folder, or choose another one"
                )
            if (identity := _identity(path)) and identity in inputs:
                raise UserError(
                    f"{source}: would be written to {path}, which is the input "
                    f"{inputs[identity]}; choose another --output"
                )
            entries.append((_folded(path, output), path, source))
    # Sorting puts a path directly before any path that equals it or is inside it.
    entries.sort(key=lambda entry: entry[0])
    pairs = itertools.pairwise(entries)
    if clashes := [(a, b) for a, b in pairs if b[0][: len(a[0])] == a[0]]:
        (_, taken, first), (_, path, second) = clashes[-1]  # hidden temporary names sort first
        raise UserError(
            f"{first} and {second}: would be written to {taken} and {path}, of which only one can "
            f"exist; rename one of the two, or predict them into different folders"
        )


def claim(output: pathlib.Path, made_by: Mapping[str, Any]) -> None:
    """Records a prediction's settings in `output`, or checks those of an earlier call.

    Args:
      output: the output folder, which is created if needed.
      made_by: everything that the masks depend on except the inputs, as values for JSON.

    Raises:
      UserError: `output` has other files or masks that were made with other settings, and is
        left unchanged; or it cannot be written.
    """
    path = output / RECORD
    try:
        if path.exists():
            _check_same(output, read_json(path), made_by)
            return
        if output.exists() and (not output.is_dir() or _others(output)):
            raise UserError(
                f"--output={output}: exists, but is not a folder of masks (it has no {RECORD}); "
                f"choose a new one"
            )
        output.mkdir(parents=True, exist_ok=True)
        for left in _unfinished(output):
            left.unlink(missing_ok=True)
        write_json(path, made_by)
    except OSError as error:
        raise UserError(
            f"--output={output}: cannot be written ({error.strerror or error}); correct that, or "
            f"choose another folder"
        ) from error


def _check_same(output: pathlib.Path, there: Any, here: Mapping[str, Any]) -> None:
    if not isinstance(there, dict):
        raise UserError(
            f"{output / RECORD}: is not the record of a prediction; choose another --output"
        )
    if missing := [key for key in here if key not in there]:
        raise UserError(
            f"--output={output}: an earlier version wrote its {RECORD}, which does not record "
            f"{', '.join(missing)}; choose another folder"
        )
    differing = [
        f"{key}: {there[key]} there, {here.get(key, 'unknown')} here"
        for key in there
        if key not in here or there[key] != here[key]
    ]
    if differing:
        raise UserError(
            f"--output={output}: has masks that were made with other settings "
            f"({'; '.join(differing)}); choose another folder"
        )


def _unfinished(output: pathlib.Path) -> list[pathlib.Path]:
    """Returns the temporary files that remain if a process is killed while writing the record."""
    return list(output.glob(f".{RECORD}.*.tmp"))


def _others(output: pathlib.Path) -> set[pathlib.Path]:
    return {*output.iterdir()}.difference(_unfinished(output))


def _identity(path: pathlib.Path) -> tuple[int, int] | None:
    """Returns the device and inode of a file, equal for all its paths; None if it is missing."""
    if is_bucket(path):
        return None
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _folded(path: pathlib.Path, output: pathlib.Path) -> tuple[str, ...]:
    parts = path.relative_to(output).parts
    return tuple(unicodedata.normalize("NFC", part.casefold()) for part in parts)
