"""Scores the predictions of a peer by this project's code, from the files that it left."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.peers.peer import Peer, Setting, predictions, training_of
from unet_jax import IGNORED
from unet_jax.core.errors import UserError
from unet_jax.data.dataset import Split
from unet_jax.evaluation.image import score_image
from unet_jax.evaluation.intervals import add_intervals
from unet_jax.evaluation.scores import check_finite, second_observer, summarise
from unet_jax.evaluation.task import task_of
from unet_jax.evaluation.thresholds import choose_thresholds, threshold_table, thresholds_by_metric
from unet_jax.inference.predictor import decide
from unet_jax.metrics.registry import Score, Task
from unet_jax.reporting.overlays import Overlay, best_median_worst
from unet_jax.reporting.sections import headline

LEAST_PROBABILITY = 1e-7  # of the logarithm in the cross-entropy
COMMON_THRESHOLD = {"0.5, for all peers": 0.5}  # rule and threshold of another row
NOTE = (
    "the loss is the binary cross-entropy of the probabilities at native resolution, whatever was "
    "minimised"
)


def read_probability(folder: pathlib.Path, name: str, shape: tuple[int, int]) -> np.ndarray:
    """Reads the probability of class 1 of an image, float32 [H, W].

    Raises:
      UserError: there is none, it has another size, or values outside 0 to 1.
    """
    path = folder / "probabilities" / f"{name}.tif"
    if not path.exists():
        raise UserError(f"{path}: the peer did not predict this image; remove {folder}")
    found = np.asarray(Image.open(path))
    if found.shape != shape or found.dtype != np.float32:
        raise UserError(f"{path}: is {found.dtype} {found.shape}, but the image is {shape}")
    if not (np.isfinite(found).all() and found.min() >= -1e-6 and found.max() <= 1 + 1e-6):
        raise UserError(f"{path}: has values outside 0 to 1")
    return found.clip(0, 1)


def cross_entropy(probability: np.ndarray, label: np.ndarray) -> float:
    """Returns the mean binary cross-entropy over the pixels that count; NaN without any."""
    counted = label != IGNORED
    if not counted.any():
        return math.nan
    p = probability[counted].astype(np.float64)
    truth = np.where(label[counted] == 1, p, 1 - p)
    return float(-np.log(truth.clip(LEAST_PROBABILITY)).mean())


def score_split(
    folder: pathlib.Path,
    split: Split,
    task: Task,
    threshold: float,
    thresholds: Mapping[str, Any],
) -> list[Score]:
    """Scores the predictions of a split in a folder, in the order of the split."""
    scores = []
    for index, name in enumerate(split.names):
        label = split.read(index)[1]
        probability = read_probability(folder, name, label.shape)
        loss = cross_entropy(probability, label)
        found = score_image(label, probability[..., None], loss, task, threshold, thresholds)
        scores.append(dataclasses.replace(found, name=name, index=index))
    return scores


def report_of(
    setting: Setting, peer: Peer, folder: pathlib.Path, seed: int, tta: bool
) -> dict[str, Any]:
    """Scores the test images of a peer and seed; returns a report as that of a run.

    Thresholds are chosen on the validation images by the same rule for all peers. The report also
    has the scores at `COMMON_THRESHOLD`.

    Args:
      setting: the comparison.
      peer: the peer.
      folder: the folder of this peer and seed.
      seed: the seed.
      tta: whether to score the predictions with test-time augmentation.
    """
    config, dataset, threshold = setting.config, setting.dataset, peer.threshold(folder)
    task = dataclasses.replace(task_of(config, dataset), resized=False)
    tuned, chosen = tuple(config.eval.tune), {}
    if len(dataset.splits["validation"]):
        at = thresholds_by_metric(task, threshold, tuned=tuned)
        where = predictions(folder, "validation", tta)
        found = score_split(where, dataset.splits["validation"], task, threshold, at)
        chosen = choose_thresholds(found, task, tuned)
    at = thresholds_by_metric(task, threshold, [*COMMON_THRESHOLD.values(), *chosen.values()])
    where, split = predictions(folder, "test", tta), dataset.splits["test"]
    scores = score_split(where, split, task, threshold, at)
    check_finite(scores, str(where))
    training = training_of(folder)
    summary = summarise(scores, task, dataset.classes, threshold, True)
    add_intervals(summary, scores, True)
    return {
        "name": f"{peer.title}, seed {seed}" + (", with test-time augmentation" if tta else ""),
        "split": "test",
        "step": training["steps"],
        "checkpoint": "final",
        "classes": list(dataset.classes),
        "channels": list(dataset.channel_names),
        "notes": [NOTE],
        "threshold": threshold,
        **summary,
        "observer": second_observer(split, dataset.classes),
        "parameters": training["parameters"],
        "versions": training["versions"],
        "thresholds": threshold_table(scores, task, threshold, chosen, COMMON_THRESHOLD),
    }


def overlays(
    setting: Setting, folder: pathlib.Path, report: dict[str, Any], tta: bool
) -> list[Overlay]:
    """Returns the images with the best, the median and the worst headline metric of a report."""
    metric, split = headline(report), setting.dataset.splits["test"]
    values = [report["per_image"][name][metric.key] for name in split.names]
    values = [math.nan if value is None else value for value in values]
    drawn = []
    for index, place in best_median_worst(values).items():
        name, (image, label) = split.names[index], split.read(index)
        probability = read_probability(predictions(folder, "test", tta), name, label.shape)
        title = f"{place}: {name}, {metric.label} {values[index]:.4f}"
        prediction = decide(probability[..., None], report["threshold"])
        drawn.append(Overlay(name, title, image, label, prediction))
    return drawn
