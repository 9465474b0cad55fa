"""What probabilities tell beyond one threshold: ROC AUC, calibration, the best threshold.

All of it comes from counts of pixels by predicted probability. A histogram is int64 [2, BINS]:
row 0 counts the pixels without, row 1 those with the event (a pixel is of class 1; for more than
two classes: the most probable class is the right one). Bin b holds the probabilities in
(b / BINS, (b + 1) / BINS], and bin 0 those of 0 too, so that for b > 0 `p > b / BINS` is exactly
"bin b or above". Histograms of images add up to that of the split.
"""

from collections.abc import Sequence

import numpy as np

BINS = 1024  # a power of two: edges, and products with float32 probabilities, are exact
GROUPS = 16  # of neighbouring bins, for the calibration curve


def histogram(event: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Counts pixels: `event` bool [P] and `probability` float32 [P], in [0, 1].

    What rounding has put beyond 0 or 1 belongs to the bin beside it.
    """
    bins = np.ceil(probability * np.float32(BINS)).astype(np.int64) - 1
    bins = np.clip(bins, 0, BINS - 1)
    return np.bincount(event * BINS + bins, minlength=2 * BINS).reshape(2, BINS)


def confusion_above(counts: np.ndarray, threshold: float) -> np.ndarray:
    """[[TN, FP], [FN, TP]] of `probability > threshold`, a multiple of 1/BINS above 0."""
    bins = round(threshold * BINS)
    return np.stack([counts[:, :bins].sum(1), counts[:, bins:].sum(1)], axis=1)


def roc_auc(counts: np.ndarray) -> float:
    """The area under the ROC curve: how often a pixel of class 1 outranks one of class 0.

    Pixels of one bin tie, which counts half (Hanley and McNeil, 1982,
    https://doi.org/10.1148/radiology.143.1.7063747). NaN where a class has no pixel.
    """
    negative, positive = counts.astype(np.float64)
    pairs = negative.sum() * positive.sum()
    outranked = np.cumsum(negative) - negative / 2
    return float(positive @ outranked / pairs) if pairs else np.nan


def calibration(counts: np.ndarray) -> dict[str, float | list[float] | list[int]]:
    """How often what was predicted with a probability does happen.

    For each of `GROUPS` equal ranges of probability that has pixels: their mean `predicted`
    probability (to half a bin), the `observed` share of the event, the number of `pixels`.
    `error` is the expected calibration error: the mean of |predicted - observed| over all
    pixels (Guo et al., 2017, https://arxiv.org/abs/1706.04599); NaN where there is no pixel.
    """
    centres = (np.arange(BINS) + 0.5) / BINS
    grouped = counts.reshape(2, GROUPS, -1).sum(-1)
    pixels = grouped.sum(0)
    used = pixels > 0
    predicted = (counts.sum(0) * centres).reshape(GROUPS, -1).sum(-1)[used] / pixels[used]
    observed = grouped[1, used] / pixels[used]
    gaps = np.abs(predicted - observed) @ pixels[used]
    return {
        "error": float(gaps / pixels.sum()) if pixels.any() else np.nan,
        "predicted": predicted.tolist(),
        "observed": observed.tolist(),
        "pixels": pixels[used].tolist(),
    }


def best_dice_threshold(histograms: Sequence[np.ndarray]) -> float:
    """The multiple of 1/BINS in (0, 1) that gives the images the highest mean Dice of class 1.

    Of several such thresholds the one nearest to 1/2.
    """
    above = np.cumsum(np.stack(histograms)[:, :, ::-1], axis=-1)[:, :, ::-1]  # [N, 2, BINS]
    false_positive, true_positive = above[:, 0], above[:, 1]
    positive = true_positive[:, :1]
    size = true_positive + false_positive + positive
    # Where neither label nor prediction has the class, the two agree.
    dice = np.where(size == 0, 1.0, 2 * true_positive / np.maximum(size, 1)).mean(0)
    best = 1 + np.flatnonzero(dice[1:] == dice[1:].max())
    return float(best[np.argmin(np.abs(best - BINS // 2))] / BINS)
