"""A whole split -> per-image counts -> metrics -> report."""

import dataclasses
import functools
import pathlib
import platform
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from unet_jax import losses, metrics, models, parallel, report, workdir
from unet_jax.checkpoint import Checkpoints
from unet_jax.config import digest
from unet_jax.data import pipeline
from unet_jax.data.dataset import Dataset, Split
from unet_jax.errors import UserError
from unet_jax.figures import Overlay
from unet_jax.writer import read_history

OVERLAYS = 2  # best images in the report, and as many worst


@dataclasses.dataclass(frozen=True)
class Score:
    """One image's loss and counts [K, K], at its native resolution."""

    name: str
    loss: float
    confusion: np.ndarray


def eval_step(
    variables: dict, batch: dict[str, jax.Array], *, model: nn.Module, loss: losses.Loss
) -> dict[str, jax.Array]:
    """Probabilities [N, H, W, K] and each image's own loss [N], for one device's part."""
    logits = model.bind(variables)(models.scale(batch["image"]), train=False)
    per_image = jax.vmap(lambda logit, label: loss(logit[None], label[None]))
    return {
        "probabilities": models.probabilities(logits),
        "loss": per_image(logits, batch["label"]),
    }


class Evaluator:
    """Evaluates variables of one model on splits of one data set."""

    def __init__(self, config: ConfigDict, dataset: Dataset, model: nn.Module, mesh: Mesh):
        self.config, self.dataset, self.mesh = config, dataset, mesh
        # Padding examples fill up any batch, so here the devices need not divide it.
        self.batch_size = -(-config.eval.batch_size // mesh.size) * mesh.size
        loss = losses.LOSSES[config.loss.name]
        step = functools.partial(eval_step, model=model, loss=loss)
        self._step = parallel.compile_eval_step(step, mesh)

    def predictions(
        self, variables: dict, split: Split, indices: Sequence[int] | None = None
    ) -> Iterator[tuple[int, np.ndarray, float]]:
        """Index, class ids (uint8 [H, W], native resolution) and loss of each image."""
        batches = pipeline.read_ahead(
            pipeline.eval_batches(split, batch_size=self.batch_size, indices=indices),
            self.config.data.workers,
        )
        with parallel.on_devices(batches, self.mesh) as placed:
            for batch in placed:
                outputs = self._step(variables, batch)
                rows = zip(
                    parallel.join(batch["index"]),
                    parallel.join(outputs["probabilities"]),
                    parallel.join(outputs["loss"]),
                    strict=True,
                )
                for index, probabilities, loss in rows:
                    if index < 0:
                        continue  # fills up the last batch
                    height, width = split.sizes[index]
                    probabilities = probabilities[:height, :width]
                    yield int(index), self.decide(probabilities), float(loss)

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities [H, W, K] -> class ids, uint8 [H, W]."""
        if probabilities.shape[-1] == 1:
            return (probabilities[..., 0] > self.config.eval.threshold).astype(np.uint8)
        return probabilities.argmax(-1).astype(np.uint8)

    def scores(self, variables: dict, split: Split) -> Iterator[Score]:
        """Each image's score, against the label as it is on disk."""
        for index, prediction, loss in self.predictions(variables, split):
            label = split[index]["label"]
            counts = metrics.confusion(label, prediction, len(self.dataset.classes))
            yield Score(split.names[index], loss, counts)

    def overlays(self, variables: dict, split: Split, scores: Sequence[Score]) -> list[Overlay]:
        """The best and the worst images by Dice (more than two classes: by mean IoU)."""
        name = "dice" if len(self.dataset.classes) == 2 else "mean_iou"
        values = [metrics.headline_metrics(score.confusion)[name] for score in scores]
        ranked = [i for i in np.argsort(values)[::-1].tolist() if not np.isnan(values[i])]
        best = ranked[:OVERLAYS]
        worst = [i for i in ranked[::-1][:OVERLAYS] if i not in best]
        titles = dict.fromkeys(best, "best") | dict.fromkeys(worst, "worst")
        drawn = []
        predictions = self.predictions(variables, split, list(titles))
        for (i, rank), (index, prediction, _) in zip(titles.items(), predictions, strict=True):
            example = split[index]
            drawn.append(
                Overlay(
                    name=scores[i].name,
                    title=f"{rank}: {scores[i].name}, {metrics.METRICS[name][0]} {values[i]:.4f}",
                    image=example["image"],
                    label=example["label"],
                    prediction=prediction,
                )
            )
        return drawn


def summarise(scores: Sequence[Score], classes: Sequence[str]) -> dict[str, Any]:
    """Loss, aggregates, per-class (of the summed counts) and per-image metrics; None for NaN."""
    counts = [score.confusion for score in scores]
    aggregate = metrics.aggregate(counts, [score.loss for score in scores])
    summary = {
        "loss": aggregate["loss"]["mean"],
        "aggregate": aggregate,
        "per_class": _per_class(np.sum(counts, axis=0), classes),
        "per_image": {
            score.name: {"loss": score.loss} | metrics.headline_metrics(score.confusion)
            for score in scores
        },
    }
    if len(classes) == 2:
        summary["trivial"] = _trivial(counts, classes)
    return _without_nan(summary)


def only_predicted_class(scores: Sequence[Score], classes: Sequence[str]) -> str | None:
    """The name of the class that every pixel was predicted as, where the labels have others."""
    counts = np.sum([score.confusion for score in scores], axis=0)
    labelled, predicted = np.flatnonzero(counts.sum(1)), np.flatnonzero(counts.sum(0))
    return classes[predicted[0]] if len(predicted) == 1 and len(labelled) > 1 else None


def write_report(
    evaluator: Evaluator,
    variables: dict,
    *,
    split: str,
    checkpoint: str,
    step: int,
    folder: pathlib.Path,
    scores: Sequence[Score],
) -> dict[str, Any]:
    """Writes the report of `scores` into the run's folder and returns its content.

    The best (or else last) checkpoint on the test split is *the* report of a run,
    `report.json`; any other is named after its split and checkpoint.
    """
    config, dataset = evaluator.config, evaluator.dataset
    content = {
        "name": config.name,
        "split": split,
        "step": step,
        "checkpoint": checkpoint,
        "classes": list(dataset.classes),
        "threshold": config.eval.threshold if config.model.classes == 1 else None,
        **summarise(scores, dataset.classes),
        "parameters": models.parameter_count(variables["params"]),
        "versions": _versions(),
        "device": parallel.describe(evaluator.mesh),
        "config_digest": digest(config),
    }
    stem = "report" if (split, checkpoint) == ("test", "best") else f"report-{split}-{checkpoint}"
    overlays = evaluator.overlays(variables, dataset.splits[split], scores)
    report.write_report(folder, content, read_history(folder), overlays, stem)
    return content


def evaluate(
    config: ConfigDict,
    dataset: Dataset,
    folder: pathlib.Path,
    mesh: Mesh,
    split: str,
    checkpoint: str,
) -> dict[str, Any]:
    """Evaluates a run's checkpoint (`best`, `last` or a step) on a split; writes a report."""
    if not len(dataset.splits.get(split, ())):
        has = ", ".join(name for name, part in dataset.splits.items() if len(part))
        raise UserError(f"--split={split}: {config.data.root} has no such images; it has {has}")
    workdir.check_data(folder, config, dataset)
    model = models.build(**config.model)
    evaluator = Evaluator(config, dataset, model, mesh)
    checkpoints = Checkpoints(folder, config.checkpoint.keep, config.to_dict(), read_only=True)
    try:
        target = models.init(model, dataset.channels, seed=config.seed)
        step, variables = checkpoints.restore_model(checkpoint, target)
    finally:
        checkpoints.close()
    variables = parallel.replicate(variables, mesh)
    return write_report(
        evaluator,
        variables,
        split=split,
        checkpoint=checkpoint,
        step=step,
        folder=folder,
        scores=list(evaluator.scores(variables, dataset.splits[split])),
    )


def _per_class(counts: np.ndarray, classes: Sequence[str]) -> dict[str, dict[str, float]]:
    values = metrics.class_metrics(counts)
    return {
        name: {metric: float(per_class[k]) for metric, per_class in values.items()}
        for k, name in enumerate(classes)
    }


def _trivial(counts: Sequence[np.ndarray], classes: Sequence[str]) -> dict[str, Any]:
    """The scores of a predictor that looks at no image and calls every pixel class 1."""
    constant = [np.stack([np.zeros(2, np.int64), c.sum(1)], axis=1) for c in counts]
    aggregate = metrics.aggregate(constant, [np.nan] * len(constant))
    del aggregate["loss"]
    return {
        "prediction": f"all {classes[1]}",
        "aggregate": aggregate,
        "per_class": _per_class(np.sum(constant, axis=0), classes),
    }


def _versions() -> dict[str, str]:
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {"python": platform.python_version()} | {p: metadata.version(p) for p in packages}


def _without_nan(value: Any) -> Any:
    """NaN -> None, since JSON has no NaN."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value
