"""ROC AUC, calibration and the best threshold, from histograms of predicted probabilities.

A histogram is int64 [2, BINS]: row 1 counts the pixels with the event, row 0 those without. The
event is that the pixel has class 1 or, with more than two classes, that the most probable class is
correct. Bin b has the probabilities in (b / BINS, (b + 1) / BINS]; bin 0 also has those equal to 0.
For b > 0, `p > b / BINS` is therefore exactly "bin b or above". The histogram of a split is the sum
of its images' histograms.
"""

from collections.abc import Callable, Sequence

import numpy as np

from unet_jax.metrics.registry import Metric, register, two_classes

BINS = 1024  # a power of two makes bin edges and products with float32 probabilities exact
GROUPS = 16  # groups of neighbouring bins, the points of the calibration curve


def histogram(event: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Counts the pixels of an image by probability.

    Args:
      event: bool [P].
      probability: float32 [P], in [0, 1] up to rounding.

    Returns:
      A histogram, int64 [2, BINS].
    """
    bins = np.ceil(probability * np.float32(BINS)).astype(np.int64) - 1
    bins = np.clip(bins, 0, BINS - 1)
    return np.bincount(event * BINS + bins, minlength=2 * BINS).reshape(2, BINS)


def confusion_above(counts: np.ndarray, threshold: float) -> np.ndarray:
    """Returns [[TN, FP], [FN, TP]] of `probability > threshold`, a multiple of 1/BINS above 0."""
    bins = round(threshold * BINS)
    return np.stack([counts[:, :bins].sum(1), counts[:, bins:].sum(1)], axis=1)


def roc_auc(counts: np.ndarray) -> float:
    """Computes the area under the ROC curve, the probability that class 1 outranks class 0.

    Pixels in one bin are tied and count half (Hanley and McNeil, 1982,
    https://doi.org/10.1148/radiology.143.1.7063747). NaN if a class has no pixel.
    """
    negative, positive = counts.astype(np.float64)
    pairs = negative.sum() * positive.sum()
    outranked = np.cumsum(negative) - negative / 2
    return float(positive @ outranked / pairs) if pairs else np.nan


def calibration(counts: np.ndarray) -> dict[str, float | list[float] | list[int]]:
    """Compares predicted probabilities with the observed frequency of the event.

    Returns:
      For each of `GROUPS` equal ranges of probability that has pixels: `predicted`, their mean
      probability (to half a bin), `observed`, the share with the event, and `pixels`, their
      number. `error` is the expected calibration error, the mean of |predicted - observed| over
      all pixels (Guo et al., 2017, https://arxiv.org/abs/1706.04599); NaN without pixels.
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


# Computes numerator and denominator of a metric from the numbers of true and false positive pixels
# (int64 [N, BINS]) and of pixels with and without class 1 (int64 [N, 1]).
Ratio = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
RATIOS: dict[str, Ratio] = {
    "dice": lambda tp, fp, positive, negative: (2 * tp, tp + fp + positive),
    "iou": lambda tp, fp, positive, negative: (tp, fp + positive),
    "pixel_accuracy": lambda tp, fp, positive, negative: (tp + negative - fp, positive + negative),
}


def best_threshold(histograms: Sequence[np.ndarray], metric: str = "dice") -> float:
    """Finds the threshold with the highest mean of a metric of class 1 over the images.

    Args:
      histograms: one int64 [2, BINS] for each image.
      metric: a key of `RATIOS`.

    Returns:
      A multiple of 1/BINS in (0, 1); of several best ones the nearest to 1/2.
    """
    above = np.cumsum(np.stack(histograms)[:, :, ::-1], axis=-1)[:, :, ::-1]  # [N, 2, BINS]
    false_positive, true_positive = above[:, 0], above[:, 1]
    negative, positive = false_positive[:, :1], true_positive[:, :1]
    right, size = RATIOS[metric](true_positive, false_positive, positive, negative)
    # Dice and IoU are 1 if neither label nor prediction has the class.
    means = np.where(size == 0, 1.0, right / np.maximum(size, 1)).mean(0)
    best = 1 + np.flatnonzero(means[1:] == means[1:].max())
    return float(best[np.argmin(np.abs(best - BINS // 2))] / BINS)


register(
    Metric(
        "auc",
        "AUC",
        "the area under the ROC curve of the probabilities, ties within 1/1024 counting half.",
        applies=two_classes,
        of_counts=lambda counts: roc_auc(counts.histogram),
        order=20,
    )
)
