"""An index of checked files, so that a file is decoded, checked and hashed once, not at each start.

Each data folder has an index in the user's cache folder, which all configs and processes share. It
holds what the checks found in each file. An entry is valid while the file's `Stamp` is unchanged:
size, time of modification, time of change, and inode. A program can restore the time of
modification, but the kernel sets the time of change whenever content or times are written, so that
even a replaced file with its old size and time of modification is checked again. A change that
leaves the whole stamp as it was cannot be noticed. That needs a clock that was set back, or a file
system without times of change.

Times have a granularity: a file that changes twice within it keeps its stamp. A file that changed
shortly before its check is therefore not indexed and has no stamp (Git calls such files racily
clean).

The index is a cache: if it is missing, damaged, unreadable, or written by other checks or decoders,
all files are checked again.
"""

import contextlib
import contextvars
import dataclasses
import fcntl
import functools
import hashlib
import json
import os
import pathlib
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import imagecodecs
import PIL
import tifffile

from unet_jax.core.files import cache_folder, write_all
from unet_jax.core.streams import say

VERSION = 3  # increase it whenever a check, or what it finds, changes
CHECKS = [VERSION, PIL.__version__, tifffile.__version__, imagecodecs.__version__]
# The coarsest granularity of a time of change that is in use (FAT's) is 2 s; also allows for the
# clocks of a file server and this machine to differ a little.
RACY_NS = 3 * 10**9
SAVE_EVERY = 10.0  # seconds between two writes while files are being checked


class Stamp(NamedTuple):
    """Identifies the content of a file without reading it."""

    size: int  # bytes
    modified_ns: int  # time of the last modification, nanoseconds since 1970
    changed_ns: int  # time at which content, times or name changed last, nanoseconds since 1970
    inode: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckedFile:
    """What a check found in a file; the fields of a subclass are integers, texts and tuples."""

    path: pathlib.Path
    sha256: str  # hash of the file
    stamp: Stamp | None = None  # identifies the checked content; None if it may have changed


T = TypeVar("T", bound=CheckedFile)
Row = list[Any]  # path, the four fields of the stamp, the other fields


def stamp_of(path: pathlib.Path) -> Stamp | None:
    """Returns the stamp of a file; None if it is missing, unreadable or not a regular file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def stamped(check: Callable[[pathlib.Path], T], path: pathlib.Path) -> T:
    """Checks a file and adds its stamp to what the check returns.

    There is no stamp if the file changed during the check, or so shortly before it that another
    change might leave the stamp as it is.

    Args:
      check: reads the whole file.
      path: the file.
    """
    start, before = time.time_ns(), stamp_of(path)
    found = check(path)
    if before and before == stamp_of(path) and start - before.changed_ns > RACY_NS:
        return dataclasses.replace(found, stamp=before)
    return found


class Index:
    """What was found in the checked files of a data folder.

    Args:
      root: the data folder. Without it the index is empty and is not written.
    """

    def __init__(self, root: pathlib.Path | None):
        self._prefix = f"{root}{os.sep}"
        self._file: pathlib.Path | None = None
        self._added: dict[str, dict[str, Row]] = {}  # by kind and path
        self._known: dict[str, dict[str, Row]] = {}
        self._last_save, self._noted = time.perf_counter(), False
        if root is not None:
            try:
                self._file = _index_file(root)
            except RuntimeError as error:  # the home folder is unknown
                self._note(error)
        if self._file:
            self._known = _load(self._file)

    def find(self, paths: Iterable[pathlib.Path], kind: type[T]) -> list[T | None]:
        """Returns what earlier checks found in files; None if a file is new or has changed since.

        Args:
          paths: the files.
          kind: what the check returns.
        """
        rows, names = self._known.get(_kind_name(kind), {}), _field_names(kind)
        found: list[T | None] = []
        for path in paths:
            row = rows.get(self._key(path))
            stamp = stamp_of(path) if row else None
            if row is None or stamp is None or (*row[1:5],) != stamp:
                found.append(None)
                continue
            values = [tuple(x) if type(x) is list else x for x in row[5:]]
            fields: dict[str, Any] = dict(zip(names, values, strict=True))
            found.append(kind(path=path, stamp=stamp, **fields))
        return found

    def add(self, *checked: CheckedFile) -> None:
        """Adds what checks found; writes the index now and then, so that a kill loses little."""
        for found in checked:
            if found.stamp is None or self._file is None:
                continue
            kind, key = type(found), self._key(found.path)
            row = [key, *found.stamp, *(getattr(found, name) for name in _field_names(kind))]
            for rows in (self._known, self._added):
                rows.setdefault(_kind_name(kind), {})[key] = row
        if time.perf_counter() - self._last_save > SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Writes the index if files were added; prints one note if it cannot be written.

        Entries that other processes wrote meanwhile are kept.
        """
        if self._added and self._file:
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with _locked(self._file):
                    known = _load(self._file)
                    rows = {
                        k: [*(known.get(k, {}) | self._added.get(k, {})).values()]
                        for k in known.keys() | self._added.keys()
                    }
                    body = json.dumps({"checks": CHECKS, "files": rows}).encode()
                    write_all({self._file: _seal(body) + body})
                self._added = {}
            except OSError as error:
                self._note(error)
        self._last_save = time.perf_counter()

    def _key(self, path: pathlib.Path) -> str:
        return str(path).removeprefix(self._prefix)

    def _note(self, error: Exception) -> None:
        if not self._noted:
            self._noted = True
            say(
                f"note         the index of checked files cannot be written ({error}), so every "
                f"start checks all files again; set XDG_CACHE_HOME to a writable folder"
            )


_current: contextvars.ContextVar[Index | None] = contextvars.ContextVar("index", default=None)


@contextlib.contextmanager
def indexed(root: pathlib.Path) -> Iterator[None]:
    """Context manager in which `current_index` is the index of a data folder.

    When it is left, the index is written, even after an error or Ctrl-C, so that the files checked
    before it are not checked again.

    Args:
      root: the data folder.
    """
    index = Index(root)
    token = _current.set(index)
    try:
        yield
    finally:
        _current.reset(token)
        index.save()


def current_index() -> Index:
    """Returns the index of the data folder that is being opened; an empty one outside `indexed`."""
    return _current.get() or Index(None)


def _index_file(root: pathlib.Path) -> pathlib.Path:
    """Returns the file of a folder's index.

    Raises:
      RuntimeError: the home folder is unknown.
    """
    name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:16]
    return cache_folder() / "checked" / f"{name}.json"


@contextlib.contextmanager
def _locked(file: pathlib.Path) -> Iterator[None]:
    """Context manager in which no other process saves the index.

    Where files cannot be locked, what two processes save at once may be lost, and is then checked
    again.
    """
    with open(file.with_suffix(".lock"), "w") as lock:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@functools.cache
def _field_names(kind: type[CheckedFile]) -> tuple[str, ...]:
    names = (field.name for field in dataclasses.fields(kind))
    return tuple(name for name in names if name not in ("path", "stamp"))


@functools.cache
def _kind_name(kind: type[CheckedFile]) -> str:
    """Returns a name that changes with the fields, so that rows with other fields are not found."""
    return " ".join((kind.__name__, *_field_names(kind)))


def _load(file: pathlib.Path) -> dict[str, dict[str, Row]]:
    """Reads the rows of an index; there are none if it was not written by these checks."""
    try:
        content = file.read_bytes()
        seal, body = content[: len(_seal(b""))], content[len(_seal(b"")) :]
        index = json.loads(body) if seal == _seal(body) else {}
        if index.get("checks") != CHECKS:
            return {}
        return {kind: {row[0]: row for row in rows} for kind, rows in index["files"].items()}
    except (OSError, ValueError):
        return {}


def _seal(body: bytes) -> bytes:
    """Returns a line with the hash of an index, which detects damage."""
    return f"{hashlib.sha256(body).hexdigest()}\n".encode()
