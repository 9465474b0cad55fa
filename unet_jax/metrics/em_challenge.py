"""V^Rand and V^Info, the scores of the ISBI 2012 challenge: how well cells are separated.

A gap of one pixel in a membrane merges two cells but hardly changes the pixel accuracy; these
scores compare segments instead. With S the prediction's segments, T the label's, p_ij the
probability that a pixel is in segment i of S and j of T, and s_i and t_j the marginals:

    V^Rand = sum p_ij^2 / (sum s_i^2 / 2 + sum t_j^2 / 2)
    V^Info = I(S; T) / (H(S) / 2 + H(T) / 2)

As in the challenge,

- a pixel is cell if its probability is above (not at) the threshold; segments are 4-connected;
- the prediction's borders, not the label's, are thinned to one pixel by a watershed;
- only pixels in the label's cells count (foreground restriction), and each of them that is on a
  border of the prediction is a segment of one pixel;
- the score of a stack is the mean over its slices at the threshold where that mean is highest;
  V^Rand and V^Info each have their own threshold.

The challenge's pixel error is not 1 - pixel accuracy: it is 1 - Dice of the class cell, computed
from the whole stack, at the threshold where Dice is highest.

Sources: Arganda-Carreras et al. 2015, https://doi.org/10.3389/fnana.2015.00142; the evaluation
page, http://brainiac2.mit.edu/isbi_challenge/evaluation; its script,
https://imagej.net/Segmentation_evaluation_after_border_thinning_-_Script, and the classes that it
calls, trainableSegmentation.metrics in https://github.com/fiji/Trainable_Segmentation.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import scipy

from unet_jax import IGNORED
from unet_jax.metrics import calibration, overlap
from unet_jax.metrics.partition import as_uint8, shared_pixels
from unet_jax.metrics.registry import Metric, Pixels, Score, Task, register

# The challenge adds 0.1 ten times, which gives just below 1, so that a probability of 1 is cell.
THRESHOLDS = (*(k / 10 for k in range(10)), math.nextafter(1, 0))


class Scores(NamedTuple):
    """Scores in [0, 1], higher is better; NaN if the label has no cell.

    `v_rand` and `v_info` are the harmonic means of their split and merge scores.
    """

    v_rand: float
    rand_split: float  # probability that two pixels of one cell are in one segment
    rand_merge: float  # probability that two pixels of one segment are in one cell
    v_info: float
    info_split: float  # share of the segments' entropy that the cells explain
    info_merge: float  # share of the cells' entropy that the segments explain


def label_segments(label: np.ndarray) -> np.ndarray:
    """Numbers the cells of a label from 1.

    Args:
      label: uint8 [H, W], 1 = cell.

    Returns:
      int32 [H, W]; 0 is membrane or ignored, and does not count.
    """
    return scipy.ndimage.label(label == 1)[0]


def predicted_segments(cell: np.ndarray) -> np.ndarray:
    """Finds the segments of a prediction and thins its borders.

    A watershed of a binary image assigns each border pixel to the nearest segment (city-block
    distance) and leaves a line of one pixel between two segments; a border with the same segment
    on both sides disappears. This function computes it from distances instead of flooding in the
    order of a queue, as Fiji does. Among pixels equally near to two segments the line may
    therefore differ: on distorted ISBI labels V^Rand differed by 0.0003 on average and by at most
    0.0016. Without any cell the whole image is one segment, as in the watershed of a flat image.

    Args:
      cell: bool [H, W].

    Returns:
      Segments numbered from 1, int32 [H, W]; 0 is border.
    """
    if not cell.any():
        return np.ones(cell.shape, np.int32)
    height, width = cell.shape
    row = width + 2  # a frame of one pixel saves the tests for the edge of the image
    segments, distance = (np.zeros((height + 2, row), np.int32) for _ in range(2))
    # This algorithm numbers components by their first pixel, as `scipy.ndimage.label` does.
    segments[1:-1, 1:-1] = cv2.connectedComponentsWithAlgorithm(
        as_uint8(cell), 4, cv2.CV_32S, cv2.CCL_SAUF
    )[1]
    distance[:] = np.iinfo(np.int32).max
    distance[1:-1, 1:-1] = cv2.distanceTransform(as_uint8(~cell), cv2.DIST_L1, cv2.DIST_MASK_3)
    segments, distance = segments.ravel(), distance.ravel()
    _spread(segments, distance, row)
    # The farther of two neighbours in different segments becomes the line; the number breaks a tie.
    # Cells have distance 0 and never touch another segment's cell, so that they are kept.
    line = []
    for step in (1, row):
        one, other = segments[:-step], segments[step:]
        near = np.flatnonzero((one != other) & (one > 0) & (other > 0))
        far = near + step
        farther = distance[near] > distance[far]
        farther |= (distance[near] == distance[far]) & (segments[near] > segments[far])
        line.append(np.where(farther, near, far))
    segments[np.concatenate(line)] = 0
    return segments.reshape(height + 2, row)[1:-1, 1:-1]


def _spread(segments: np.ndarray, distance: np.ndarray, row: int) -> None:
    """Gives each border pixel the segment of the nearest cell (city-block distance).

    Of several nearest cells it chooses as the two passes of
    `scipy.ndimage.distance_transform_cdt` do: the first pass reaches a pixel from above or, failing
    that, from the left, and the second from below or from the right those that the first pass
    reaches only on a detour.

    Args:
      segments: int32 [P], the pixels of an image with a frame; it is changed where it is 0 inside.
      distance: int32 [P], that to the nearest cell: 0 in cells, and huge in the frame.
      row: number of pixels of a row, including the frame.
    """
    border = np.flatnonzero((distance > 0) & (distance < np.iinfo(np.int32).max))
    steps_to = distance[border]
    ends = np.cumsum(np.bincount(steps_to))
    # numpy sorts integers of at most 16 bits far faster than others.
    border = border[np.argsort(steps_to.astype(np.min_scalar_type(len(ends))), kind="stable")]
    first_pass = -distance  # the distance, where that is the shortest; else it is negative
    for steps in range(1, len(ends)):
        pixels = border[ends[steps - 1] : ends[steps]]
        up, left, down = pixels - row, pixels - 1, pixels + row
        from_up, from_left = first_pass[up] == steps - 1, first_pass[left] == steps - 1
        back = np.where(distance[down] == steps - 1, down, pixels + 1)
        nearest = np.where(from_up, up, np.where(from_left, left, back))
        segments[pixels] = segments[nearest]
        first_pass[pixels] = np.where(from_up | from_left, steps, -1)


def scores(label: np.ndarray, predicted: np.ndarray) -> Scores:
    """Compares the segments of a prediction with the cells of a label.

    The prediction's border pixels inside cells are segments of one pixel. A score of V^Info is 0/0
    if there is one segment (no split is possible) or one cell (no merge is possible): it is then 1.
    If both are so, V^Info is 1; the challenge's script gives 0.

    Args:
      label: integers [H, W]; pixels with 0 are left out.
      predicted: integers [H, W]; 0 is border.
    """
    cell, segment, counts = shared_pixels(label, predicted)
    foreground = cell > 0
    cell, segment, counts = cell[foreground], segment[foreground], counts[foreground]
    pixels = int(counts.sum())
    if not pixels:
        return Scores(*[math.nan] * 6)
    singletons = int(counts[segment == 0].sum())
    joint = counts[segment > 0]
    cells = np.bincount(cell, counts).astype(np.int64)
    segments = np.bincount(segment[segment > 0], joint).astype(np.int64)

    same, same_cell, same_segment = (int((n**2).sum()) for n in (joint, cells, segments))
    same, same_segment = same + singletons, same_segment + singletons
    h_joint, h_cells, h_segments = (
        float(scipy.special.entr(n / pixels).sum()) for n in (joint, cells, segments)
    )
    h_singletons = singletons * float(scipy.special.entr(1 / pixels))
    h_joint, h_segments = h_joint + h_singletons, h_segments + h_singletons
    information = max(h_cells + h_segments - h_joint, 0.0)
    return Scores(
        v_rand=2 * same / (same_segment + same_cell),
        rand_split=same / same_cell,
        rand_merge=same / same_segment,
        v_info=_share(2 * information, h_segments + h_cells),
        info_split=_share(information, h_segments),
        info_merge=_share(information, h_cells),
    )


def curve(
    label: np.ndarray, probability: np.ndarray, thresholds: Sequence[float] = THRESHOLDS
) -> np.ndarray:
    """Computes V^Rand and V^Info of a slice at each threshold.

    Predictions for ignored pixels have no effect: these pixels are taken as border.

    Args:
      label: uint8 [H, W], 0 = membrane, 1 = cell, 255 = ignored.
      probability: of class cell, float32 [H, W].
      thresholds: T thresholds.

    Returns:
      float64 [T, 2]; NaN if the label has no cell.
    """
    cells, valid = label_segments(label), label != IGNORED
    rows = []
    for threshold in np.asarray(thresholds, np.float64):  # float32 would round the last one to 1
        result = scores(cells, predicted_segments((probability > threshold) & valid))
        rows.append((result.v_rand, result.v_info))
    return np.array(rows)


def best(curves: np.ndarray) -> tuple[float, float]:
    """Computes the challenge's V^Rand and V^Info of a stack.

    Args:
      curves: float64 [S, T, 2], from `curve` of each slice; slices without a cell are left out.

    Returns:
      V^Rand and V^Info; NaN if no slice has a cell.
    """
    curves = curves[~np.isnan(curves[:, 0, 0])]
    if not len(curves):
        return math.nan, math.nan
    v_rand, v_info = curves.mean(0).max(0)
    return float(v_rand), float(v_info)


def _share(part: float, whole: float) -> float:
    """Returns part / whole, limited to 1 because of rounding; 1 if both are 0."""
    return min(part / whole, 1.0) if whole else 1.0


def best_of_split(scores: Sequence[Score]) -> dict[str, float]:
    """Returns V^Rand and V^Info as the challenge computes them for a stack; see `best`."""
    v_rand, v_info = best(_curves(scores))
    return {"v_rand": v_rand, "v_info": v_info}


def pixel_error(histogram: np.ndarray) -> float:
    """Computes the challenge's pixel error: 1 - pooled Dice of cells at the best threshold.

    Args:
      histogram: int64 [2, BINS], of all images together; see `calibration.histogram`.
    """
    counts = (calibration.confusion_above(histogram, threshold) for threshold in THRESHOLDS)
    return 1 - max(float(overlap.class_metrics(c)["dice"][1]) for c in counts)


def _curves(scores: Sequence[Score]) -> np.ndarray:
    """Returns V^Rand and V^Info at the challenge's thresholds: [images, thresholds, 2]."""
    keys = ("v_rand", "v_info")
    return np.array([[[s.curves[k][t] for k in keys] for t in THRESHOLDS] for s in scores])


def _best_rand_threshold(scores: Sequence[Score]) -> float:
    """Returns the challenge's threshold with the highest mean V^Rand, the lowest of equals."""
    curves = _curves(scores)[:, :, 0]
    with_cells = curves[~np.isnan(curves[:, 0])]
    return THRESHOLDS[with_cells.mean(0).argmax() if len(with_cells) else len(THRESHOLDS) // 2]


@functools.lru_cache(maxsize=1)
def _shared_curve(pixels: Pixels, thresholds: tuple[float, ...]) -> np.ndarray:
    """Computes `curve` once for the two metrics of an image."""
    return curve(pixels.label, pixels.probability, thresholds)


def _column(index: int) -> Callable[[Pixels, Sequence[float]], Sequence[float]]:
    return lambda pixels, thresholds: _shared_curve(pixels, tuple(thresholds))[:, index].tolist()


def _cells(task: Task) -> bool:
    return task.cells


register(
    Metric(
        "v_rand",
        "V^Rand",
        "whether pairs of pixels are in one cell: split and merge errors, borders thinned.",
        applies=_cells,
        at_thresholds=_column(0),
        thresholds=THRESHOLDS,
        best_threshold=_best_rand_threshold,
        tuned=True,
        order=30,
    )
)
register(
    Metric(
        "v_info",
        "V^Info",
        "how much of one segmentation's information the other explains, borders thinned.",
        applies=_cells,
        at_thresholds=_column(1),
        thresholds=THRESHOLDS,
        order=30,
    )
)
