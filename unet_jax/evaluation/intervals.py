"""Confidence intervals of a report's metrics; see `unet_jax/metrics/bootstrap.py`."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from unet_jax.metrics import bootstrap
from unet_jax.metrics.registry import METRICS, Counts, Score


def add_intervals(
    summary: dict[str, Any], scores: Sequence[Score], loss_is_mean_over_pixels: bool
) -> None:
    """Adds confidence intervals to a summary.

    Each entry of `aggregate` gets `interval`, that of the mean, and, if it has a pooled value,
    `pooled_interval`. They are [low, high], or None for fewer than two images. `bootstrap` states
    how they were computed.

    Args:
      summary: what `summarise` returned; it is changed.
      scores: the scores that it summarises.
      loss_is_mean_over_pixels: as in `summarise`.
    """
    aggregate = summary["aggregate"]
    add_mean_intervals(aggregate, summary["per_image"])
    pooled = [key for key, values in aggregate.items() if values["pooled"] is not None]
    intervals = np.full((len(pooled), 2), np.nan)
    if len(scores) > 1 and pooled:
        intervals = bootstrap.percentiles(_pooled(scores, pooled, loss_is_mean_over_pixels))
    for key, interval in zip(pooled, intervals, strict=True):
        aggregate[key]["pooled_interval"] = _listed(interval)
    summary["bootstrap"] = {
        "level": bootstrap.LEVEL,
        "draws": bootstrap.DRAWS,
        "seed": bootstrap.SEED,
    }


def add_mean_intervals(
    aggregate: dict[str, Any], per_image: Mapping[str, Mapping[str, float | None]]
) -> None:
    """Adds `interval` to each metric of `aggregate`, from the values of each image."""
    rows = [[row[key] for key in aggregate] for row in per_image.values()]
    intervals = bootstrap.mean_intervals(np.array(rows, np.float64))  # None becomes NaN
    for values, interval in zip(aggregate.values(), intervals, strict=True):
        values["interval"] = _listed(interval)


def _pooled(
    scores: Sequence[Score], metrics: Sequence[str], loss_is_mean_over_pixels: bool
) -> np.ndarray:
    """Computes the pooled metrics of each draw of the images, float64 [DRAWS, metrics]."""
    values = []
    for weights in bootstrap.draws(len(scores)):
        # Of few images, most draws are alike.
        distinct, rows = np.unique(weights, axis=0, return_inverse=True)
        totals = resampled(scores, distinct, loss_is_mean_over_pixels)
        of_distinct = [[METRICS[key].pooled(total) for key in metrics] for total in totals]
        values.append(np.array(of_distinct)[rows.reshape(-1)])
    return np.concatenate(values)


def resampled(
    scores: Sequence[Score], weights: np.ndarray, loss_is_mean_over_pixels: bool
) -> Iterator[Counts]:
    """Yields the counts of all images together, for each draw of them.

    Args:
      scores: the scores of N images.
      weights: how often each image is in each draw, float64 [D, N].
      loss_is_mean_over_pixels: see `summarise`; without it the loss is NaN.
    """
    counts = [score.counts for score in scores]
    confusions = np.stack([c.confusion for c in counts])
    sized = [c.network_confusion for c in counts if c.network_confusion is not None]
    network = np.stack(sized) if sized else confusions
    # The loss was computed at the network's size, and is 0 or NaN where no pixel counts.
    pixels = network.sum((1, 2))
    sums = weights @ (np.where(pixels > 0, [c.loss for c in counts], 0) * pixels)
    totals = weights @ pixels
    confusion, at_network_size = _weighted(weights, confusions), _weighted(weights, network)
    histogram = _weighted(weights, np.stack([c.histogram for c in counts]))
    for i in range(len(weights)):
        known = loss_is_mean_over_pixels and totals[i] > 0
        yield Counts(
            loss=sums[i] / totals[i] if known else math.nan,
            confusion=confusion[i],
            histogram=histogram[i],
            network_confusion=at_network_size[i] if sized else None,
        )


def _weighted(weights: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sums counts, int64 [N, ...], with weights [D, N]; returns int64 [D, ...].

    Matrices of float64 multiply many times faster than integers, and are exact below 2^53.
    """
    flat = counts.reshape(len(counts), -1).astype(np.float64)
    return (weights @ flat).astype(np.int64).reshape(len(weights), *counts.shape[1:])


def _listed(interval: np.ndarray) -> list[float] | None:
    return None if np.isnan(interval).any() else interval.tolist()
