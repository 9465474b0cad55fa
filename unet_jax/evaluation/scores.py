"""Scores of images, and the summary of a split's scores in a report."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from unet_jax.core.errors import UserError
from unet_jax.data.dataset import Split
from unet_jax.metrics import calibration, em_challenge, overlap


@dataclasses.dataclass(frozen=True)
class Score:
    """The loss and the pixel counts of an image, at the size that it has on disk."""

    name: str
    loss: float  # NaN also if a probability of a pixel that is not ignored is not finite
    confusion: np.ndarray  # int64 [K, K], at `eval.threshold`; K > 2: of the most probable class
    histogram: np.ndarray  # int64 [2, BINS], see `metrics.calibration`
    of_network: np.ndarray | None = None  # confusion at the network's size, if images are resized
    # V^Rand and V^Info at each threshold, if class 1 is cells that are separated by class 0.
    rand_info: Mapping[float, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    prediction: np.ndarray | None = None  # class ids, uint8 [H, W], if the image is to be shown
    index: int = 0  # the image's position in its split


def pack(scores: Iterable[Score]) -> list[dict[str, Any]]:
    """Converts scores to the types that hosts can exchange; the inverse of `unpack`."""
    return [
        dataclasses.asdict(score)
        | {"rand_info": [[key, *values] for key, values in score.rand_info.items()]}
        for score in scores
    ]


def unpack(packed: Iterable[dict[str, Any]]) -> list[Score]:
    return [
        Score(**fields | {"rand_info": {key: tuple(v) for key, *v in fields["rand_info"]}})
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
    wrong = [s for s in scores if s.confusion.any() and not math.isfinite(s.loss)]
    if wrong:
        shown = ", ".join(f"{score.name} ({score.loss})" for score in wrong[:3])
        more = f" and {len(wrong) - 3} more" if wrong[3:] else ""
        raise UserError(
            f"{where}: the loss is not finite for {len(wrong)} of {len(scores)} images: "
            f"{shown}{more}; no model and no report was saved; look at these images, or train "
            f"in another folder (--workdir=...) with a lower optim.learning_rate, optim.clip_norm "
            f"or optim.warmup_epochs"
        )


def summarise(
    scores: Sequence[Score],
    classes: Sequence[str],
    threshold: float,
    loss_is_mean_over_pixels: bool,
) -> dict[str, Any]:
    """Summarises the scores of a split's images for a report.

    Args:
      scores: the scores, at least one.
      classes: names of the classes.
      threshold: `eval.threshold`, at which V^Rand and V^Info are reported.
      loss_is_mean_over_pixels: see `losses.is_mean_over_pixels`; only then the pooled loss follows
        from the losses of the images.

    Returns:
      `loss` (mean over images), `aggregate` (see `overlap.aggregate`), `per_class`, `confusion`,
      `per_image` and `calibration`; for cells `pixel_error`, for two classes `trivial`. NaN is
      replaced by None.
    """
    counts = [score.confusion for score in scores]
    pooled = np.sum([score.histogram for score in scores], axis=0)
    further = {}
    if len(classes) == 2:
        aucs = [calibration.roc_auc(score.histogram) for score in scores]
        further["auc"] = aucs, calibration.roc_auc(pooled)
    if scores[0].rand_info:
        values = np.array([score.rand_info[threshold] for score in scores])
        further["v_rand"] = values[:, 0].tolist(), np.nan
        further["v_info"] = values[:, 1].tolist(), np.nan
    resized = [score.of_network for score in scores if score.of_network is not None]
    if resized:
        rows = [overlap.headline_metrics(c) for c in resized]
        pooled_row = overlap.headline_metrics(np.sum(resized, axis=0))
        for name in ("dice", "iou") if len(classes) == 2 else ("mean_iou",):
            further[f"network_{name}"] = [row[name] for row in rows], pooled_row[name]
    losses = [score.loss for score in scores]
    pooled_loss = _pooled_loss(scores) if loss_is_mean_over_pixels else np.nan
    aggregate = overlap.aggregate(counts, losses, further, pooled_loss=pooled_loss)
    per_image = {}
    for i, score in enumerate(scores):
        others = {name: values[i] for name, (values, _) in further.items()}
        row = {"loss": score.loss} | overlap.headline_metrics(score.confusion) | others
        per_image[score.name] = row
    summary = {
        "loss": aggregate["loss"]["mean"],
        "aggregate": aggregate,
        "per_class": _per_class(np.sum(counts, axis=0), classes),
        "confusion": np.sum(counts, axis=0).tolist(),  # [label][prediction], pixels of all images
        "per_image": per_image,
        "calibration": calibration.calibration(pooled),
    }
    if scores[0].rand_info:
        summary["pixel_error"] = _pixel_error(pooled)
    if len(classes) == 2:
        summary["trivial"] = _trivial(counts, classes)
    return _without_nan(summary)


def _pooled_loss(scores: Sequence[Score]) -> float:
    """Averages the images' losses, weighted by their pixels that are not ignored.

    The pixels are counted at the size at which the loss was computed, the network's.
    """
    seen = [s.confusion if s.of_network is None else s.of_network for s in scores]
    pixels = np.array([counts.sum() for counts in seen])
    counted = pixels > 0
    if not counted.any():
        return np.nan
    losses = np.array([score.loss for score in scores])
    return float(np.average(losses[counted], weights=pixels[counted]))


def mean_scalars(summary: dict[str, Any]) -> dict[str, float]:
    """Returns the mean over the images of each metric for which it is defined."""
    return {k: v["mean"] for k, v in summary["aggregate"].items() if v["mean"] is not None}


def class_scalars(summary: dict[str, Any]) -> dict[str, float]:
    """Returns `iou/CLASS`, pooled over all pixels, and `iou/mean`; empty for two classes."""
    if "mean_iou" not in summary["aggregate"]:
        return {}
    ious = {f"iou/{name}": values["iou"] for name, values in summary["per_class"].items()}
    ious["iou/mean"] = summary["aggregate"]["mean_iou"]["pooled"]
    return {name: iou for name, iou in ious.items() if iou is not None}


def choose_thresholds(scores: Sequence[Score]) -> dict[str, float]:
    """Finds the thresholds of class 1's probability that are best on these images.

    Args:
      scores: the scores of the images, of two classes.

    Returns:
      A threshold for `dice` (see `calibration.best_dice_threshold`) and, for cells, one of the
      challenge's thresholds for `v_rand`, the lowest of equally good ones.
    """
    chosen = {"dice": calibration.best_dice_threshold([score.histogram for score in scores])}
    if scores[0].rand_info:
        curves = _curves(scores)[:, :, 0]
        with_cells = curves[~np.isnan(curves[:, 0])]
        best = with_cells.mean(0).argmax() if len(with_cells) else len(em_challenge.THRESHOLDS) // 2
        chosen["v_rand"] = em_challenge.THRESHOLDS[best]
    return chosen


def threshold_table(
    scores: Sequence[Score], fixed: float, chosen: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Computes the mean metrics over images at several thresholds of class 1's probability.

    At a threshold that was chosen on validation, Dice, IoU and pixel accuracy are those at the
    nearest multiple of 1/1024.

    Args:
      scores: the scores of the images, of two classes.
      fixed: `eval.threshold`.
      chosen: thresholds chosen on validation, by metric.

    Returns:
      A row for each threshold: `rule`, `threshold`, `dice`, `iou`, `pixel_accuracy` and, for cells,
      `v_rand` and `v_info`. Cells have a last row with V^Rand and V^Info as the challenge computes
      them, each at the threshold that is best on these images. NaN is replaced by None.
    """
    rules = {"fixed": fixed}
    rules |= {f"best {overlap.METRICS[m][0]} on validation": t for m, t in chosen.items()}
    table: list[dict[str, Any]] = []
    for rule, threshold in rules.items():
        rows = []
        for score in scores:
            counts = score.confusion
            if rule != "fixed":
                counts = calibration.confusion_above(score.histogram, threshold)
            row = overlap.headline_metrics(counts)
            row = {name: row[name] for name in ("dice", "iou", "pixel_accuracy")}
            if score.rand_info:
                row["v_rand"], row["v_info"] = score.rand_info[threshold]
            rows.append(row)
        means = {name: overlap.nan_mean(np.array([row[name] for row in rows])) for name in rows[0]}
        table.append({"rule": rule, "threshold": threshold} | means)
    if scores[0].rand_info:
        v_rand, v_info = em_challenge.best(_curves(scores))
        unknown = dict.fromkeys(("threshold", "dice", "iou", "pixel_accuracy"))
        rule = {"rule": "best on these images, as the challenge scores"}
        table.append(rule | unknown | {"v_rand": v_rand, "v_info": v_info})
    return _without_nan(table)


def _pixel_error(pooled: np.ndarray) -> float:
    """Computes the ISBI challenge's pixel error: 1 - pooled Dice of cells at the best threshold."""
    counts = (calibration.confusion_above(pooled, t) for t in em_challenge.THRESHOLDS)
    return 1 - max(float(overlap.class_metrics(c)["dice"][1]) for c in counts)


def _curves(scores: Sequence[Score]) -> np.ndarray:
    """Returns V^Rand and V^Info at the challenge's thresholds: [images, thresholds, 2]."""
    return np.array([[score.rand_info[t] for t in em_challenge.THRESHOLDS] for score in scores])


def only_predicted_class(scores: Sequence[Score], classes: Sequence[str]) -> str | None:
    """Finds out if every pixel was predicted as the same class.

    Returns:
      The name of that class; None if several classes were predicted or the labels have only one.
    """
    counts = np.sum([score.confusion for score in scores], axis=0)
    labelled, predicted = np.flatnonzero(counts.sum(1)), np.flatnonzero(counts.sum(0))
    return classes[predicted[0]] if len(predicted) == 1 and len(labelled) > 1 else None


def second_observer(split: Split, classes: Sequence[str]) -> dict[str, Any] | None:
    """Scores the masks of a second human observer against the labels.

    Args:
      split: the images.
      classes: names of the classes.

    Returns:
      `aggregate` and `per_image`, as in `summarise` but without loss; None if the data set has no
      second observer.
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
    return _without_nan({"aggregate": _aggregate_without_loss(counts), "per_image": per_image})


def _per_class(counts: np.ndarray, classes: Sequence[str]) -> dict[str, dict[str, float]]:
    values = overlap.class_metrics(counts)
    return {
        name: {metric: float(per_class[k]) for metric, per_class in values.items()}
        for k, name in enumerate(classes)
    }


def _aggregate_without_loss(counts: Sequence[np.ndarray]) -> dict[str, dict[str, float]]:
    aggregate = overlap.aggregate(counts, [np.nan] * len(counts))
    del aggregate["loss"]
    return aggregate


def _trivial(counts: Sequence[np.ndarray], classes: Sequence[str]) -> dict[str, Any]:
    """Scores the constant prediction of class 1 for every pixel."""
    constant = [np.stack([np.zeros(2, np.int64), c.sum(1)], axis=1) for c in counts]
    return {
        "prediction": f"all {classes[1]}",
        "aggregate": _aggregate_without_loss(constant),
        "per_class": _per_class(np.sum(constant, axis=0), classes),
    }


def _without_nan(value: Any) -> Any:
    """Replaces NaN by None, because JSON has no NaN."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and np.isnan(value) else value
