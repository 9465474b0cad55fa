"""Overlap metrics of segmentations, computed from confusion matrices in float64.

A confusion matrix is int64 [K, K]: rows are the classes of the label, columns those of the
prediction. Every metric is a function of the counts, so that the same definition gives the metric
of one image and, from the summed counts, the pooled metric of a split. NaN means undefined.
"""

from collections.abc import Callable, Sequence

import numpy as np

from unet_jax import IGNORED
from unet_jax.metrics import calibration
from unet_jax.metrics.registry import (
    Counts,
    Metric,
    Score,
    Task,
    any_task,
    many_classes,
    register,
    two_classes,
)


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


def statistics(values: Sequence[float]) -> dict[str, float]:
    """Returns mean, min and max of the values that are not NaN; NaN if there are none."""
    known = np.array(values)[~np.isnan(values)]
    if not len(known):
        return dict.fromkeys(("mean", "min", "max"), np.nan)
    return {"mean": float(known.mean()), "min": float(known.min()), "max": float(known.max())}


def aggregate(confusions: Sequence[np.ndarray]) -> dict[str, dict[str, float]]:
    """Aggregates the main metrics over images.

    Args:
      confusions: the confusion matrix of each image, int64 [K, K].

    Returns:
      For each metric `mean`, `min` and `max` over the images for which it is defined, and `pooled`,
      the metric of the summed counts.
    """
    rows = list(map(headline_metrics, confusions))
    pooled = headline_metrics(np.sum(confusions, axis=0))
    return {
        name: statistics([row[name] for row in rows]) | {"pooled": pooled[name]} for name in pooled
    }


def one_mask_empty(confusions: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Counts, for each class, the images in which only one of its two masks is empty.

    Args:
      confusions: the confusion matrix of each image, int64 [K, K].

    Returns:
      `label`, the images in which only the label is empty, and `prediction`, those in which only
      the prediction is, each int64 [K].
    """
    labelled = np.array([counts.sum(1) > 0 for counts in confusions])
    predicted = np.array([counts.sum(0) > 0 for counts in confusions])
    return {
        "label": (predicted & ~labelled).sum(0),
        "prediction": (labelled & ~predicted).sum(0),
    }


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


def _resized_two_classes(task: Task) -> bool:
    return task.resized and two_classes(task)


def _resized_many_classes(task: Task) -> bool:
    return task.resized and many_classes(task)


def _main(key: str) -> Callable[[Counts], float]:
    """Returns the function that computes one of `headline_metrics`."""
    return lambda counts: headline_metrics(counts.confusion)[key]


def _at_network_size(key: str) -> Callable[[Counts], float]:
    """Returns the function that computes one of `headline_metrics` at the network's size."""

    def compute(counts: Counts) -> float:
        assert counts.network_confusion is not None
        return headline_metrics(counts.network_confusion)[key]

    return compute


def _best_threshold(key: str) -> Callable[[Sequence[Score]], float]:
    """Returns the function that chooses a threshold for one of `calibration.RATIOS`."""
    return lambda scores: calibration.best_threshold([s.counts.histogram for s in scores], key)


register(
    Metric(
        "dice",
        "Dice",
        "2 TP / (2 TP + FP + FN), the overlap of prediction and label.",
        applies=two_classes,
        of_counts=_main("dice"),
        best_threshold=_best_threshold("dice"),
        tuned=True,
        headline=True,
        overall=True,
        order=10,
    )
)
register(
    Metric(
        "iou",
        "IoU",
        "TP / (TP + FP + FN), intersection over union; never above Dice.",
        applies=two_classes,
        of_counts=_main("iou"),
        best_threshold=_best_threshold("iou"),
        overall=True,
        order=10,
    )
)
for _key, _help in {
    "precision": "TP / (TP + FP), the share of the predicted pixels that are correct.",
    "recall": "TP / (TP + FN), the share of the labelled pixels that are found; sensitivity.",
    "specificity": "TN / (TN + FP), the share of the other pixels that are not predicted.",
}.items():
    register(
        Metric(
            _key,
            _key,
            _help,
            applies=two_classes,
            of_counts=_main(_key),
            prominent=False,
            order=10,
        )
    )
register(
    Metric(
        "pixel_accuracy",
        "pixel accuracy",
        "the share of pixels whose predicted class is correct.",
        applies=any_task,
        of_counts=_main("pixel_accuracy"),
        best_threshold=_best_threshold("pixel_accuracy"),
        overall=True,
        order=10,
    )
)
register(
    Metric(
        "mean_accuracy",
        "mean accuracy",
        "the recall of each class, averaged over the classes.",
        applies=many_classes,
        of_counts=_main("mean_accuracy"),
        order=10,
    )
)
register(
    Metric(
        "mean_iou",
        "mean IoU",
        "the IoU of each class, averaged over the classes.",
        applies=many_classes,
        of_counts=_main("mean_iou"),
        headline=True,
        statistic="pooled",
        averages="iou",
        order=10,
    )
)
for _key, _label, _applies in (
    ("dice", "Dice", _resized_two_classes),
    ("iou", "IoU", _resized_two_classes),
    ("mean_iou", "mean IoU", _resized_many_classes),
):
    register(
        Metric(
            f"network_{_key}",
            f"{_label} at the network's size",
            f"the {_label} of the resized image and label.",
            applies=_applies,
            of_counts=_at_network_size(_key),
            prominent=False,
            order=40,
        )
    )
