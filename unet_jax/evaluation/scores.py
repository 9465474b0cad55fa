"""From the scores of images to what a report says of a split."""

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
    """One image's loss and counts, at its native resolution."""

    name: str
    loss: float  # NaN also where probabilities of pixels that count are
    confusion: np.ndarray  # int64 [K, K], at the fixed threshold or of the most probable classes
    histogram: np.ndarray  # int64 [2, BINS], see histograms.py
    of_network: np.ndarray | None = None  # the confusion at the network's size, where that differs
    # Where class 1 is cells that class 0 parts: V^Rand and V^Info at each threshold.
    rand_info: Mapping[float, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    prediction: np.ndarray | None = None  # class ids, uint8 [H, W], of images that are shown
    index: int = 0  # of the image in its split; scores come in any order


def pack(scores: Iterable[Score]) -> list[dict[str, Any]]:
    """Scores in the types that hosts can tell one another."""
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
    """Raises a `UserError` that names the images whose loss is not finite.

    An image without a pixel that counts has no loss, and is no reason to complain.
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
    """Loss, aggregates, summed counts, per-class and per-image metrics; None for NaN.

    `threshold` is the fixed one, at which cells are scored. Only where the loss is a plain mean
    over pixels (`losses.is_mean_over_pixels`) do the images' losses say what their pooled loss is.
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
    """The mean over the pixels that count where the loss was computed: at the network's size."""
    seen = [s.confusion if s.of_network is None else s.of_network for s in scores]
    pixels = np.array([counts.sum() for counts in seen])
    counted = pixels > 0
    if not counted.any():
        return np.nan
    losses = np.array([score.loss for score in scores])
    return float(np.average(losses[counted], weights=pixels[counted]))


def mean_scalars(summary: dict[str, Any]) -> dict[str, float]:
    """Each metric's mean over the images, where it has one."""
    return {k: v["mean"] for k, v in summary["aggregate"].items() if v["mean"] is not None}


def class_scalars(summary: dict[str, Any]) -> dict[str, float]:
    """For more than two classes: `iou/CLASS` of all pixels together, and their mean."""
    if "mean_iou" not in summary["aggregate"]:
        return {}
    ious = {f"iou/{name}": values["iou"] for name, values in summary["per_class"].items()}
    ious["iou/mean"] = summary["aggregate"]["mean_iou"]["pooled"]
    return {name: iou for name, iou in ious.items() if iou is not None}


def choose_thresholds(scores: Sequence[Score]) -> dict[str, float]:
    """The thresholds on class 1's probability that serve these images best, by metric.

    For cells one for V^Rand too, of the challenge's grid; of equally good ones the lowest.
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
    """Mean metrics over images at the fixed threshold, and at those chosen on validation.

    For cells also V^Rand and V^Info as the challenge scores them, each at the threshold that is
    best on these very images. Dice, IoU and pixel accuracy at a chosen threshold are those at the
    next multiple of 1/1024.
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
    """The ISBI challenge's: 1 - Dice of cell over all pixels, at the best of its thresholds."""
    counts = (calibration.confusion_above(pooled, t) for t in em_challenge.THRESHOLDS)
    return 1 - max(float(overlap.class_metrics(c)["dice"][1]) for c in counts)


def _curves(scores: Sequence[Score]) -> np.ndarray:
    """V^Rand and V^Info at the challenge's thresholds: [images, thresholds, 2]."""
    return np.array([[score.rand_info[t] for t in em_challenge.THRESHOLDS] for score in scores])


def only_predicted_class(scores: Sequence[Score], classes: Sequence[str]) -> str | None:
    """The name of the class that every pixel was predicted as, where the labels have others."""
    counts = np.sum([score.confusion for score in scores], axis=0)
    labelled, predicted = np.flatnonzero(counts.sum(1)), np.flatnonzero(counts.sum(0))
    return classes[predicted[0]] if len(predicted) == 1 and len(labelled) > 1 else None


def second_observer(split: Split, classes: Sequence[str]) -> dict[str, Any] | None:
    """What a second human's masks score, where the data have them: aggregate and per image."""
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
    """The scores of a predictor that looks at no image and calls every pixel class 1."""
    constant = [np.stack([np.zeros(2, np.int64), c.sum(1)], axis=1) for c in counts]
    return {
        "prediction": f"all {classes[1]}",
        "aggregate": _aggregate_without_loss(constant),
        "per_class": _per_class(np.sum(constant, axis=0), classes),
    }


def _without_nan(value: Any) -> Any:
    """NaN -> None, since JSON has no NaN."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and np.isnan(value) else value
