"""Reading TIFF so that a damaged file is an error, never a shorter array."""

import contextlib
import logging
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tifffile

from unet_jax.errors import UserError

# What is unpacked to more bytes than this, and than that many times its file's, is refused.
MAX_BYTES, MAX_RATIO = 2**28, 1024
FAX = (2, 3, 4)  # compressions whose decoders pass over what is broken


class _Complaints(logging.Handler):
    """Collects what a library only logs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


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
    # An OME file may name others, which would be read with it.
    with refuse_damage(path), tifffile.TiffFile(path, is_ome=False) as file:
        _check(file)
        yield file


@contextlib.contextmanager
def refuse_damage(path: pathlib.Path) -> Iterator[None]:
    """Whatever tifffile finds wrong in the context, by exception or by log, is a `UserError`."""
    logger, complaints = logging.getLogger("tifffile"), _Complaints()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(complaints)
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # tifffile raises many kinds for broken files
        complaints.messages.append(str(error) or type(error).__name__)
    finally:
        logger.removeHandler(complaints)
        logger.propagate = propagate
    if complaints.messages:  # a page chain that breaks off is logged, not raised
        reason = complaints.messages[0].splitlines()[0][:200]
        raise UserError(f"{path}: cannot be read as TIFF ({reason}); fetch or write it again")


def _check(file: tifffile.TiffFile) -> None:
    """Raises a `ValueError` for what tifffile passes over, or would take for ever to read."""
    size, total = file.filehandle.size, 0
    pages: Any = file.pages
    for number, page in enumerate(pages):
        kind: Any = page.keyframe
        if kind.compression in FAX:
            raise ValueError("fax encoding, of which a part may be missing unseen")
        segments, total = math.prod(kind.chunked), total + page.nbytes
        if not page.nbytes or total > max(MAX_BYTES, MAX_RATIO * size):
            raise ValueError(f"page {number} is empty, or more than its {size} bytes can hold")
        # Strips or tiles; one that is nowhere would be 0 everywhere.
        if not len(page.dataoffsets) == len(page.databytecounts) == segments:
            raise ValueError(f"page {number} has not the {segments} strips or tiles of its size")
        if 0 in page.dataoffsets or 0 in page.databytecounts:
            raise ValueError(f"page {number} lacks strips or tiles")
    if file.series[0].nbytes != total and len(file.pages) > 1:
        raise ValueError("its pages are not of one kind")
