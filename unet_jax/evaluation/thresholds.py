"""Thresholds of class 1's probability: chosen on validation, and compared in a report."""

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from unet_jax import is_binary
from unet_jax.evaluation.scores import without_nan
from unet_jax.metrics import calibration, em_challenge, overlap
from unet_jax.metrics.registry import METRICS, Metric, Score, Task, metrics_of

USED = "used in this report"  # `rule` of the report's own threshold
# Thresholds from which one is chosen for a metric of masks, which is computed anew at each.
GRID = tuple(k / 20 for k in range(1, 20))


def can_tune(metric: Metric) -> bool:
    """Returns whether a threshold can be chosen for a metric of two classes."""
    return bool(metric.best_threshold or metric.at_thresholds or metric.of_masks)


def thresholds_by_metric(
    task: Task, fixed: float, chosen: Iterable[float] = (), tuned: Collection[str] = ()
) -> dict[str, list[float]]:
    """Returns the thresholds at which the metrics of an image must be computed.

    Args:
      task: decides which metrics are computed.
      fixed: `eval.threshold`.
      chosen: thresholds that were chosen on validation, at which all metrics are reported.
      tuned: keys of the metrics for which a threshold will be chosen.

    Returns:
      Thresholds in ascending order for each metric with `at_thresholds` and, with two classes, for
      each metric with `of_masks`; the latter are computed at `fixed` anyway.
    """
    metrics, chosen = metrics_of(task), set(chosen)
    curves = [metric for metric in metrics if metric.at_thresholds]
    own = {t for m in curves for t in (_candidates(m) if m.key in tuned else m.thresholds)}
    needed = {metric.key: sorted({*own, fixed, *chosen}) for metric in curves}
    if is_binary(task.classes):
        masks = [metric.key for metric in metrics if metric.of_masks]
        needed |= {key: sorted(chosen | set(GRID if key in tuned else ())) for key in masks}
    return needed


def choose_thresholds(
    scores: Sequence[Score], task: Task, tuned: Collection[str] = ()
) -> dict[str, float]:
    """Finds the thresholds of class 1's probability that are best on these images.

    Args:
      scores: the scores of the images, at the thresholds of `thresholds_by_metric`.
      task: decides which metrics there are.
      tuned: keys of the metrics for which a threshold is chosen (`eval.tune`); if empty, those
        that are `Metric.tuned`.

    Returns:
      A threshold for each of these metrics that is defined for an image.
    """
    metrics = [m for m in metrics_of(task) if (m.key in tuned if tuned else m.tuned)]
    best = {
        m.key: m.best_threshold(scores) if m.best_threshold else _best(m, scores) for m in metrics
    }
    return {key: threshold for key, threshold in best.items() if threshold is not None}


def _candidates(metric: Metric) -> Sequence[float]:
    return metric.thresholds or GRID


def _best(metric: Metric, scores: Sequence[Score]) -> float | None:
    """Returns the threshold with the best mean over the images, of equals the nearest to 1/2.

    A threshold at which fewer images have a value than at others is left out: its mean says
    nothing of the images without one.
    """
    candidates = _candidates(metric)
    curves = np.array([[score.curves[metric.key][t] for t in candidates] for score in scores])
    known = (~np.isnan(curves)).sum(0)
    if not known.any():
        return None
    means = {
        t: overlap.nan_mean(column)
        for t, column, count in zip(candidates, curves.T, known, strict=True)
        if count == known.max()
    }
    best = metric.best(list(means.values()))
    return min((t for t, mean in means.items() if mean == best), key=lambda t: abs(t - 0.5))


def rule_of(metric: Metric) -> str:
    """Returns the `rule` of the threshold that was chosen for a metric; see `threshold_table`."""
    unit = f" ({metric.unit})" if metric.unit else ""
    return f"best {metric.label}{unit} on validation"


def threshold_table(
    scores: Sequence[Score],
    task: Task,
    used: float,
    chosen: Mapping[str, float],
    others: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Computes the mean metrics over images at several thresholds of class 1's probability.

    At a threshold that was chosen on validation, metrics of counts are those at the nearest
    multiple of 1/1024.

    Args:
      scores: the scores of the images, of two classes, at the thresholds of `thresholds_by_metric`.
      task: decides which metrics are reported.
      used: the report's threshold.
      chosen: thresholds chosen on validation, by metric.
      others: additional thresholds, by the name of their row.

    Returns:
      A row for each threshold, that of the report first: `rule`, `threshold`, and the metrics that
      are `overall`, of masks, or depend on thresholds themselves.
      Cells have a last row with V^Rand and V^Info as the challenge computes them, each at the
      threshold that is best on these images. NaN is replaced by None.
    """
    metrics = [m for m in metrics_of(task) if m.overall or m.at_thresholds or m.of_masks]
    rules = {USED: used, **(others or {})}
    rules |= {rule_of(METRICS[key]): t for key, t in chosen.items()}
    table: list[dict[str, Any]] = []
    for rule, threshold in rules.items():
        at_threshold = scores if rule == USED else [_above(s, threshold) for s in scores]
        means = {
            m.key: overlap.nan_mean(np.array([m.value(s, threshold) for s in at_threshold]))
            for m in metrics
        }
        table.append({"rule": rule, "threshold": threshold} | means)
    if task.cells:
        unknown = dict.fromkeys(table[0])
        rule = {"rule": "best on these images, as the challenge scores"}
        table.append(unknown | rule | em_challenge.best_of_split(scores))
    return without_nan(table)


def _above(score: Score, threshold: float) -> Score:
    """Returns the score at another threshold; its confusion is that at a multiple of 1/BINS."""
    confusion = calibration.confusion_above(score.counts.histogram, threshold)
    return dataclasses.replace(
        score,
        counts=dataclasses.replace(score.counts, confusion=confusion),
        of_classes={key: [math.nan, score.curves[key][threshold]] for key in score.of_classes},
    )
