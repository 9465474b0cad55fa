"""The summary of a split's scores in a report."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from unet_jax import is_binary
from unet_jax.core.errors import UserError
from unet_jax.data.dataset import Split
from unet_jax.distributed import hosts
from unet_jax.evaluation.intervals import add_mean_intervals
from unet_jax.metrics import calibration, em_challenge, overlap
from unet_jax.metrics.registry import METRICS, Counts, Score, Task, headline_of, metrics_of


def all_scores(scores: Iterable[Score]) -> list[Score]:
    """Collects the scores of all hosts, in the split's order.

    Args:
      scores: the scores of this host's images. All hosts must call this function.

    Returns:
      The scores of all images, the same list on each host.
    """
    if hosts.count() > 1:
        scores = [score for packed in hosts.gather(pack(scores)) for score in unpack(packed)]
    return sorted(scores, key=lambda score: score.index)


def pack(scores: Iterable[Score]) -> list[dict[str, Any]]:
    """Converts scores to the types that hosts can exchange; the inverse of `unpack`."""
    return [
        dataclasses.asdict(score)
        | {"curves": {key: list(map(list, c.items())) for key, c in score.curves.items()}}
        for score in scores
    ]


def unpack(packed: Iterable[dict[str, Any]]) -> list[Score]:
    return [
        Score(
            **fields
            | {
                "counts": Counts(**fields["counts"]),
                "curves": {key: dict(pairs) for key, pairs in fields["curves"].items()},
            }
        )
        for fields in packed
    ]


def check_finite(scores: Sequence[Score], where: str) -> None:
    """Checks that the loss of every image is finite.

    Images whose pixels are all ignored have no loss and are not checked.

    Args:
      scores: the scores of the images.
      where: the evaluation, for the error message.

    Raises:
      UserError: names up to three images whose loss is not finite.
    """
    wrong = [s for s in scores if s.counts.confusion.any() and not math.isfinite(s.counts.loss)]
    if wrong:
        shown = ", ".join(f"{score.name} ({score.counts.loss})" for score in wrong[:3])
        more = f" and {len(wrong) - 3} more" if wrong[3:] else ""
        raise UserError(
            f"{where}: the loss is not finite for {len(wrong)} of {len(scores)} images: "
            f"{shown}{more}; no model and no report was saved; look at these images, or train "
            f"in another folder (--workdir=...) with a lower optim.learning_rate, optim.clip_norm "
            f"or optim.warmup_epochs"
        )


def summarise(
    scores: Sequence[Score],
    task: Task,
    classes: Sequence[str],
    threshold: float,
    loss_is_mean_over_pixels: bool,
) -> dict[str, Any]:
    """Summarises the scores of a split's images for a report.

    Args:
      scores: the scores, at least one.
      task: decides which metrics are reported.
      classes: names of the classes.
      threshold: `eval.threshold`, at which metrics that depend on a threshold are reported.
      loss_is_mean_over_pixels: see `losses.is_mean_over_pixels`; only then the pooled loss follows
        from the losses of the images.

    Returns:
      `loss` (mean over images), `aggregate` (for each metric `mean`, `min` and `max` over the
      images for which it is defined, and `pooled`), `per_class` (pooled over the pixels or, for
      metrics of masks, the mean over the images), `confusion`, `per_image` and `calibration`; for
      metrics of masks `one_mask_empty`, for metrics that have some `settings`, for cells
      `pixel_error`, for two classes `trivial`. NaN is replaced by None.
    """
    total = _total(scores, loss_is_mean_over_pixels)
    metrics = metrics_of(task)
    rows = [{m.key: m.value(score, threshold) for m in metrics} for score in scores]
    aggregate = {
        m.key: overlap.statistics([row[m.key] for row in rows]) | {"pooled": m.pooled(total)}
        for m in metrics
    }
    summary = {
        "loss": aggregate["loss"]["mean"],
        "aggregate": aggregate,
        "per_class": _per_class(total.confusion, classes, scores),
        "confusion": total.confusion.tolist(),  # [label][prediction], pixels of all images
        "per_image": {score.name: row for score, row in zip(scores, rows, strict=True)},
        "calibration": calibration.calibration(total.histogram),
    }
    if any(m.of_masks for m in metrics):
        summary["one_mask_empty"] = _one_mask_empty(scores, classes)
    if names := sorted({name for metric in metrics for name in metric.settings}):
        settings = {name: getattr(task, name) for name in names}
        summary["settings"] = {
            k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()
        }
    if task.cells:
        summary["pixel_error"] = em_challenge.pixel_error(total.histogram)
    if is_binary(task.classes):
        summary["trivial"] = _trivial([score.counts.confusion for score in scores], classes)
    return without_nan(summary)


def _total(scores: Sequence[Score], loss_is_mean_over_pixels: bool) -> Counts:
    """Adds the counts of all images; the loss is the mean over pixels, NaN if it is unknown."""
    counts = [score.counts for score in scores]
    at_network_size = [c.network_confusion for c in counts if c.network_confusion is not None]
    return Counts(
        loss=_pooled_loss(counts) if loss_is_mean_over_pixels else math.nan,
        confusion=np.sum([c.confusion for c in counts], axis=0),
        histogram=np.sum([c.histogram for c in counts], axis=0),
        network_confusion=np.sum(at_network_size, axis=0) if at_network_size else None,
    )


def _pooled_loss(counts: Sequence[Counts]) -> float:
    """Averages the images' losses, weighted by their pixels that are not ignored.

    The pixels are counted at the size at which the loss was computed, the network's.
    """
    seen = [c.confusion if c.network_confusion is None else c.network_confusion for c in counts]
    pixels = np.array([confusion.sum() for confusion in seen])
    counted = pixels > 0
    if not counted.any():
        return math.nan
    losses = np.array([c.loss for c in counts])
    return float(np.average(losses[counted], weights=pixels[counted]))


def mean_scalars(summary: dict[str, Any]) -> dict[str, float]:
    """Returns the mean over the images of each metric for which it is defined."""
    return {k: v["mean"] for k, v in summary["aggregate"].items() if v["mean"] is not None}


def scores_line(summary: dict[str, Any]) -> str:
    """Returns the metrics in a line: means over the images, and pooled ones that are quoted."""
    parts = [f"{name} {value:.4f}" for name, value in mean_scalars(summary).items()]
    for key, statistics in summary["aggregate"].items():
        if METRICS[key].statistic == "pooled" and statistics["pooled"] is not None:
            parts.append(f"{key} (pooled) {statistics['pooled']:.4f}")
    return "  ".join(parts)


def class_scalars(summary: dict[str, Any], task: Task) -> dict[str, float]:
    """Returns the class metric that the headline metric averages, for TensorBoard.

    Returns:
      The metric of each class, pooled over all pixels, and their mean, such as `iou/CLASS` and
      `iou/mean`; empty if the headline metric averages no class metric.
    """
    headline = headline_of(task)
    if headline.averages is None:
        return {}
    of_class, kind = summary["per_class"], headline.averages
    values = {f"{kind}/{name}": metrics[kind] for name, metrics in of_class.items()}
    values[headline.logged] = summary["aggregate"][headline.key]["pooled"]
    return {name: value for name, value in values.items() if value is not None}


def only_predicted_class(scores: Sequence[Score], classes: Sequence[str]) -> str | None:
    """Finds out if every pixel was predicted as the same class.

    Returns:
      The name of that class; None if several classes were predicted or the labels have only one.
    """
    counts = np.sum([score.counts.confusion for score in scores], axis=0)
    labelled, predicted = np.flatnonzero(counts.sum(1)), np.flatnonzero(counts.sum(0))
    return classes[predicted[0]] if len(predicted) == 1 and len(labelled) > 1 else None


def second_observer(split: Split, classes: Sequence[str]) -> dict[str, Any] | None:
    """Scores the masks of a second human observer against the labels.

    Args:
      split: the images.
      classes: names of the classes.

    Returns:
      `aggregate`, with confidence intervals of the means, and `per_image`, as in `summarise` but
      without loss; None if the data set has no second observer.
    """
    if split.observer is None:
        return None
    counts = [
        overlap.confusion(split[i]["label"], split.observer(i), len(classes))
        for i in range(len(split))
    ]
    per_image = {
        name: overlap.headline_metrics(c) for name, c in zip(split.names, counts, strict=True)
    }
    found = without_nan({"aggregate": overlap.aggregate(counts), "per_image": per_image})
    add_mean_intervals(found["aggregate"], found["per_image"])
    return found


def _per_class(
    counts: np.ndarray, classes: Sequence[str], scores: Sequence[Score] = ()
) -> dict[str, dict[str, float]]:
    """Returns the metrics of each class: of the counts, and means over images of `of_classes`."""
    values = dict(overlap.class_metrics(counts))
    for metric in scores[0].of_classes if scores else ():
        by_image = np.array([score.of_classes[metric] for score in scores])  # [images, K]
        values[metric] = np.array([overlap.nan_mean(column) for column in by_image.T])
    return {
        name: {metric: float(per_class[k]) for metric, per_class in values.items()}
        for k, name in enumerate(classes)
    }


def _one_mask_empty(scores: Sequence[Score], classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """Returns `overlap.one_mask_empty` of each class that metrics of masks have a value for."""
    counts = overlap.one_mask_empty([score.counts.confusion for score in scores])
    first = 1 if is_binary(len(classes)) else 0
    return {
        name: {which: int(images[k]) for which, images in counts.items()}
        for k, name in enumerate(classes)
        if k >= first
    }


def _trivial(counts: Sequence[np.ndarray], classes: Sequence[str]) -> dict[str, Any]:
    """Scores the constant prediction of class 1 for every pixel."""
    constant = [np.stack([np.zeros(2, np.int64), c.sum(1)], axis=1) for c in counts]
    return {
        "prediction": f"all {classes[1]}",
        "aggregate": overlap.aggregate(constant),
        "per_class": _per_class(np.sum(constant, axis=0), classes),
    }


def without_nan(value: Any) -> Any:
    """Replaces NaN by None, because JSON has no NaN."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and np.isnan(value) else value
