"""Reading TIFF so that a damaged file is an error, never a shorter array."""

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

# What is unpacked to more bytes than this, and than that many times its file's, is refused.
MAX_BYTES, MAX_RATIO = 2**28, 1024
# Of a directory entry: texts and other bytes, and numbers, which tifffile keeps as Python's.
MAX_LENGTH, MAX_NUMBERS = 2**26, 2**21
FAX = (2, 3, 4)  # compressions whose decoders pass over what is broken
BYTES = (1, 2, 6, 7)  # types of directory entries that take one byte each

# What tifffile logged of the file that this thread reads; None while it reads none.
_complaints: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar(
    "complaints", default=None
)


def _route(record: logging.LogRecord) -> bool:
    """Keeps a record for the thread that reads the file; it is logged where no file is read."""
    complaints = _complaints.get()
    if complaints is not None and record.levelno >= logging.ERROR:
        complaints.append(record.getMessage())
    return complaints is None


# Once and for all threads: another handler for each file would hear of the others' damage too.
_logger = logging.getLogger("tifffile")
_logger.addFilter(_route)
_logger.setLevel(logging.WARNING)  # errors are seen whatever the level of the other loggers is


def read_tiff(path: pathlib.Path) -> np.ndarray:
    """The pixels of all pages. Raises a `UserError` if any of the file cannot be read."""
    with _checked(path) as file:
        return file.asarray()


def check_tiff(path: pathlib.Path) -> None:
    """Raises a `UserError` if a TIFF does not say where all of its pixels are."""
    with _checked(path):
        pass


@contextlib.contextmanager
def _checked(path: pathlib.Path) -> Iterator[tifffile.TiffFile]:
    """The file; whatever is wrong with it in the context is a `UserError`."""
    with refuse_damage(path):
        check_directories(path)
        # An OME file may name others, which would be read with it.
        with tifffile.TiffFile(path, is_ome=False) as file:
            _check(file)
            yield file


@contextlib.contextmanager
def refuse_damage(path: pathlib.Path) -> Iterator[None]:
    """Whatever tifffile finds wrong in the context, by exception or by log, is a `UserError`."""
    complaints: list[str] = []
    token = _complaints.set(complaints)
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # tifffile raises many kinds for broken files
        complaints.append(str(error) or type(error).__name__)
    finally:
        _complaints.reset(token)
    if complaints:  # a page chain that breaks off is logged, not raised
        reason = " ".join(complaints[0].split())[:200]
        raise UserError(f"{path}: cannot be read as TIFF ({reason}); fetch or write it again")


def check_directories(path: pathlib.Path) -> None:
    """Raises a `ValueError` for directories that tifffile would need too much memory or time for.

    It unpacks the tables of strips and tiles when it opens a page, and follows the chain of pages
    wherever that leads.
    """
    with open(path, "rb") as file:
        head, size = file.read(16), file.seek(0, 2)
        order, big = "<" if head[:2] == b"II" else ">", head[2:4] in (b"+\0", b"\0+")
        if head[:2] not in (b"II", b"MM") or len(head) < 16:
            return  # tifffile says that this is no TIFF
        count, entry, offset = ("Q", "HHQ8x", "Q") if big else ("H", "HHI4x", "I")
        count, entry, offset = (struct.Struct(order + x) for x in (count, entry, offset))
        (place,) = offset.unpack_from(head, 8 if big else 4)
        seen = 0
        while place:
            file.seek(min(place, size))
            (entries,) = count.unpack(file.read(count.size).ljust(count.size, b"\0"))
            length = min(entries, 4097) * entry.size  # tifffile refuses more
            content = file.read(length + offset.size)
            seen += count.size + length
            if len(content) < length + offset.size:
                raise ValueError(f"a directory of {entries} entries breaks off")
            if seen > size:
                raise ValueError("its pages go round in a circle, or overlap")
            for tag, kind, values in entry.iter_unpack(content[:length]):
                most = MAX_LENGTH if kind in BYTES else MAX_NUMBERS
                if values > most and tag in tifffile.TIFF.TAG_LOAD:
                    raise ValueError(f"tag {tag} has {values} values; at most {most} are read")
            (place,) = offset.unpack_from(content, length)


def claimed_bytes(page: Any, size: int) -> int:
    """How many bytes of pixels a page claims, 0 for a type of pixels that is unknown.

    Raises a `ValueError` where that can be seen to be more than what its file of `size` bytes has.
    """
    number, segments = page.index, math.prod(page.chunked)
    offsets, counts = page.dataoffsets, page.databytecounts
    if not len(offsets) == len(counts) == segments:
        raise ValueError(f"page {number} has not the {segments} strips or tiles of its size")
    if page.is_contiguous:
        inside = 0 <= offsets[0] <= size - page.nbytes
    else:
        inside = all(0 <= a and 0 <= n <= size - a for a, n in zip(offsets, counts, strict=True))
        if page.compression == 1 and 0 not in counts:
            bits = page.bitspersample
            bits = bits if isinstance(bits, int) else min(bits)
            inside = inside and math.prod(page.shape) * bits <= 8 * sum(counts)
    if not inside:
        raise ValueError(f"page {number} has more pixels than its file of {size} bytes")
    return page.nbytes


def check_segment(page: Any, data: bytes) -> None:
    """Raises a `ValueError` for a strip or tile that is a JPEG or JPEG 2000 larger than it should.

    Their decoders go by what the JPEG says of its size, and make up the pixels that it lacks.
    """
    most = page.chunks[:2]
    for part in (page.jpegheader or b"", data):
        size = _jpeg_size(part)
        # Decoders may be asked for whole blocks, of 64 pixels at most.
        if size and any(a > b + 64 for a, b in zip(size, most, strict=True)):
            raise ValueError(f"a JPEG of {size[0]}x{size[1]} pixels in a part of {most}")


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Height and width that a JPEG or JPEG 2000 says it has, if it says so."""
    found = data.find(b"\xff\x4f\xff\x51", 0, 200)
    if found >= 0 and len(data) >= found + 16:
        width, height = struct.unpack_from(">II", data, found + 8)
        return height, width
    place = 2
    while data[:2] == b"\xff\xd8" and place + 9 <= len(data):
        marker, length, _, height, width = struct.unpack_from(">HHBHH", data, place)
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):
            return height, width
        place += length + 2 if marker >> 8 == 0xFF and marker != 0xFFFF else 1
    return None


def _check(file: tifffile.TiffFile) -> None:
    """Raises a `ValueError` for what tifffile passes over, or would take for ever to read."""
    size, total = file.filehandle.size, 0
    pages: Any = file.pages
    for number, page in enumerate(pages):
        kind: Any = page.keyframe
        if kind.compression in FAX:
            raise ValueError("fax encoding, of which a part may be missing unseen")
        total += page.nbytes
        if not page.nbytes or total > max(MAX_BYTES, MAX_RATIO * size):
            raise ValueError(f"page {number} is empty, or more than its {size} bytes can hold")
        claimed_bytes(page, size)
        # A strip or tile that is nowhere would be 0 everywhere.
        if 0 in page.dataoffsets or 0 in page.databytecounts:
            raise ValueError(f"page {number} lacks strips or tiles")
        if kind.compression in tifffile.TIFF.IMAGE_COMPRESSIONS:
            for place, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                file.filehandle.seek(place)
                check_segment(kind, file.filehandle.read(count))
    if file.series[0].nbytes != total and len(file.pages) > 1:
        raise ValueError("its pages are not of one kind")
