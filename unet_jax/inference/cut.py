"""Converts images to inputs of the network, and the probabilities of these back to images."""

import itertools
import pathlib
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from unet_jax.core.errors import UserError
from unet_jax.data.files.pages import Page
from unet_jax.data.fit import Fit
from unet_jax.data.intensities import check_type
from unet_jax.data.resize import (
    pad_image,
    resize_from_bands,
    resize_image,
    resize_in_bands,
    resize_smooth,
    round_to,
)
from unet_jax.inference import tiling
from unet_jax.inference.predictor import Predictor
from unet_jax.inference.tiling import Axis

# Memory limit for a band of rows with its pixels and probabilities. Tiles that exceed it get fewer
# rows.
BAND_BYTES = 2**30

Size = tuple[int, int]


class NetworkInput(NamedTuple):
    """A tile of an image, or a whole image."""

    image: np.ndarray  # stored values [H, W, C]
    surrounded: bool  # whether `image` includes the margin of an unpadded network


class Cut:
    """Converts images to network inputs, and the resulting probabilities back to images.

    Args:
      config: the run's config.
      predictor: the network.
      side: side of a tile, pixels; larger images are split into tiles.
      sizes: (height, width) of all images, pixels, from which padded shapes are chosen.
    """

    def __init__(self, config: ConfigDict, predictor: Predictor, side: int, sizes: Sequence[Size]):
        self._fit, self._predictor, multiple = Fit.of(config.data), predictor, predictor.multiple
        self._side = tiling.round_up(side, multiple)
        # Tiles of an unpadded network include their margins, and so need no overlap. Tiles of a
        # padded network overlap by its receptive field, or by half a tile if that is less.
        field = tiling.round_up(2 * predictor.margin, multiple)
        self.overlap = 0 if predictor.unpadded else min(field, side // 2 // multiple * multiple)
        self.margin = predictor.margin if predictor.unpadded else 0
        # This includes the copies that are made of the pixels and the probabilities.
        self._bytes_per_pixel = 8 * (predictor.channels + config.model.classes)
        whole = [size for size in sizes if not self.is_tiled(size)]
        self._shapes = self._fit.shapes(whole)

    def is_tiled(self, size: Size) -> bool:
        """Returns whether an image of this size is split into tiles."""
        return not self._fit.resizes and max(size) > self._side

    def shape(self, size: Size) -> Size:
        """Returns the (height, width) of network inputs for an image size, without margins."""
        if self.is_tiled(size):
            rows, columns = self._axes(size)
            return rows.side, columns.side
        return self._shapes[size]

    def _axes(self, size: Size) -> tuple[Axis, Axis]:
        multiple, height = self._predictor.multiple, self._side
        # Tiles of very wide images get fewer rows. The least height is 1.5 times the overlap
        # or margins, so that these increase the computation at most threefold.
        least = tiling.round_up(3 * max(self.overlap, 2 * self.margin) // 2, multiple)
        while self._is_too_high(height, size) and height > max(least, multiple):
            height = max(tiling.round_up(height // 2, multiple), least)
        rows = Axis.plan(size[0], height, self.overlap, multiple)
        return rows, Axis.plan(size[1], self._side, self.overlap, multiple)

    def _is_too_high(self, height: int, size: Size) -> bool:
        height = min(height, tiling.round_up(size[0], self._predictor.multiple))
        return height + 2 * self.margin > self._most_rows(size)

    def _most_rows(self, size: Size) -> int:
        """Returns how many rows of an image of this size may be in memory at a time."""
        return BAND_BYTES // (size[1] * self._bytes_per_pixel)

    def _resizes_in_bands(self, size: Size) -> bool:
        return size[0] > self._most_rows(size)

    def check(self, path: pathlib.Path, size: Size) -> None:
        """Raises a `UserError` if even the smallest band of an image exceeds `BAND_BYTES`."""
        too_wide = self._most_rows(size) < 1
        if self.is_tiled(size):
            too_wide = self._is_too_high(self._axes(size)[0].side, size)
        if too_wide:
            raise UserError(
                f"{path}: {size[1]} pixels wide; a band of tiles of this width takes more "
                f"than {BAND_BYTES / 2**30:g} GiB; split the image"
            )

    def checked_tiles(
        self, path: pathlib.Path, page: Page, dtypes: Collection[str]
    ) -> Iterator[NetworkInput]:
        """Yields the network inputs of an image (see `tiles`) that the network can be applied to.

        Args:
          path: the image's file, for messages.
          page: the image.
          dtypes: `data.dtype` of each run.

        Raises:
          UserError: the image is too wide, or its values are of another type.
        """
        self.check(path, page.size)
        for tile in self.tiles(page):
            check_type(path, tile.image.dtype, dtypes)
            yield tile

    def tiles(self, page: Page) -> Iterator[NetworkInput]:
        """Yields the network inputs of an image, in row-major order."""
        if not self.is_tiled(page.size):
            yield NetworkInput(self._fitted(page), False)
            return
        rows, columns = self._axes(page.size)
        inside = [self._seen(columns, start) for start in columns.starts]
        for start in rows.starts:
            seen = self._seen(rows, start)
            first = seen.min()
            band = page.rows(first, seen.max() + 1)[seen - first]
            for across in inside:
                yield NetworkInput(np.take(band, across, axis=1), self.margin > 0)

    def _fitted(self, page: Page) -> np.ndarray:
        """Returns an image that is not tiled, resized or padded to the network's input shape."""
        size, shape = page.size, self.shape(page.size)
        if not self._fit.resizes:
            return pad_image(page.rows(0, size[0]), *shape)
        if not self._resizes_in_bands(size):
            return resize_image(page.rows(0, size[0]), *shape)
        step = -(-self._most_rows(size) // 16)
        bands = (page.rows(top, min(top + step, size[0])) for top in range(0, size[0], step))
        first = next(bands)
        resized = resize_from_bands(itertools.chain([first], bands), size, *shape)
        return round_to(resized, first.dtype)

    def _seen(self, axis: Axis, start: int) -> np.ndarray:
        start -= self.margin
        return tiling.seen_pixels(start, start + self._predictor.input_side(axis.side), axis.length)

    def join(self, size: Size, probabilities: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Joins the probabilities of an image's network inputs.

        Args:
          size: (height, width) of the image, pixels.
          probabilities: float32 [H, W, K] of each input, in the order of `tiles`.

        Returns:
          The image's probabilities in bands of rows, float32 [rows, W, K].
        """
        if self.is_tiled(size):
            return tiling.blend(probabilities, *self._axes(size))
        whole = next(probabilities)
        if self._fit.resizes:
            if self._resizes_in_bands(size):
                return resize_in_bands(whole, *size, -(-self._most_rows(size) // 16))
            return iter([resize_smooth(whole, *size)])
        return iter([self._fit.without_padding(whole, size)])
