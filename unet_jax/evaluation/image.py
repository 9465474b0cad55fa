"""The score of one image: all that is measured on its pixels."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from unet_jax import IGNORED, is_binary
from unet_jax.inference import predictor
from unet_jax.metrics import calibration, overlap
from unet_jax.metrics.registry import Counts, Pixels, Score, Task, class_values, metrics_of


def score_image(
    label: np.ndarray,
    probabilities: np.ndarray,
    loss: float,
    task: Task,
    threshold: float,
    thresholds: Mapping[str, Sequence[float]],
    *,
    spacing: tuple[float, float] | None = None,
    instances: np.ndarray | None = None,
) -> Score:
    """Measures a prediction against the label.

    Args:
      label: uint8 [H, W], 255 = ignored.
      probabilities: float32 [H, W, K].
      loss: of the image.
      task: decides which metrics are computed.
      threshold: `eval.threshold`, which decides between two classes.
      thresholds: thresholds at which metrics are computed; see `thresholds_by_metric`.
      spacing: height and width of a pixel in `task.length_unit`; None if they are unknown.
      instances: ids of the label's objects, int32 [H, W], 0 = none; None if they are unknown.

    Returns:
      The score, with the prediction and without a name. Its loss is NaN if a probability of a
      counted pixel is not finite, so that `check_finite` rejects it.
    """
    counted, metrics = label != IGNORED, metrics_of(task)
    if not np.isfinite(probabilities).all():
        if not np.isfinite(probabilities[counted]).all():
            loss = math.nan
        probabilities = np.nan_to_num(probabilities)
    prediction = predictor.decide(probabilities, threshold)
    probability = probabilities[..., -1] if is_binary(task.classes) else probabilities.max(-1)
    pixels = Pixels(label, prediction, probability, spacing, instances)
    curves = {
        m.key: dict(zip(thresholds[m.key], m.at_thresholds(pixels, thresholds[m.key]), strict=True))
        for m in metrics
        if m.at_thresholds
    }
    curves |= _mask_curves(pixels, probabilities, task, thresholds)
    return Score(
        "",
        count(pixels, task, loss),
        {m.key: m.of_pixels(pixels) for m in metrics if m.of_pixels},
        class_values(pixels, task, metrics),
        curves,
        prediction,
    )


def count(pixels: Pixels, task: Task, loss: float) -> Counts:
    """Counts what metrics with `of_counts` are computed from."""
    counted = pixels.label != IGNORED
    event = pixels.label == (1 if is_binary(task.classes) else pixels.prediction)
    return Counts(
        loss,
        overlap.confusion(pixels.label, pixels.prediction, task.classes),
        calibration.histogram(event[counted], pixels.probability[counted]),
    )


def _mask_curves(
    pixels: Pixels,
    probabilities: np.ndarray,
    task: Task,
    thresholds: Mapping[str, Sequence[float]],
) -> dict[str, dict[float, float]]:
    """Computes the metrics of class 1's masks at their thresholds, by metric and threshold."""
    metrics = [m for m in metrics_of(task) if m.of_masks and m.key in thresholds]
    curves: dict[str, dict[float, float]] = {metric.key: {} for metric in metrics}
    for threshold in sorted({t for metric in metrics for t in thresholds[metric.key]}):
        wanted = [metric for metric in metrics if threshold in thresholds[metric.key]]
        prediction = predictor.decide(probabilities, threshold)
        decided = dataclasses.replace(pixels, prediction=prediction)
        for key, values in class_values(decided, task, wanted).items():
            curves[key][threshold] = values[1]
    return curves
