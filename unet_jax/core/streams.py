"""Standard output and error that never cost a run: closed, with no reader, or in ASCII."""

import errno
import io
import os
import sys
from typing import TextIO

from unet_jax.core.files import naming

# Nobody reads any more: `| head -1`, a terminal that was closed, a connection that broke.
GONE = (errno.EPIPE, errno.EIO, errno.ECONNRESET, errno.EBADF)


class _Lasting(io.FileIO):
    """A stream that is silent once its reader is gone; a full disk is still an OSError."""

    def write(self, data) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in GONE:
                raise
            # The descriptor too, for what C++ libraries print and for child processes.
            silence = os.open(os.devnull, os.O_WRONLY)
            if silence != self.fileno():
                os.dup2(silence, self.fileno())
                os.close(silence)
            return memoryview(data).nbytes


def make_lasting() -> None:
    """Makes standard output and error survive their reader and any character; call it first.

    Where one is closed from the start (`>&-`), it becomes the null device: otherwise the next file
    that is opened would get its number, and whatever is printed. What cannot be encoded, such as a
    file name that is not UTF-8, is escaped.
    """
    if sys.stdin is None:
        sys.stdin = open(_null(), closefd=False)
    sys.stdout, sys.stderr = _lasting(sys.stdout), _lasting(sys.stderr)


def say(text: str) -> None:
    """Prints a line at once; an OSError names standard output."""
    with naming("standard output"):
        print(text, flush=True)


def _lasting(stream: TextIO | None) -> TextIO:
    if stream is None:
        number, encoding, at_once = _null(), "utf-8", True
    else:
        stream.flush()
        number, encoding, at_once = stream.fileno(), stream.encoding, stream.isatty()
    raw = io.BufferedWriter(_Lasting(number, "w", closefd=False))
    return io.TextIOWrapper(raw, encoding, "backslashreplace", line_buffering=at_once)


def _null() -> int:
    """The lowest free descriptor, now the null device; child processes get it too."""
    number = os.open(os.devnull, os.O_RDWR)
    os.set_inheritable(number, True)
    return number
