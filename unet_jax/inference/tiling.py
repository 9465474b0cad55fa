"""Overlap-tile strategy for large images: tile positions, mirrored margins and blending.

Source: Ronneberger et al., 2015 (https://arxiv.org/abs/1505.04597), fig. 2. This module computes
only geometry, in numpy. An image and its probabilities are processed in bands of rows, so that
neither is ever in memory as a whole.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator

import numpy as np


@dataclasses.dataclass(frozen=True)
class Axis:
    """The tiles along one axis of an image: the fewest that cover it, evenly spaced.

    Every tile starts at a multiple of `Network.multiple`, so that its pooling windows are those of
    the whole image. The last tile may extend beyond the image to the next such multiple.
    """

    length: int  # length of the image, pixels
    side: int  # length of a tile, pixels
    overlap: int  # least overlap of neighbouring tiles, pixels
    starts: tuple[int, ...]  # first pixel of each tile

    @classmethod
    def plan(cls, length: int, side: int, overlap: int, multiple: int) -> "Axis":
        """Plans the tiles along an axis.

        Args:
          length: length of the image, pixels.
          side: length of a tile, pixels, a multiple of `multiple`. A shorter image has one tile of
            its length, rounded up to a multiple.
          overlap: least overlap of neighbouring tiles, pixels, less than `side`.
          multiple: divisor of all positions, see `Network.multiple`.
        """
        end = round_up(length, multiple)
        count = 1 + max(0, math.ceil((end - side) / (side - overlap)))
        side = min(side, end)
        last, gaps = (end - side) // multiple, max(count - 1, 1)
        starts = tuple(i * last // gaps * multiple for i in range(count))
        return cls(length, side, overlap, starts)

    def weights(self, tile: int) -> np.ndarray:
        """Returns the blending weights of a tile's pixels, float32 [side].

        The weights of all tiles sum to one at every pixel. A raised cosine in the middle quarter of
        an overlap moves the weight from one tile to the next. In the outer 3/8 of the overlap,
        where a tile has the least context, its weight is 0.

        Args:
          tile: index of the tile.
        """
        start, total = self.starts[tile], np.zeros(self.side)
        first = last = tile
        while first and start - self.starts[first - 1] < self.side:
            first -= 1
        while last + 1 < len(self.starts) and self.starts[last + 1] - start < self.side:
            last += 1
        for other in range(first, last + 1):
            shift = self.starts[other] - start
            here, there = max(shift, 0), max(-shift, 0)
            total[here : self.side - there] += self._window(other)[there : self.side - here]
        return (self._window(tile) / total).astype(np.float32)

    def _window(self, tile: int) -> np.ndarray:
        """Returns a tile's weights before normalisation, float64 [side]."""
        # Weights do not fall off at the ends of the image, where there is no neighbouring tile.
        window = np.ones(self.side)
        if tile > 0:
            window *= self._rise
        if tile < len(self.starts) - 1:
            window *= self._rise[::-1]
        return window

    @functools.cached_property
    def _rise(self) -> np.ndarray:
        if not self.overlap:
            return np.ones(self.side)
        pixels = np.arange(self.side) + 0.5
        ramp = np.clip((pixels / self.overlap - 3 / 8) * 4, 0, 1)
        return np.sin(ramp * np.pi / 2) ** 2

    @property
    def ends(self) -> tuple[int, ...]:
        """For each tile, the end of the pixels that no later tile overlaps."""
        return (*self.starts[1:], self.length)


def round_up(length: int, multiple: int) -> int:
    """Returns the smallest multiple of `multiple` that is at least `length`."""
    return length + -length % multiple


def seen_pixels(start: int, stop: int, length: int) -> np.ndarray:
    """Returns the source pixels of positions `start` ... `stop` - 1 along an axis, int [N].

    Beyond its ends the image is mirrored, repeatedly if needed, without repeating the end pixel.

    Args:
      start: first position, pixels; may be negative.
      stop: position after the last, pixels; may exceed `length`.
      length: length of the image, pixels.
    """
    places = np.arange(start, stop) % max(2 * (length - 1), 1)
    return np.minimum(places, 2 * (length - 1) - places)


def blend(tiles: Iterable[np.ndarray], rows: Axis, columns: Axis) -> Iterator[np.ndarray]:
    """Blends the tiles of an image with the weights of `Axis.weights`.

    Args:
      tiles: probabilities [rows.side, columns.side, K] of each tile, in row-major order.
      rows: the tiles along the height.
      columns: the tiles along the width.

    Yields:
      The image [H, W, K] in bands of complete rows, float32 [rows, W, K]. A band is a view that
      is valid only until the next one is requested.
    """
    tiles, sums = iter(tiles), np.empty(0, np.float32)
    across = [columns.weights(column) for column in range(len(columns.starts))]
    for row, (top, end) in enumerate(zip(rows.starts, rows.ends, strict=True)):
        height = min(rows.side, rows.length - top)
        down = rows.weights(row)[:height, None]
        for column, left in enumerate(columns.starts):
            width = min(columns.side, columns.length - left)
            tile = next(tiles)
            if not sums.size:
                sums = np.zeros((rows.side, columns.length, tile.shape[2]), np.float32)
            weight = down * across[column][:width]
            sums[:height, left : left + width] += tile[:height, :width] * weight[..., None]
        complete = end - top
        yield sums[:complete]
        sums[: rows.side - complete] = sums[complete:]
        sums[rows.side - complete :] = 0
