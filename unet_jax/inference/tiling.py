"""Large images by overlapping tiles: where tiles lie, what they see, how they are joined.

Ronneberger et al., 2015 (https://arxiv.org/abs/1505.04597), fig. 2. Plain geometry, in numpy: the
image and its probabilities pass in bands of rows, so that neither is ever whole in memory.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator

import numpy as np


@dataclasses.dataclass(frozen=True)
class Axis:
    """The tiles along one axis of an image: as few as will do, spread evenly.

    Every tile starts at a multiple of 2^depth, so that its poolings have the same windows as those
    of the whole image. The last may reach beyond the image, to the next such multiple.
    """

    length: int  # of the image, pixels
    side: int  # of a tile, pixels
    overlap: int  # that two neighbours share at least, pixels
    starts: tuple[int, ...]  # the first pixel of each tile

    @classmethod
    def plan(cls, length: int, side: int, overlap: int, multiple: int) -> "Axis":
        """Tiles of `side`, or of what the image needs if that is less; all multiples of `multiple`.

        `overlap` is less than `side`.
        """
        end = round_up(length, multiple)
        count = 1 + max(0, math.ceil((end - side) / (side - overlap)))
        side = min(side, end)
        last, gaps = (end - side) // multiple, max(count - 1, 1)
        starts = tuple(i * last // gaps * multiple for i in range(count))
        return cls(length, side, overlap, starts)

    def weights(self, tile: int) -> np.ndarray:
        """How much a tile counts at each of its pixels, float32 [side].

        At every pixel those of all tiles sum to one. One tile gives way to the next along a raised
        cosine in the middle quarter of their overlap: nearer to its end than 3/8 of it, where it
        saw the least of what is around, a tile counts nothing.
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
        """What a tile counts before all are made to sum to one, float64 [side]."""
        window = np.ones(self.side)
        if tile > 0:  # but not where the image begins
            window *= self._rise
        if tile < len(self.starts) - 1:  # nor where it ends
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
        """For each tile, the first pixel that it leaves to those after it."""
        return (*self.starts[1:], self.length)


def round_up(length: int, multiple: int) -> int:
    return length + -length % multiple


def seen_pixels(start: int, stop: int, length: int) -> np.ndarray:
    """Where pixels `start` ... `stop` - 1 of an axis lie in an image of `length`, int [N].

    Beyond its ends the image is mirrored, as often as it takes; an end is not repeated.
    """
    places = np.arange(start, stop) % max(2 * (length - 1), 1)
    return np.minimum(places, 2 * (length - 1) - places)


def blend(tiles: Iterable[np.ndarray], rows: Axis, columns: Axis) -> Iterator[np.ndarray]:
    """Tiles [side, side, K] in row order -> the image [H, W, K] in bands of complete rows.

    A band, float32 [rows, W, K], is only good until the next one is asked for.
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
