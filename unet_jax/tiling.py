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

    @functools.cached_property
    def weights(self) -> np.ndarray:
        """How much each tile counts at each of its pixels, float32 [tiles, side].

        At every pixel those of all tiles sum to one. One tile gives way to the next along a raised
        cosine in the middle quarter of their overlap: nearer to its end than 3/8 of it, where it
        saw the least of what is around, a tile counts nothing.
        """
        pixels = np.arange(self.side) + 0.5
        rise = np.ones(self.side)
        if self.overlap:
            ramp = np.clip((pixels / self.overlap - 3 / 8) * 4, 0, 1)
            rise = np.sin(ramp * np.pi / 2) ** 2
        windows = np.ones((len(self.starts), self.side))
        windows[1:] *= rise  # but not where the image begins
        windows[:-1] *= rise[::-1]  # nor where it ends
        total = np.zeros(self.starts[-1] + self.side)
        for start, window in zip(self.starts, windows, strict=True):
            total[start : start + self.side] += window
        totals = [total[start : start + self.side] for start in self.starts]
        return (windows / np.stack(totals)).astype(np.float32)

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
    for row, (top, end) in enumerate(zip(rows.starts, rows.ends, strict=True)):
        height = min(rows.side, rows.length - top)
        for column, left in enumerate(columns.starts):
            width = min(columns.side, columns.length - left)
            tile = next(tiles)
            if not sums.size:
                sums = np.zeros((rows.side, columns.length, tile.shape[2]), np.float32)
            weight = rows.weights[row, :height, None] * columns.weights[column, :width]
            sums[:height, left : left + width] += tile[:height, :width] * weight[..., None]
        complete = end - top
        yield sums[:complete]
        sums[: rows.side - complete] = sums[complete:]
        sums[rows.side - complete :] = 0
