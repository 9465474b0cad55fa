"""V^Rand and V^Info: how well a map of cell probabilities separates cells, as ISBI 2012 scores it.

A gap of one pixel in a membrane merges two cells, which hardly changes the pixel accuracy; these
scores compare segments instead. S are the prediction's, T the label's, p_ij the probability that
a pixel lies in segment i of S and j of T, s_i and t_j the marginals:

    V^Rand = sum p_ij^2 / (sum s_i^2 / 2 + sum t_j^2 / 2)
    V^Info = I(S; T) / (H(S) / 2 + H(T) / 2)

As in the challenge,

- a pixel is cell where its probability is above (not at) the threshold; segments are 4-connected;
- the prediction's borders, not the label's, are thinned to one pixel by a watershed;
- only pixels in the label's cells count (foreground restriction), and each of them on a border
  of the prediction is a segment of its own;
- the score of a stack is its slices' mean, at the threshold where that is highest; V^Rand and
  V^Info each have their own.

The challenge's pixel error is not 1 - pixel accuracy: it is 1 - Dice of the class cell, counted
over the whole stack, at the threshold where Dice is highest.

Sources: Arganda-Carreras et al. 2015, https://doi.org/10.3389/fnana.2015.00142; the evaluation
page, http://brainiac2.mit.edu/isbi_challenge/evaluation; its script,
https://imagej.net/Segmentation_evaluation_after_border_thinning_-_Script, and the classes that
calls, trainableSegmentation.metrics in https://github.com/fiji/Trainable_Segmentation.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage, sparse, special

from unet_jax import IGNORED

# The challenge adds 0.1 ten times, which ends just below 1: a probability of 1 is always cell.
THRESHOLDS = (*(k / 10 for k in range(10)), math.nextafter(1, 0))


class Scores(NamedTuple):
    """Each in [0, 1], higher is better; NaN where the label has no cell.

    A V is the harmonic mean of its split and its merge score.
    """

    v_rand: float
    rand_split: float  # of two pixels in one cell, how often they are in one segment
    rand_merge: float  # of two pixels in one segment, how often they are in one cell
    v_info: float
    info_split: float  # how much of the segments' entropy the cells explain
    info_merge: float  # how much of the cells' entropy the segments explain


def label_segments(label: np.ndarray) -> np.ndarray:
    """The cells of a label (uint8 [H, W], 1 = cell), numbered from 1: int32 [H, W].

    0 is membrane or ignored; neither counts.
    """
    return ndimage.label(label == 1)[0]


def predicted_segments(cell: np.ndarray) -> np.ndarray:
    """The segments of a prediction (bool [H, W]), its borders thinned: int32 [H, W], 0 = border.

    A watershed of a binary image gives every border pixel to the nearest segment (city-block
    distance) and leaves a line of one pixel where two segments meet; a border with the same
    segment on both sides disappears. That is computed here from the distances, not by flooding
    in the order of a queue as in Fiji: among pixels as near to two segments the line may take
    another way (on spoilt ISBI labels V^Rand moved by 0.0003 in the mean, 0.0016 at most).
    Without any cell the whole image is one segment, as in a flat image's watershed.
    """
    if not cell.any():
        return np.ones(cell.shape, np.int32)
    components, count = ndimage.label(cell)
    distance, nearest = ndimage.distance_transform_cdt(~cell, "taxicab", return_indices=True)
    segments = components[tuple(nearest)]
    # Of two neighbours in different segments the farther one is the line; a tie is broken by
    # the number. Cells have distance 0 and never touch another segment's cell: they are kept.
    rank = distance.astype(np.int64) * (count + 1) + segments
    line = np.zeros(cell.shape, bool)
    for near, far in (np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:]):
        meet = segments[near] != segments[far]
        line[near] |= meet & (rank[near] > rank[far])
        line[far] |= meet & (rank[near] < rank[far])
    return np.where(line, 0, segments)


def scores(label: np.ndarray, predicted: np.ndarray) -> Scores:
    """Compare segments (integers [H, W]; 0 in the label: left out, in the prediction: border).

    The prediction's border pixels inside cells are segments of one pixel. Where a part of V^Info
    is 0/0 there is one segment, so nothing to split, or one cell, so nothing to merge: that part
    is 1. V^Info is 1 where both are so; the challenge's script then says 0.
    """
    foreground = label > 0
    pixels = int(foreground.sum())
    if not pixels:
        return Scores(*[math.nan] * 6)
    label, predicted = label[foreground], predicted[foreground]
    singletons = predicted.max() + 1 + np.arange(pixels)
    predicted = np.where(predicted > 0, predicted, singletons)
    table = sparse.coo_array((np.ones(pixels, np.int64), (label, predicted))).tocsr()
    joint, cells, segments = table.data, table.sum(1), table.sum(0)

    same, same_cell, same_segment = (int((n**2).sum()) for n in (joint, cells, segments))
    h_joint, h_cells, h_segments = (
        float(special.entr(n / pixels).sum()) for n in (joint, cells, segments)
    )
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
    """V^Rand and V^Info of a slice at each threshold: float64 [T, 2]; NaN if it has no cell.

    label: uint8 [H, W], 0 = membrane, 1 = cell, 255 = ignored; probability: float32 [H, W] of
    cell. What is predicted for ignored pixels changes nothing: they are taken as border.
    """
    cells, valid = label_segments(label), label != IGNORED
    rows = []
    for threshold in np.asarray(thresholds, np.float64):  # in float32 the last would be 1
        result = scores(cells, predicted_segments((probability > threshold) & valid))
        rows.append((result.v_rand, result.v_info))
    return np.array(rows)


def best(curves: np.ndarray) -> tuple[float, float]:
    """The challenge's V^Rand and V^Info of a stack, from its slices' curves [S, T, 2].

    Slices without a cell are left out; NaN if none is left.
    """
    curves = curves[~np.isnan(curves[:, 0, 0])]
    if not len(curves):
        return math.nan, math.nan
    v_rand, v_info = curves.mean(0).max(0)
    return float(v_rand), float(v_info)


def _share(part: float, whole: float) -> float:
    """part / whole, at most 1 (rounding); 1 where both are 0."""
    return min(part / whole, 1.0) if whole else 1.0
