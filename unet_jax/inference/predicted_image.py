"""What is known of an image once its mask is complete, for pictures, outlines and measurements."""

import functools
import math

import numpy as np

from unet_jax.data.files.pages import Page
from unet_jax.reporting.overlays import painted

LONGEST_SIDE = 2048  # pixels; pictures of larger images are decimated
STRIP = 256  # most rows in a strip; `STRIP_PIXELS` allows fewer in a wide image
STRIP_PIXELS = 2**26  # most pixels in a strip, unless one row has more


def strip_height(width: int, step: int = 1) -> int:
    """Returns how many rows of an image are read or written at a time.

    Args:
      width: width of the image, pixels.
      step: decimation step; every `step`th row is used.
    """
    return min(STRIP * step, max(1, STRIP_PIXELS // width))


class PredictedImage:
    """An image and its mask, which is added in bands.

    Args:
      size: (height, width) of the image, pixels.
      classes: number of classes, at least 2.
      page: the image in the input file, if its pixels will be used.
      whole: whether `mask` will be used.
    """

    def __init__(self, size: tuple[int, int], classes: int, page: Page | None, whole: bool):
        self._classes, self._page = classes, page
        self._step = math.ceil(max(size) / LONGEST_SIDE)
        self._small = np.empty([math.ceil(length / self._step) for length in size], np.uint8)
        self._whole = np.empty(size, np.uint8) if whole else None

    def add_rows(self, top: int, ids: np.ndarray) -> None:
        """Adds the next rows of the mask.

        Args:
          top: index of the first.
          ids: their class ids, uint8 [rows, W].
        """
        step, end = self._step, top + len(ids)
        self._small[-(-top // step) : -(-end // step)] = ids[-top % step :: step, ::step]
        if self._whole is not None:
            self._whole[top:end] = ids

    @property
    def mask(self) -> np.ndarray:
        """The class ids, uint8 [H, W]."""
        assert self._whole is not None, "it was not kept"
        return self._whole

    @functools.cached_property
    def pixels(self) -> np.ndarray:
        """The stored values, [h, w, C], every `n`th row and column if a side is too long.

        They are read from the input file again.

        Raises:
          UserError: the file cannot be read.
        """
        assert self._page is not None, "it is not open"
        page, step = self._page, self._step
        height, width = page.size
        rows = strip_height(width, step)
        bands = ((top, page.rows(top, min(top + rows, height))) for top in range(0, height, rows))
        return np.concatenate([band[-top % step :: step, ::step] for top, band in bands])

    @functools.cached_property
    def overlay(self) -> np.ndarray:
        """The mask on `pixels`, uint8 [h, w, 3]."""
        return painted(self.pixels, self._small, self._classes)
