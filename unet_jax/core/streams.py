"""Standard output and error that never end a run, even if closed, unread or limited to ASCII."""

import errno
import io
import os
import sys
from typing import TextIO

from unet_jax.core.files import set_error_filename

# These errors mean that the stream has lost its reader: `| head -1`, a closed terminal or a lost
# connection.
READER_LOST = (errno.EPIPE, errno.EIO, errno.ECONNRESET, errno.EBADF)


class _RobustFile(io.FileIO):
    """A stream that discards output once its reader is gone; a full disk still raises OSError."""

    def write(self, data) -> int | None:
        """Writes bytes; returns their number, also if they are discarded."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in READER_LOST:
                raise
            # The descriptor is redirected too, because C++ libraries and child processes use it.
            null = os.open(os.devnull, os.O_WRONLY)
            if null != self.fileno():
                os.dup2(null, self.fileno())
                os.close(null)
            return memoryview(data).nbytes


def make_streams_robust() -> None:
    """Makes standard output and error robust against a lost reader and unencodable characters.

    A command must call this first. A standard stream that is closed from the start (`>&-`) becomes
    the null device. Otherwise the next file that is opened would get its descriptor and receive
    everything that is printed. Characters that the stream cannot encode, such as those of a file
    name that is not UTF-8, are escaped.
    """
    if sys.stdin is None:
        sys.stdin = open(_null(), closefd=False)
    sys.stdout, sys.stderr = _robust(sys.stdout), _robust(sys.stderr)


def say(text: str) -> None:
    """Prints one line to standard output and flushes it.

    Args:
      text: the line, without a line break at its end.

    Raises:
      OSError: the line cannot be written; its `filename` is "standard output".
    """
    with set_error_filename("standard output"):
        print(text, flush=True)


def _robust(stream: TextIO | None) -> TextIO:
    if stream is None:
        number, encoding, at_once = _null(), "utf-8", True
    else:
        stream.flush()
        number, encoding, at_once = stream.fileno(), stream.encoding, stream.isatty()
    raw = io.BufferedWriter(_RobustFile(number, "w", closefd=False))
    return io.TextIOWrapper(raw, encoding, "backslashreplace", line_buffering=at_once)


def _null() -> int:
    """Opens the null device at the lowest free descriptor; child processes inherit it."""
    number = os.open(os.devnull, os.O_RDWR)
    os.set_inheritable(number, True)
    return number
