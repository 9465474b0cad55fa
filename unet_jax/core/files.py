"""File utilities: atomic writes that a kill or a full disk cannot truncate, paths and JSON."""

import contextlib
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from unet_jax.core.bucket import bucket_path, is_bucket
from unet_jax.core.errors import UserError

# pathlib would turn gs://bucket into the local folder gs:/bucket.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def write_all(contents: Mapping[pathlib.Path, bytes]) -> None:
    """Writes files that belong together, each atomically.

    All contents are written to temporary files before the first of them replaces its target. In a
    bucket, where an object is written at once or not at all, they are written one after another.

    Args:
      contents: the bytes of each file, by its path.

    Raises:
      OSError: a file cannot be written. If a temporary file cannot be written, no target changes.
      Unreachable: an object cannot be written.
      UserError: as `refuse_mangled`.
    """
    for path in contents:
        refuse_mangled(path)
    local = [path for path in contents if not is_bucket(path)]
    staged = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in local}
    try:
        for path, temporary in staged.items():
            with set_error_filename(path):
                temporary.write_bytes(contents[path])
        for path, temporary in staged.items():
            os.replace(temporary, path)
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)
    for path, content in contents.items():
        if is_bucket(path):
            path.write_bytes(content)


@contextlib.contextmanager
def set_error_filename(target: object) -> Iterator[None]:
    """Context manager that sets the `filename` of an OSError, which a failed write leaves unset.

    Args:
      target: the file or stream that is written in the context.
    """
    try:
        yield
    except OSError as error:
        error.filename = str(target)
        raise


def expand(given: str) -> str:
    """Expands `~` and `~user` in a local path, because shells do not expand them after `=`.

    Raises:
      UserError: that home folder is unknown, or the path is a URL.
    """
    if _URL.match(given):
        raise UserError(
            f"{given}: must be a local path; gs:// is supported only for the folder of a run, for "
            f"data.root, and for --input and --output of predictions"
        )
    expanded = os.path.expanduser(given)
    if given.startswith("~") and expanded.startswith("~"):
        raise UserError(
            f"{given}: the home folder of {given.split('/')[0]} is unknown; give the full path, "
            f"or ./{given} for a name that begins with ~"
        )
    return expanded


def expand_utf8(given: str) -> str:
    """Expands `~` as `expand` does, for a path that orbax and TensorBoard use.

    Raises:
      UserError: the home folder is unknown, or the path is not UTF-8, which both libraries need.
    """
    if printable(expanded := expand(given)) != expanded:
        raise UserError(f"{printable(expanded)}: the path is not valid UTF-8; rename its folders")
    return expanded


def path_of(given: str) -> pathlib.Path:
    """Returns the path that a user names, a local one or in a bucket.

    Args:
      given: a local path, of which `~` is expanded, or gs://BUCKET/PATH.

    Raises:
      UserError: as `expand` and `bucket_path`.
    """
    return bucket_path(given) if is_bucket(given) else pathlib.Path(expand(given))


def run_path(given: str) -> pathlib.Path:
    """Returns the path of a run's folder, as `path_of`; raises `UserError` if it is not UTF-8."""
    return bucket_path(given) if is_bucket(given) else pathlib.Path(expand_utf8(given))


def refuse_mangled(path: pathlib.Path) -> None:
    """Raises `UserError` for a local path that pathlib has made of gs://BUCKET/PATH."""
    if path.parts[:1] == ("gs:",):
        raise UserError(
            f"gs://{path.as_posix()[4:]}: must be a local path here; copy the result to the bucket"
        )


def printable(name: str) -> str:
    """Returns a file name whose non-UTF-8 bytes are escaped, for text files and libraries."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")


def cache_folder() -> pathlib.Path:
    """Returns this project's folder in the user's cache folder; it need not exist.

    The user's cache folder is XDG_CACHE_HOME if absolute, as XDG requires, else ~/.cache.

    Raises:
      RuntimeError: the home folder is unknown.
    """
    named = pathlib.Path(os.environ.get("XDG_CACHE_HOME", ""))
    home = named if named.is_absolute() else pathlib.Path.home() / ".cache"
    return home / "unet_jax"


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a JSON file atomically."""
    write_all({path: (json.dumps(content, indent=1) + "\n").encode()})


def read_json(path: pathlib.Path) -> Any:
    """Reads a JSON file.

    Raises:
      UserError: the file cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); restore it") from error
