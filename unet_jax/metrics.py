"""Segmentation metrics from confusion counts, in int64 and float64.

A confusion is int64 [K, K]: rows are the label's classes, columns the prediction's. Counts come
first, per image; every metric is a function of counts, so that a split's pooled value and an
image's own are one definition. NaN stands for "has no meaning here".
"""

from collections.abc import Sequence

import numpy as np

from unet_jax import IGNORED

# What a report calls each metric, and how it explains it.
METRICS = {
    "loss": ("loss", "what training minimises, here of each image; lower is better."),
    "dice": ("Dice", "2 TP / (2 TP + FP + FN), the overlap of prediction and label."),
    "iou": ("IoU", "TP / (TP + FP + FN), intersection over union; never above Dice."),
    "pixel_accuracy": ("pixel accuracy", "the share of pixels given their right class."),
    "precision": ("precision", "TP / (TP + FP), how much of what was predicted is right."),
    "recall": ("recall", "TP / (TP + FN), how much of what was there is found; sensitivity."),
    "specificity": ("specificity", "TN / (TN + FP), how much of the rest is left alone."),
    "mean_iou": ("mean IoU", "the IoU of each class, averaged over the classes."),
    "mean_accuracy": ("mean accuracy", "the recall of each class, averaged over the classes."),
}


def confusion(label: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Counts of pixels by label and prediction (uint8 [H, W]); ignored pixels count nowhere."""
    valid = label != IGNORED
    pairs = label[valid].astype(np.int64) * classes + prediction[valid]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def class_metrics(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Per class [K]: dice, iou, precision, recall, specificity, each class against the rest.

    A class that neither label nor prediction has: with two classes two empty masks agree (Dice
    and IoU are 1); with more the class is left out (NaN). Any other 0/0 is NaN, as are all
    values where no pixel was counted.
    """
    pixels = counts.sum()
    true_positive = np.diag(counts)
    false_negative = counts.sum(1) - true_positive
    false_positive = counts.sum(0) - true_positive
    true_negative = pixels - true_positive - false_negative - false_positive
    empty = 1.0 if len(counts) == 2 and pixels else np.nan
    wrong = false_negative + false_positive
    return {
        "dice": _ratio(2 * true_positive, 2 * true_positive + wrong, empty),
        "iou": _ratio(true_positive, true_positive + wrong, empty),
        "precision": _ratio(true_positive, true_positive + false_positive),
        "recall": _ratio(true_positive, true_positive + false_negative),
        "specificity": _ratio(true_negative, true_negative + false_positive),
    }


def headline_metrics(counts: np.ndarray) -> dict[str, float]:
    """The metrics of one image, or of a split's summed counts.

    With two classes those of class 1, and the pixel accuracy; with more the pixel accuracy and
    the means over classes of accuracy (recall) and IoU, where they have a meaning.
    """
    per_class = class_metrics(counts)
    accuracy = {"pixel_accuracy": float(_ratio(np.trace(counts), counts.sum()))}
    if len(counts) == 2:
        return {name: float(values[1]) for name, values in per_class.items()} | accuracy
    return accuracy | {
        "mean_accuracy": nan_mean(per_class["recall"]),
        "mean_iou": nan_mean(per_class["iou"]),
    }


def aggregate(counts: Sequence[np.ndarray], losses: Sequence[float]) -> dict[str, dict]:
    """{metric: {mean, min, max, pooled}} over a split's images.

    Mean, min and max are over the images for which the metric has a meaning; `pooled` is the
    metric of the summed counts, and of the loss the mean over pixels.
    """
    pixels = np.array([c.sum() for c in counts])
    # Where every pixel is ignored, a loss of 0 would be no achievement.
    losses = [loss if c.any() else np.nan for loss, c in zip(losses, counts, strict=True)]
    rows = [{"loss": loss} | headline_metrics(c) for loss, c in zip(losses, counts, strict=True)]
    pooled = headline_metrics(np.sum(counts, axis=0))
    pooled["loss"] = float(_ratio(np.nansum(losses * pixels), pixels.sum()))
    summary = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        values = values[~np.isnan(values)]
        summary[name] = {
            "mean": nan_mean(values),
            "min": float(values.min(initial=np.inf)) if len(values) else np.nan,
            "max": float(values.max(initial=-np.inf)) if len(values) else np.nan,
            "pooled": pooled[name],
        }
    return summary


def nan_mean(values: np.ndarray) -> float:
    """The mean of the values that are no NaN; NaN where there is none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else np.nan


def _ratio(
    numerator: np.typing.ArrayLike, denominator: np.typing.ArrayLike, empty: float = np.nan
) -> np.ndarray:
    """numerator / denominator in float64, `empty` where the denominator is 0."""
    denominator = np.asarray(denominator, np.float64)
    safe = np.where(denominator == 0, 1, denominator)
    return np.where(denominator == 0, empty, np.asarray(numerator) / safe)
