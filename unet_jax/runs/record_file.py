"""Files to which a run appends records: on a disk at once, in a bucket in batches.

An object in a bucket is always written as a whole. `BucketLines` therefore keeps all lines and
writes them again at intervals, and when it is asked to. A kill loses what was logged since.
"""

import pathlib
import time
from typing import Protocol

from unet_jax.core.bucket import is_bucket
from unet_jax.core.files import set_error_filename, write_all

BATCH_SECONDS = 30.0  # at most so much of the log is lost by a kill


class Lines(Protocol):
    """A text file to which lines are appended."""

    def append(self, line: str) -> None:
        """Appends a line; raises OSError or Unreachable if it cannot be written."""

    def flush(self) -> None:
        """Writes all lines."""

    def abandon(self) -> None:
        """Forgets the lines that are not written."""

    def close(self) -> None:
        """Writes all lines and closes the file."""


def open_lines(path: pathlib.Path, content: str) -> Lines:
    """Opens a file, whose earlier content is replaced.

    Args:
      path: the file.
      content: its new content.
    """
    write_all({path: content.encode()})
    return BucketLines(path, content) if is_bucket(path) else LocalLines(path)


class LocalLines:
    """Lines in a file on a disk; each is written at once, so that a full disk raises OSError."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._file = open(path, "a+", buffering=1)

    def append(self, line: str) -> None:
        with set_error_filename(self._path):
            if not self._path.exists():  # it was deleted, but the open file has all records
                self._file.seek(0)
                write_all({self._path: self._file.read().encode()})
                self._file.close()
                self._file = open(self._path, "a+", buffering=1)
            self._file.write(f"{line}\n")

    def flush(self) -> None:
        """Does nothing, because every line is written at once."""

    def abandon(self) -> None:
        """Does nothing for the same reason."""

    def close(self) -> None:
        with set_error_filename(self._path):
            self._file.close()


class BucketLines:
    """Lines in an object, which is written at most every `BATCH_SECONDS` and when asked to."""

    def __init__(self, path: pathlib.Path, content: str):
        self._path, self._content = path, content
        self._written, self._last = len(content), time.monotonic()

    def append(self, line: str) -> None:
        self._content += f"{line}\n"
        if time.monotonic() - self._last >= BATCH_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self._written < len(self._content):
            write_all({self._path: self._content.encode()})
            self._written, self._last = len(self._content), time.monotonic()

    def abandon(self) -> None:
        self._written = len(self._content)

    def close(self) -> None:
        self.flush()
