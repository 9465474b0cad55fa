"""Overlap metrics of segmentations, computed from confusion matrices in float64.

A confusion matrix is int64 [K, K]: rows are the classes of the label, columns those of the
prediction. Every metric is a function of the counts, so that the same definition gives the metric
of one image and, from the summed counts, the pooled metric of a split. NaN means undefined.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from unet_jax import IGNORED

# The title and the explanation of each metric in a report.
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
    """Counts the pixels of an image by label and prediction.

    Args:
      label: uint8 [H, W]; ignored pixels (255) are not counted.
      prediction: class ids, uint8 [H, W].
      classes: K, the number of classes.

    Returns:
      A confusion matrix, int64 [K, K].
    """
    valid = label != IGNORED
    pairs = label[valid].astype(np.int64) * classes + prediction[valid]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def class_metrics(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Computes the metrics of each class against all others.

    If neither label nor prediction contains a class, Dice and IoU are 1 with two classes (two empty
    masks agree) and NaN with more (the class is left out of means). Any other 0/0 is NaN, and so is
    every value if no pixel was counted.

    Args:
      counts: a confusion matrix, int64 [K, K].

    Returns:
      `dice`, `iou`, `precision`, `recall` and `specificity`, each float64 [K].
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
    """Computes the main metrics of one image, or of a split's summed counts.

    Args:
      counts: a confusion matrix, int64 [K, K].

    Returns:
      With two classes, the metrics of class 1 and `pixel_accuracy`. With more, `pixel_accuracy`,
      and `mean_accuracy` (recall) and `mean_iou`, the means over the classes for which they are
      defined.
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
    """Aggregates the loss and the metrics over the images of a split.

    Args:
      counts: the confusion matrix of each image, int64 [K, K].
      losses: the loss of each image.
      further: other metrics by name: the value of each image, and the pooled value.
      pooled_loss: the loss over all pixels of the split; NaN if unknown.

    Returns:
      For each metric `mean`, `min` and `max` over the images for which it is defined, and `pooled`,
      the metric of the summed counts.
    """
    # The loss of an image without counted pixels is 0, which would lower the mean.
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
    """Returns the mean of the values (float [N]) that are not NaN; NaN if there are none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else np.nan


def _ratio(
    numerator: np.typing.ArrayLike, denominator: np.typing.ArrayLike, empty: float = np.nan
) -> np.ndarray:
    """Returns numerator / denominator in float64, with `empty` where the denominator is 0."""
    denominator = np.asarray(denominator, np.float64)
    safe = np.where(denominator == 0, 1, denominator)
    return np.where(denominator == 0, empty, np.asarray(numerator) / safe)
