"""Reads TIFF files so that a damaged file raises an error and never gives a shorter array."""

import contextlib
import contextvars
import logging
import math
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import tifffile

from unet_jax.core.errors import UserError

# A file is refused if it decompresses to more than MAX_BYTES and to more than MAX_RATIO times its
# own size.
MAX_BYTES, MAX_RATIO = 2**28, 1024
# Largest number of values in a directory entry: bytes or text, and numbers, for which the limit is
# lower because tifffile stores them as Python objects.
MAX_LENGTH, MAX_NUMBERS = 2**26, 2**21
FAX = (2, 3, 4)  # compressions whose decoders skip damaged data
BYTES = (1, 2, 6, 7)  # types of directory entries with one byte per value

# Errors that tifffile logged for the file that this thread reads; None while it reads no file.
_logged_errors: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar(
    "complaints", default=None
)


def _capture(record: logging.LogRecord) -> bool:
    """Keeps an error for the thread that reads a file; passes records on if it reads none."""
    errors = _logged_errors.get()
    if errors is not None and record.levelno >= logging.ERROR:
        errors.append(record.getMessage())
    return errors is None


# Installed once for all threads, since a handler for each file would also receive the errors of
# files that other threads read.
_tifffile_logger = logging.getLogger("tifffile")
_tifffile_logger.addFilter(_capture)
_tifffile_logger.setLevel(logging.WARNING)  # so that errors pass whatever the root logger's level


def read_tiff(path: pathlib.Path) -> np.ndarray:
    """Reads the pixels of all pages.

    Raises:
      UserError: any part of the file cannot be read.
    """
    with open_tiff(path) as file:
        return file.asarray()


def begins_as_tiff(path: pathlib.Path) -> bool:
    """Returns whether a file begins as a TIFF, whatever its suffix; False if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(2) in (b"II", b"MM")
    except OSError:
        return False


@contextlib.contextmanager
def open_tiff(path: pathlib.Path, verify: bool = True) -> Iterator[tifffile.TiffFile]:
    """Opens a file; any error within the context becomes a `UserError`.

    Args:
      path: the file.
      verify: whether to check it for damage; False for a file that was checked before.
    """
    with refuse_damage(path):
        if verify:
            check_directories(path)
        # An OME-TIFF may refer to other files, which tifffile would read as well.
        with tifffile.TiffFile(path, is_ome=False) as file:
            if verify:
                _check(file)
            yield file


@contextlib.contextmanager
def refuse_damage(path: pathlib.Path) -> Iterator[None]:
    """Turns any error that tifffile raises or logs within the context into a `UserError`."""
    errors: list[str] = []
    token = _logged_errors.set(errors)
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # tifffile raises many types for damaged files
        errors.append(str(error) or type(error).__name__)
    finally:
        _logged_errors.reset(token)
    if errors:  # tifffile logs a truncated page chain without raising
        reason = " ".join(errors[0].split())[:200]
        raise UserError(f"{path}: cannot be read as TIFF ({reason}); download or save it again")


def check_directories(path: pathlib.Path) -> None:
    """Checks that tifffile can open a file within limited memory and time.

    tifffile reads the tables of strips and tiles when it opens a page, and follows the chain of
    pages even if it is circular.

    Raises:
      ValueError: the directories are truncated, circular, overlapping or too large.
    """
    with open(path, "rb") as file:
        head, size = file.read(16), file.seek(0, 2)
        order, big = "<" if head[:2] == b"II" else ">", head[2:4] in (b"+\0", b"\0+")
        if head[:2] not in (b"II", b"MM") or len(head) < 16:
            return  # tifffile will raise the error
        count, entry, offset = ("Q", "HHQ8x", "Q") if big else ("H", "HHI4x", "I")
        count, entry, offset = (struct.Struct(order + x) for x in (count, entry, offset))
        (position,) = offset.unpack_from(head, 8 if big else 4)
        seen = 0
        while position:
            file.seek(min(position, size))
            (entries,) = count.unpack(file.read(count.size).ljust(count.size, b"\0"))
            length = min(entries, 4097) * entry.size  # tifffile's limit is 4096 entries
            content = file.read(length + offset.size)
            seen += count.size + length
            if len(content) < length + offset.size:
                raise ValueError(f"a directory of {entries} entries is truncated")
            if seen > size:
                raise ValueError("the chain of pages is circular, or pages overlap")
            for tag, kind, values in entry.iter_unpack(content[:length]):
                most = MAX_LENGTH if kind in BYTES else MAX_NUMBERS
                if values > most and tag in tifffile.TIFF.TAG_LOAD:
                    raise ValueError(f"tag {tag} has {values} values; at most {most} are read")
            (position,) = offset.unpack_from(content, length)


def claimed_bytes(page: Any, size: int) -> int:
    """Returns the size of a page's pixels according to its header.

    Args:
      page: the page, a `tifffile.TiffPage` or `TiffFrame`.
      size: size of the file in bytes.

    Returns:
      The decompressed size in bytes; 0 for an unknown pixel type.

    Raises:
      ValueError: the page provably claims more pixels than the file contains.
    """
    number, segments = page.index, math.prod(page.chunked)
    offsets, counts = page.dataoffsets, page.databytecounts
    if not len(offsets) == len(counts) == segments:
        raise ValueError(
            f"page {number} lacks some of the {segments} strips or tiles that its size needs"
        )
    if page.is_contiguous:
        inside = 0 <= offsets[0] <= size - page.nbytes
    else:
        inside = all(0 <= a and 0 <= n <= size - a for a, n in zip(offsets, counts, strict=True))
        if page.compression == 1 and 0 not in counts:
            bits = page.bitspersample
            bits = bits if isinstance(bits, int) else min(bits)
            inside = inside and math.prod(page.shape) * bits <= 8 * sum(counts)
    if not inside:
        raise ValueError(f"page {number} has more pixels than a file of {size} bytes can hold")
    return page.nbytes


def check_segment(page: Any, data: bytes) -> None:
    """Checks the size of a strip or tile that is compressed as JPEG or JPEG 2000.

    The decoders follow the size in the JPEG header and fill in pixels without data.

    Args:
      page: the page.
      data: the compressed strip or tile.

    Raises:
      ValueError: the JPEG is larger than the strip or tile.
    """
    most = page.chunks[:2]
    for part in (page.jpegheader or b"", data):
        size = _jpeg_size(part)
        # The encoded size may be rounded up to whole blocks, whose side is at most 64 pixels.
        if size and any(a > b + 64 for a, b in zip(size, most, strict=True)):
            raise ValueError(f"a JPEG of {size[0]}x{size[1]} pixels in a strip or tile of {most}")


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Returns the height and width in a JPEG or JPEG 2000 header, or None if there is none."""
    found = data.find(b"\xff\x4f\xff\x51", 0, 200)
    if found >= 0 and len(data) >= found + 16:
        width, height = struct.unpack_from(">II", data, found + 8)
        return height, width
    position = 2
    while data[:2] == b"\xff\xd8" and position + 9 <= len(data):
        marker, length, _, height, width = struct.unpack_from(">HHBHH", data, position)
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):
            return height, width
        position += length + 2 if marker >> 8 == 0xFF and marker != 0xFFFF else 1
    return None


def _check(file: tifffile.TiffFile) -> None:
    """Raises a `ValueError` for damage that tifffile ignores and for files too large to read."""
    size, total = file.filehandle.size, 0
    pages: Any = file.pages
    for number, page in enumerate(pages):
        kind: Any = page.keyframe
        if kind.compression in FAX:
            raise ValueError(
                "fax encoding, in which missing data cannot be detected; save it as PNG"
            )
        total += page.nbytes
        if not page.nbytes or total > max(MAX_BYTES, MAX_RATIO * size):
            raise ValueError(
                f"page {number} is empty, or has more pixels than a file of {size} bytes can hold"
            )
        claimed_bytes(page, size)
        # tifffile fills a strip or tile that has no data with 0.
        if 0 in page.dataoffsets or 0 in page.databytecounts:
            raise ValueError(f"page {number} lacks strips or tiles")
        if kind.compression in tifffile.TIFF.IMAGE_COMPRESSIONS:
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                file.filehandle.seek(offset)
                check_segment(kind, file.filehandle.read(count))
    if file.series[0].nbytes != total and len(file.pages) > 1:
        raise ValueError("the pages differ in size or type")
