"""Outlines of the regions of a mask, exactly along the edges of pixels.

A region is a 4-connected component of one class. Its outline is a polygon of horizontal and
vertical edges, in the coordinates of `areas`, so that filling it gives the same pixels. Rings are
simple: none touches itself, and two of them share single points at most, as GeoJSON requires.
"""

import dataclasses
from collections.abc import Iterator

import cv2
import numpy as np

# The corners of a pixel: offset of the corner, and direction to the pixels that share it, (row,
# column). Where two pixels of a region share only a corner, two rings meet there. The last two
# numbers order these along the row and along the column, so that each ring stays around the pixel
# outside that it encloses.
CORNERS = (
    ((0, 0), (-1, -1), 1, 0),
    ((0, 1), (-1, 1), 1, 1),
    ((1, 0), (1, -1), 0, 0),
    ((1, 1), (1, 1), 0, 1),
)


Ring = list[tuple[int, int]]  # corners (x, y); the last one is joined to the first


@dataclasses.dataclass(frozen=True)
class Region:
    """A connected region of a mask."""

    value: int  # the mask's value in it
    rings: list[Ring]  # the outer ring, then the holes


def find_regions(mask: np.ndarray) -> list[Region]:
    """Returns the regions of a mask by value, from top to bottom.

    The outer ring has a positive area in (x, y), and holes have a negative one.

    Args:
      mask: class ids, uint8 [H, W]; 0 is in no region.
    """
    numbers, values = _number_regions(mask)
    corners, region = _find_corners(numbers)
    rings: list[list[tuple[int, Ring]]] = [[] for _ in values]
    for number, area, ring in _follow(corners, region):
        rings[number - 1].append((area, ring))
    regions = []
    for value, found in zip(values, rings, strict=True):
        found.sort(key=lambda entry: -abs(entry[0]))  # the outer ring encloses all others
        ordered = [
            ring if (area > 0) == (place == 0) else ring[::-1]
            for place, (area, ring) in enumerate(found)
        ]
        regions.append(Region(value, ordered))
    return regions


def _number_regions(mask: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Returns the number of each pixel's region from 1, int32 [H, W], and the regions' values."""
    numbers, values = np.zeros(mask.shape, np.int32), []
    for value in np.flatnonzero(np.bincount(mask.ravel(), minlength=1)).tolist():
        if value:
            count, found = cv2.connectedComponents(
                (mask == value).astype(np.uint8), connectivity=4, ltype=cv2.CV_32S
            )
            np.add(found, len(values), out=numbers, where=found > 0)
            values += [value] * (count - 1)
    return numbers, values


def _find_corners(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the corners of all rings, int64 [N, 4], and the region of each, int32 [N].

    A corner is its row, its column, and its order along the row and along the column among the
    corners at the same point.
    """
    padded = np.pad(numbers, 1)
    inner = padded[1:-1, 1:-1]
    height, width = inner.shape
    corners, regions = [], []
    for (row, column), (down, right), along_row, along_column in CORNERS:
        shifted = (
            padded[1 + i : 1 + i + height, 1 + j : 1 + j + width] == inner
            for i, j in ((0, right), (down, 0), (down, right))
        )
        beside, above, diagonal = shifted
        # Convex if neither neighbour is in the region, concave if both are and the pixel between
        # them is not.
        is_corner = (inner > 0) & (beside == above) & ~(beside & diagonal)
        rows, columns = np.nonzero(is_corner)
        order = np.full((2, len(rows)), [[along_row], [along_column]])
        corners.append(np.stack([rows + row, columns + column, *order], axis=1))
        regions.append(inner[is_corner])
    return np.concatenate(corners), np.concatenate(regions)


def _follow(corners: np.ndarray, region: np.ndarray) -> Iterator[tuple[int, int, Ring]]:
    """Yields the region, the signed area and the corners of each ring.

    Along a row, and along a column, the corners of a region are the ends of its edges in turn.
    """
    row, column, along_row, along_column = corners.T
    by_row = np.lexsort((along_row, column, row, region))
    by_column = np.lexsort((along_column, row, column, region))
    partners = []
    for order in (by_row, by_column):
        partner = np.empty(len(corners), np.int64)
        partner[order[::2]], partner[order[1::2]] = order[1::2], order[::2]
        partners.append(partner.tolist())
    across, down = partners
    x, y, numbers = column.tolist(), row.tolist(), region.tolist()
    seen = bytearray(len(corners))
    for start in by_row.tolist():
        if seen[start]:
            continue
        area, ring, corner = 0, [], start
        while not seen[corner]:
            other = across[corner]
            seen[corner] = seen[other] = 1
            ring += [(x[corner], y[corner]), (x[other], y[other])]
            area += y[corner] * (x[corner] - x[other])
            corner = down[other]
        yield numbers[start], area, ring
