"""Segmentation metrics from confusion counts, in int64 and float64.

A confusion is int64 [K, K]: rows are the label's classes, columns the prediction's. Counts come
first, per image; every metric is a function of counts, so that a split's pooled value and an
image's own are one definition. NaN stands for "has no meaning here".
"""

from collections.abc import Mapping, Sequence

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
    "auc": (
        "AUC",
        "the area under the ROC curve of the probabilities, ties within 1/1024 counting half.",
    ),
    "v_rand": (
        "V^Rand",
        "whether pairs of pixels are in one cell: split and merge errors, borders thinned.",
    ),
    "v_info": (
        "V^Info",
        "the same by information: what one segmentation tells of the other, borders thinned.",
    ),
    "network_dice": ("Dice at the network's size", "the same, of the resized image and label."),
    "network_iou": ("IoU at the network's size", "the same, of the resized image and label."),
    "network_mean_iou": ("mean IoU at the network's size", "of the resized image and label."),
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


def aggregate(
    counts: Sequence[np.ndarray],
    losses: Sequence[float],
    further: Mapping[str, tuple[Sequence[float], float]] | None = None,
    *,
    pooled_loss: float = np.nan,
) -> dict[str, dict[str, float]]:
    """{metric: {mean, min, max, pooled}} over a split's images.

    Mean, min and max are over the images for which the metric has a meaning; `pooled` is the
    metric of the summed counts. `pooled_loss` is the loss of all images together, where that is
    known; `further` metrics come with each image's value and the pooled one.
    """
    # Where every pixel is ignored, a loss of 0 would be no achievement.
    losses = [loss if c.any() else np.nan for loss, c in zip(losses, counts, strict=True)]
    rows = [{"loss": loss} | headline_metrics(c) for loss, c in zip(losses, counts, strict=True)]
    values = {name: [row[name] for row in rows] for name in rows[0]}
    pooled = {"loss": pooled_loss} | headline_metrics(np.sum(counts, axis=0))
    for name, (of_images, of_all) in (further or {}).items():
        values[name], pooled[name] = list(of_images), of_all
    return {name: _statistics(values[name]) | {"pooled": pooled[name]} for name in values}


def _statistics(values: Sequence[float]) -> dict[str, float]:
    known = np.array(values)[~np.isnan(values)]
    if not len(known):
        return dict.fromkeys(("mean", "min", "max"), np.nan)
    return {"mean": float(known.mean()), "min": float(known.min()), "max": float(known.max())}


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
