"""Reading TIFF so that a damaged file is an error, never a shorter array."""

import contextlib
import logging
import pathlib
from collections.abc import Iterator

import numpy as np
import tifffile

from unet_jax.errors import UserError


class _Complaints(logging.Handler):
    """Collects what a library only logs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


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
        reason = complaints.messages[0].splitlines()[0]
        raise UserError(f"{path}: cannot be read as TIFF ({reason}); fetch or write it again")


def read_tiff(path: pathlib.Path) -> np.ndarray:
    """The pixels of all pages. Raises a `UserError` if any of the file cannot be read."""
    with refuse_damage(path):
        return tifffile.imread(path)
