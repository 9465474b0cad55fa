"""Areas of annotated objects as pixels.

A pixel belongs to an area if its centre lies inside. Coordinates (x, y) are in pixels, and integers
are the corners of pixels: the centre of the pixel in row i and column j is (j + 0.5, i + 0.5). A
centre exactly on a left or upper edge is inside, one on a right or lower edge is not, so that areas
with a common edge share no pixel and leave no gap.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

Size = tuple[int, int]  # height and width, pixels


@dataclasses.dataclass(frozen=True)
class Patch:
    """The pixels of an area, in a rectangular part of the image."""

    top: int  # row of the part's first pixel
    left: int  # column of the part's first pixel
    inside: np.ndarray  # bool [h, w]
    clipped: bool = False  # whether the area extends beyond the image

    def paint(self, mask: np.ndarray, value: int) -> None:
        """Sets the pixels of the area in a mask of the whole image, [H, W]."""
        height, width = self.inside.shape
        part = mask[self.top : self.top + height, self.left : self.left + width]
        part[self.inside] = value


def fill_rings(rings: Sequence[np.ndarray], size: Size) -> Patch:
    """Fills the area within closed polygonal rings by the even-odd rule: an inner ring is a hole.

    Args:
      rings: corners (x, y) of each ring, float64 [N, 2]; the last corner is joined to the first.
      size: (height, width) of the image.
    """
    start = np.concatenate(rings)
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    top, bottom, left, right, clipped = _limits(start.min(axis=0), start.max(axis=0), size)
    descends = (start[:, 1] <= end[:, 1])[:, None]
    (x0, y0), (x1, y1) = np.where(descends, start, end).T, np.where(descends, end, start).T
    # An edge crosses the centres of the rows first, ..., last - 1; a horizontal edge crosses none.
    first = np.clip(np.ceil(y0 - 0.5), top, bottom).astype(np.int64)
    last = np.clip(np.ceil(y1 - 0.5), top, bottom).astype(np.int64)
    count = last - first
    edge = np.repeat(np.arange(len(count)), count)
    rows = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    x = x0[edge] + (rows + 0.5 - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
    columns = np.clip(np.ceil(x - 0.5), left, right).astype(np.int64)
    # Each crossing toggles all pixels to its right.
    toggled = np.zeros((bottom - top, right - left + 1), np.uint8)
    np.bitwise_xor.at(toggled, (rows - top, columns - left), 1)
    inside = np.bitwise_xor.accumulate(toggled, axis=1)[:, :-1].astype(bool)
    return Patch(top, left, inside, clipped)


def fill_ellipse(
    centre: tuple[float, float], radii: tuple[float, float], degrees: float, size: Size
) -> Patch:
    """Fills an ellipse.

    Args:
      centre: (x, y).
      radii: radii along x and y before the rotation, pixels.
      degrees: clockwise rotation around the centre, as viewed with y downwards.
      size: (height, width) of the image.
    """
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    extent = np.hypot([radii[0] * cos, radii[0] * sin], [radii[1] * sin, radii[1] * cos])
    box = _limits(np.subtract(centre, extent), np.add(centre, extent), size)
    top, bottom, left, right, clipped = box
    x = np.arange(left, right) + 0.5 - centre[0]
    y = (np.arange(top, bottom) + 0.5 - centre[1])[:, None]
    along, across = x * cos + y * sin, y * cos - x * sin
    # Multiplied out, so that a radius of 0 has no pixel and raises no error.
    product = (radii[0] * radii[1]) ** 2
    inside = (along * radii[1]) ** 2 + (across * radii[0]) ** 2 < product
    return Patch(top, left, inside, clipped)


def place(top: int, left: int, inside: np.ndarray, size: Size) -> Patch:
    """Returns the part of a mask, bool [h, w], that lies within the image.

    Args:
      top: row of its first pixel, which may be outside the image.
      left: column of its first pixel.
      inside: the mask.
      size: (height, width) of the image.
    """
    rows = slice(max(0, -top), max(0, size[0] - top))
    columns = slice(max(0, -left), max(0, size[1] - left))
    part = inside[rows, columns]
    return Patch(max(0, top), max(0, left), part, part.sum() < inside.sum())


def _limits(low: np.ndarray, high: np.ndarray, size: Size) -> tuple[int, int, int, int, bool]:
    """Returns the rows and columns whose centres are between two corners, and whether some are cut.

    The rows are top, ..., bottom - 1, the columns left, ..., right - 1.
    """
    (first_x, first_y), (last_x, last_y) = (np.ceil(corner - 0.5) for corner in (low, high))
    clipped = first_y < 0 or first_x < 0 or last_y > size[0] or last_x > size[1]
    top, bottom = (int(np.clip(y, 0, size[0])) for y in (first_y, last_y))
    left, right = (int(np.clip(x, 0, size[1])) for x in (first_x, last_x))
    return top, bottom, left, right, bool(clipped)
