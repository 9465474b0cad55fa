"""Boundary metrics: Hausdorff distances, mean surface distance, surface Dice and boundary IoU.

The contour of a mask, the distances between two contours and the metrics of them are those of
DeepMind's `surface-distance` (https://github.com/google-deepmind/surface-distance; Nikolov et al.,
2021, https://doi.org/10.2196/26151):

- A contour has a point at each corner of pixels that touches both the mask and the rest. The edge
  of the image is part of the contour where the mask reaches it. The four pixels around a corner
  determine the length of the contour there (marching squares), and every percentile and mean weighs
  the points by it. A metric that counts border pixels instead weighs diagonal lines too little.
- The distance of a point is that to the nearest point of the other contour.
- HD95 is the larger of the two directed 95th percentiles, as there and in MONAI. One percentile of
  both directions together could hide that a part of the label is missed if the predicted contour is
  long.

Boundary IoU is that of Cheng et al., 2021 (https://arxiv.org/abs/2103.16562).

Ignored pixels: it is unknown where a mask ends towards them. A corner that touches an ignored pixel
is therefore no point of a contour, neither to measure from nor to measure to, and for boundary IoU
a pixel is not near the boundary because of an ignored pixel. The outside of the image counts as
ignored where the pixel at the edge is.

Empty masks: two empty masks agree. If one is empty, distances are the diagonal of the image, and
surface Dice and boundary IoU are 0. If neither is empty, but ignored pixels hide the whole contour
of the label, the metrics are NaN. If they hide that of the prediction alone, it misses all that is
known of the label's contour, as an empty one does.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from scipy import ndimage

from unet_jax.core.lengths import LABELS
from unet_jax.metrics.registry import Masks, Metric, Task, register

PERCENT = 95
DILATION = 0.02  # width of the boundary of boundary IoU, share of the image's diagonal
# Below this squared distance the square of a distance of cv2, in float32, has an error below 0.25,
# so that rounding it gives the exact integer.
MAX_SQUARED = 2**21
UNIT = (1.0, 1.0)  # pixels as unit of length
REACH = 5  # pixels around a point in which the nearest other point is first looked up
FEW = 64  # points up to which single searches are faster than a distance transform of the image


@dataclasses.dataclass(frozen=True)
class Contour:
    """The points of a contour, by ascending distance to the other contour."""

    distances: np.ndarray  # float64 [N]
    lengths: np.ndarray  # float64 [N], of the contour at each point

    def percentile(self, percent: float) -> float:
        """Returns the smallest distance within which `percent` of the contour's length lies."""
        share = np.cumsum(self.lengths) / np.sum(self.lengths)
        index = int(np.searchsorted(share, percent / 100))
        return float(self.distances[min(index, len(share) - 1)])


Contours = tuple[Contour, Contour]  # of the label and of the prediction
HIDDEN = Contour(np.zeros(0), np.zeros(0))


@functools.lru_cache(maxsize=2)  # in pixels, and in a unit of length if pixels are not square
def contours(masks: Masks, spacing: tuple[float, float] = UNIT) -> Contours | None:
    """Measures the distances between the contours of label and prediction.

    Args:
      masks: the masks, neither of them empty.
      spacing: height and width of a pixel, in the unit of the distances.

    Returns:
      The contours, that of the prediction without points if ignored pixels hide it; None if they
      hide that of the label.
    """
    hidden = _touching_ignored(masks.counted)
    codes = [_codes(mask) for mask in (masks.label, masks.prediction)]
    points = [(code > 0) & (code < 0b1111) & ~hidden for code in codes]
    if not points[0].any():
        return None
    if not points[1].any():
        return HIDDEN, HIDDEN
    box = _bounding_box(points[0] | points[1])
    codes, points = [code[box] for code in codes], [point[box] for point in points]
    lengths = _lengths_by_code(spacing)
    label, prediction = (
        _contour(_distances(own, other, spacing), lengths[code[own]])
        for code, own, other in zip(codes, points, points[::-1], strict=True)
    )
    return label, prediction


def _contour(distances: np.ndarray, lengths: np.ndarray) -> Contour:
    order = np.lexsort((lengths, distances))
    return Contour(distances[order], lengths[order])


def _codes(mask: np.ndarray) -> np.ndarray:
    """Encodes the four pixels around each corner.

    Args:
      mask: bool [H, W]; pixels outside the image are False.

    Returns:
      uint8 [H + 1, W + 1]; from the highest of four bits, the pixels are those above left, above
      right, below left and below right.
    """
    pixels = np.pad(mask, 1).view(np.uint8)
    above, below = pixels[:-1], pixels[1:]
    return above[:, :-1] << 3 | above[:, 1:] << 2 | below[:, :-1] << 1 | below[:, 1:]


def _touching_ignored(counted: np.ndarray) -> np.ndarray:
    """Returns which corners touch an ignored pixel, bool [H + 1, W + 1]; `counted` is bool [H, W].

    Pixels outside the image are as the nearest one inside.
    """
    ignored = np.pad(~counted, 1, "edge")
    rows = ignored[:-1] | ignored[1:]
    return rows[:, :-1] | rows[:, 1:]


def _lengths_by_code(spacing: tuple[float, float]) -> np.ndarray:
    """Returns the length of a contour around a corner of each code, float64 [16]."""
    height, width = spacing
    diagonal = 0.5 * math.sqrt(height**2 + width**2)
    lengths = np.full(16, diagonal)  # one pixel of the four is in the mask, or one is not
    lengths[[0b0011, 0b1100]] = width
    lengths[[0b0101, 0b1010]] = height
    lengths[[0b0110, 0b1001]] = 2 * diagonal
    return lengths


def _bounding_box(points: np.ndarray) -> tuple[slice, slice]:
    rows, columns = (np.flatnonzero(points.any(axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _distances(points: np.ndarray, others: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """Computes the exact distance from each point to the nearest of the others.

    Args:
      points: bool [H, W], N of them True.
      others: bool [H, W], at least one True.
      spacing: height and width of a pixel, in the unit of the distances.

    Returns:
      float64 [N].
    """
    if spacing == UNIT and sum(side**2 for side in points.shape) < MAX_SQUARED:
        return np.sqrt(_squared_distances(points, others))
    exact: Any = ndimage.distance_transform_edt(~others, sampling=spacing)
    return exact[points]


def _squared_distances(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Computes the squares of `_distances` for square pixels, as float64 [N] without rounding.

    Contours of a good prediction are mostly within a pixel of those of the label, so that a look
    at the neighbours of each point is faster than a distance transform of the image.
    """
    row = others.shape[1] + 2 * REACH
    around = np.pad(others, REACH).ravel()
    rows, columns = np.divmod(np.flatnonzero(points), others.shape[1])
    places = (rows + REACH) * row + columns + REACH
    squared = np.empty(len(places))
    left = np.arange(len(places))
    for square, steps in _neighbours():
        found = np.zeros(len(left), bool)
        for down, right in steps:
            found |= around[places[left] + (down * row + right)]
        squared[left[found]] = square
        left = left[~found]
        if not len(left):
            return squared
    rows, columns = rows[left], columns[left]
    if len(left) <= FEW:
        squared[left] = [
            _search(others, *p) for p in zip(rows.tolist(), columns.tolist(), strict=True)
        ]
        return squared
    # cv2 takes a third of scipy's time. Its distances have an error of float32 rounding, which
    # rounding their squares to integers removes.
    background = (~others).view(np.uint8)
    inexact = cv2.distanceTransform(background, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    squared[left] = np.rint(inexact[rows, columns].astype(np.float64) ** 2)
    return squared


def _search(others: np.ndarray, row: int, column: int) -> int:
    """Returns the squared distance from a pixel to the nearest of the others, at least one."""
    reach = 4 * REACH
    while True:
        top, left = max(row - reach, 0), max(column - reach, 0)
        rows, columns = np.nonzero(others[top : row + reach + 1, left : column + reach + 1])
        squares = (rows + (top - row)) ** 2 + (columns + (left - column)) ** 2
        if len(squares) and (nearest := int(squares.min())) <= reach**2:
            return nearest
        reach *= 4


@functools.cache
def _neighbours() -> list[tuple[int, list[tuple[int, int]]]]:
    """Returns the steps (down, right) to all pixels within `REACH`, by their squared length."""
    steps: dict[int, list[tuple[int, int]]] = {}
    for down, right in itertools.product(range(-REACH, REACH + 1), repeat=2):
        square = down**2 + right**2
        if square <= REACH**2:
            steps.setdefault(square, []).append((down, right))
    return sorted(steps.items())


def _distance(
    masks: Masks, spacing: tuple[float, float], measure: Callable[[Contours], float]
) -> float:
    """Applies a measure of distance in the unit of `spacing`, with the rules for empty masks."""
    filled = masks.label.any(), masks.prediction.any()
    diagonal = math.hypot(*np.multiply(masks.label.shape, spacing))
    if not all(filled):
        return diagonal if any(filled) else 0.0
    square = spacing[0] == spacing[1]
    found = contours(masks) if square else contours(masks, spacing)
    if found is None:
        return math.nan
    if found[1] is HIDDEN:
        return diagonal
    return measure(found) * spacing[0] if square else measure(found)


def hausdorff(found: Contours) -> float:
    """Returns the largest distance from a point of one contour to the other contour."""
    return float(max(contour.distances[-1] for contour in found))


def hausdorff95(found: Contours) -> float:
    """Returns the larger of the two 95th percentiles of the distances from one contour's points."""
    return max(contour.percentile(PERCENT) for contour in found)


def mean_distance(found: Contours) -> float:
    """Returns the mean distance over both contours, weighted by length (ASSD)."""
    # BLAS's dot product starts threads, which takes longer than this.
    total = sum(float(np.sum(contour.distances * contour.lengths)) for contour in found)
    return total / sum(float(contour.lengths.sum()) for contour in found)


def surface_dice(masks: Masks) -> float:
    """Computes the share of both contours that lies within the tolerance of the other (NSD)."""
    filled = masks.label.any(), masks.prediction.any()
    if not all(filled):
        return float(not any(filled))
    found = contours(masks)
    if found is None:
        return math.nan
    if found[1] is HIDDEN:
        return 0.0
    tolerances = masks.task.nsd_pixels
    tolerance = tolerances[masks.index if len(tolerances) > 1 else 0]
    near = sum(float(c.lengths[c.distances <= tolerance].sum()) for c in found)
    return near / sum(float(c.lengths.sum()) for c in found)


def boundary_iou(masks: Masks) -> float:
    """Computes the IoU of the masks' pixels that are at most 2% of the diagonal from the boundary.

    The distance is the number of 3x3 erosions, as in the authors' code.
    """
    filled = masks.label.any(), masks.prediction.any()
    if not all(filled):
        return float(not any(filled))
    width = max(1, round(DILATION * math.hypot(*masks.label.shape)))
    label, prediction = (_near_boundary(m, masks, width) for m in (masks.label, masks.prediction))
    if not label.any():
        return math.nan
    return float((label & prediction).sum() / (label | prediction).sum())


def _near_boundary(mask: np.ndarray, masks: Masks, width: int) -> np.ndarray:
    """Returns the pixels of a mask that `width` erosions by 3x3 pixels remove, bool [H, W]."""
    filled = np.pad(~masks.counted, 1, "edge")
    filled[1:-1, 1:-1] |= mask
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    # Beyond the ring of padding, cv2's default border erodes nothing.
    return mask & ~cv2.erode(filled.view(np.uint8), kernel)[1:-1, 1:-1].view(bool)


def _in_pixels(measure: Callable[[Contours], float]) -> Callable[[Masks], float]:
    return lambda masks: _distance(masks, UNIT, measure)


def _in_unit(measure: Callable[[Contours], float]) -> Callable[[Masks], float]:
    def compute(masks: Masks) -> float:
        assert masks.pixels and masks.pixels.spacing
        return _distance(masks, masks.pixels.spacing, measure)

    return compute


def _has_unit(unit: str) -> Callable[[Task], bool]:
    return lambda task: task.length_unit == unit


_EMPTY = "; the image's diagonal if only one of the masks is empty"
_DISTANCES = {
    "hd95": (
        "HD95",
        "the distance within which 95% of a mask's contour lies from the other's; the larger of "
        "both directions (95th percentile Hausdorff distance)",
        hausdorff95,
    ),
    "hd": ("HD", "the largest distance from one contour to the other (Hausdorff)", hausdorff),
    "assd": (
        "ASSD",
        "the mean distance between the contours (average symmetric surface distance)",
        mean_distance,
    ),
}
for _key, (_label, _help, _measure) in _DISTANCES.items():
    register(
        Metric(
            _key,
            _label,
            f"{_help}{_EMPTY}.",
            better="lower",
            unit="pixels",
            group="boundary",
            of_masks=_in_pixels(_measure),
            order=60,
        )
    )
register(
    Metric(
        "nsd",
        "NSD",
        "the share of both contours that is within `eval.nsd_pixels` of the other (normalised "
        "surface Dice); 0 if only one of the masks is empty.",
        group="boundary",
        of_masks=surface_dice,
        settings=("nsd_pixels",),
        order=60,
    )
)
register(
    Metric(
        "boundary_iou",
        "boundary IoU",
        "the IoU of the pixels of each mask that are at most 2% of the image's diagonal from its "
        "boundary; 0 if only one of the masks is empty.",
        group="boundary",
        of_masks=boundary_iou,
        order=60,
    )
)
for _unit, _name in LABELS.items():
    for _key, (_label, _help, _measure) in _DISTANCES.items():
        register(
            Metric(
                f"{_key}_{_unit}",
                _label,
                f"{_help}, by the pixel size in the image files{_EMPTY}.",
                better="lower",
                unit=_name,
                applies=_has_unit(_unit),
                group="boundary",
                of_masks=_in_unit(_measure),
                order=61,
            )
        )
