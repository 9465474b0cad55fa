"""A whole split -> per-image counts -> metrics -> report."""

import functools
import math
import pathlib
import platform
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from unet_jax import IGNORED, models
from unet_jax.core.config import digest
from unet_jax.core.errors import UserError
from unet_jax.data import pipeline
from unet_jax.data.dataset import Dataset, Split
from unet_jax.data.resize import resize_label, resize_smooth
from unet_jax.distributed import devices, hosts
from unet_jax.evaluation.scores import (
    Score,
    check_finite,
    pack,
    second_observer,
    summarise,
    threshold_table,
    unpack,
)
from unet_jax.inference import predictor
from unet_jax.inference.ensemble import Network, check_alike, learned, member, together
from unet_jax.learning import losses
from unet_jax.metrics import calibration, em_challenge, overlap
from unet_jax.reporting import report
from unet_jax.reporting.figures import Overlay
from unet_jax.runs import folder as run_folder
from unet_jax.runs.log import read_history
from unet_jax.runs.shared_checkpoints import SharedCheckpoints


def eval_step(
    variables: Any, batch: dict[str, jax.Array], *, network: Network, loss: losses.Loss
) -> dict[str, jax.Array]:
    """Probabilities [N, H, W, K] and each image's own loss [N], for one device's part."""
    logits = network(variables, batch["image"])
    per_image = jax.vmap(lambda logit, label: loss(logit[None], label[None]))
    return {
        "probabilities": models.probabilities(logits),
        "loss": per_image(logits, batch["label"]),
    }


def compile_evaluation(config: ConfigDict, network: Network, mesh: Mesh) -> Callable:
    """`eval_step` of an experiment over this host's devices: (variables, batch) -> outputs."""
    step = functools.partial(eval_step, network=network, loss=losses.build(**config.loss))
    return devices.compile_eval_step(step, mesh)


class Evaluator:
    """Evaluates variables of one network on splits of one data set, on this host's devices."""

    def __init__(self, config: ConfigDict, dataset: Dataset, network: Network, mesh: Mesh):
        self.config, self.dataset, self.mesh = config, dataset, mesh
        # Padding examples fill up any batch, so here the devices need not divide it.
        self.batch_size = -(-config.eval.batch_size // devices.device_count(mesh)) * mesh.size
        self._step = compile_evaluation(config, network, mesh)

    def predictions(
        self, variables: Any, split: Split, indices: Sequence[int] | None = None
    ) -> Iterator[tuple[int, np.ndarray, float]]:
        """Index, probabilities (float32 [H, W, K]) and loss of each image.

        At the image's own size, or at the network's where images are resized for it.
        """
        data = self.config.data
        batches = pipeline.eval_batches(
            split, batch_size=self.batch_size, fit=data.fit, size=data.size, indices=indices
        )
        for outputs in self.run(variables, pipeline.read_ahead(batches)):
            for index, probabilities, loss in zip(*outputs, strict=True):
                if index < 0:
                    continue  # fills up the last batch
                if data.fit != "resize":
                    height, width = split.sizes[index]
                    probabilities = probabilities[:height, :width]
                yield int(index), probabilities, float(loss)

    def run(
        self, variables: Any, batches: grain.IterDataset
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Indices [N], probabilities [N, H, W, K] and losses [N] of each batch."""
        with devices.on_devices(batches, self.mesh) as placed:
            for batch in placed:
                outputs = self._step(variables, batch)
                yield (
                    devices.join(batch["index"]),
                    devices.join(outputs["probabilities"]),
                    devices.join(outputs["loss"]),
                )

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities [H, W, K] -> class ids, uint8 [H, W]."""
        return predictor.decide(probabilities, self.config.eval.threshold)

    def scores(
        self,
        variables: Any,
        split: Split,
        *,
        thresholds: Iterable[float] = (),
        shown: Container[int] = (),
    ) -> Iterator[Score]:
        """The score of each image of this host's share, in any order; see `all_scores`.

        It is against the label as it is on disk. Cells are scored at the challenge's `thresholds`,
        at the fixed one and at those given; the predictions of the images with `shown` indices
        come along.
        """
        thresholds = sorted({*em_challenge.THRESHOLDS, self.config.eval.threshold, *thresholds})
        classes = len(self.dataset.classes)
        share = range(hosts.index(), len(split), hosts.count())
        for index, probabilities, loss in self.predictions(variables, split, share):
            (_, label), of_network = split.read(index), None
            if self.config.data.fit == "resize":
                resized = resize_label(label, *probabilities.shape[:2])
                of_network = overlap.confusion(resized, self.decide(probabilities), classes)
                probabilities = resize_smooth(probabilities, *split.sizes[index])
            counted = label != IGNORED
            if not np.isfinite(probabilities).all():
                if not np.isfinite(probabilities[counted]).all():
                    loss = math.nan  # which `check_finite` refuses
                probabilities = np.nan_to_num(probabilities)
            prediction = self.decide(probabilities)
            if classes == 2:
                event, probability = label == 1, probabilities[..., -1]
            else:
                event, probability = label == prediction, probabilities.max(-1)
            rand_info = {}
            if self.dataset.cells:
                curve = em_challenge.curve(label, probability, thresholds)
                rand_info = {t: tuple(v) for t, v in zip(thresholds, curve.tolist(), strict=True)}
            yield Score(
                split.names[index],
                loss,
                overlap.confusion(label, prediction, classes),
                calibration.histogram(event[counted], probability[counted]),
                of_network,
                rand_info,
                prediction if index in shown else None,
                index,
            )

    def overlays(self, variables: Any, split: Split, scores: Sequence[Score]) -> list[Overlay]:
        """The best, the median and the worst image by Dice (more than two classes: by mean IoU).

        `scores` are of the whole split, in its order.
        """
        name = "dice" if len(self.dataset.classes) == 2 else "mean_iou"
        values = [overlap.headline_metrics(score.confusion)[name] for score in scores]
        ranked = [i for i in np.argsort(values)[::-1].tolist() if not np.isnan(values[i])]
        places = {len(ranked) // 2: "median", len(ranked) - 1: "worst", 0: "best"}
        titles = {ranked[place]: places[place] for place in sorted(places) if ranked}
        drawn = {}
        for index, probabilities, _ in self.predictions(variables, split, list(titles)):
            image, label = split.read(index)
            probabilities = resize_smooth(probabilities, *split.sizes[index])
            score = f"{overlap.METRICS[name][0]} {values[index]:.4f}"
            title = f"{titles[index]}: {split.names[index]}, {score}"
            prediction = self.decide(probabilities)
            drawn[index] = Overlay(split.names[index], title, image, label, prediction)
        return [drawn[index] for index in titles]


def all_scores(scores: Iterable[Score]) -> list[Score]:
    """The scores of all hosts, in the split's order."""
    if hosts.count() > 1:
        scores = [score for packed in hosts.gather(pack(scores)) for score in unpack(packed)]
    return sorted(scores, key=lambda score: score.index)


def summarise_split(
    config: ConfigDict, dataset: Dataset, scores: Sequence[Score]
) -> dict[str, Any]:
    """The numbers of a report; see `summarise`."""
    plain = losses.is_mean_over_pixels(**config.loss)
    return summarise(scores, dataset.classes, config.eval.threshold, plain)


def write_report(
    evaluator: Evaluator,
    variables: Any,
    *,
    split: str,
    checkpoint: str,
    step: int,
    folder: pathlib.Path,
    scores: Sequence[Score],
    chosen: Mapping[str, float],
    way: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Returns the report of `scores`; the first host writes it into the run's folder.

    `chosen` are the thresholds that were best on validation, by metric. The best (or else last)
    checkpoint on the test split is *the* report of a run, `report.json`; any other is named after
    its split and checkpoint, and after the `way` to its probabilities where that is not plain.
    Raises a `UserError`, and writes nothing, where the loss of an image is not finite.
    """
    config, dataset = evaluator.config, evaluator.dataset
    check_finite(scores, f"{split}, checkpoint {checkpoint} of step {step}")
    content = {
        "name": config.name,
        "split": split,
        "step": step,
        "checkpoint": checkpoint,
        "classes": list(dataset.classes),
        "notes": [*dataset.notes, *notes],
        "threshold": config.eval.threshold if config.model.classes <= 2 else None,
        **summarise_split(config, dataset, scores),
        "observer": second_observer(dataset.splits[split], dataset.classes),
        "parameters": models.parameter_count(variables),
        "versions": _versions(),
        "device": devices.describe(evaluator.mesh),
        "config_digest": digest(config),
    }
    if len(dataset.classes) == 2:
        content["thresholds"] = threshold_table(scores, config.eval.threshold, chosen)
    stem = "-".join(["report", split, checkpoint, *way])
    if stem == "report-test-best":
        stem = "report"
    if hosts.is_first():
        overlays = evaluator.overlays(variables, dataset.splits[split], scores)
        report.write_report(folder, content, read_history(folder), overlays, stem)
    return content


def evaluate(
    runs: Mapping[pathlib.Path, ConfigDict],
    dataset: Dataset,
    mesh: Mesh,
    *,
    split: str,
    checkpoint: str,
    symmetries: bool = False,
) -> dict[str, Any]:
    """Evaluates a run's checkpoint (`best`, `last` or a step) on a split; writes a report.

    `runs` are folders and their configs. Of several, or over the `symmetries` that each has
    learned, the mean of the probabilities is evaluated; the report and the thresholds are the first
    run's.
    """
    (folder, *others), config = runs, next(iter(runs.values()))
    if not len(dataset.splits.get(split, ())):
        has = ", ".join(name for name, part in dataset.splits.items() if len(part))
        raise UserError(f"--split={split}: {config.data.root} has no such images; it has {has}")
    step, chosen, networks, variables = 0, {}, [], []
    for run, its in runs.items():
        hosts.check_same(run_folder.identity(its, dataset))
        hosts.on_first(functools.partial(run_folder.check_data, run, its, dataset))
        check_alike(config, its, run)
        networks.append(member(run, its, symmetries))
        checkpoints = SharedCheckpoints(run, its.checkpoint.keep, its.to_dict(), read_only=True)
        try:
            target = models.init(models.build(**its.model), dataset.channels, seed=its.seed)
            restored = checkpoints.restore_model(checkpoint, target)
            variables.append(restored.model)
            if run == folder:
                step, chosen = restored.step, restored.thresholds
        finally:
            checkpoints.close()
    network, way, notes = networks[0], [], []
    if others:
        network = together(networks)
        way.append(f"ensemble{len(runs)}")
        notes.append(f"probabilities are the mean of {len(runs)} runs: {', '.join(map(str, runs))}")
    if symmetries:
        way.append("tta")
        counts = {sum(map(len, learned(its.data.augment))) for its in runs.values()}
        count = " or ".join(map(str, sorted(counts)))
        notes.append(f"probabilities are the mean over {count} of the square's eight symmetries")
    evaluator = Evaluator(config, dataset, network, mesh)
    placed = devices.replicate(variables if others else variables[0], mesh)
    scores = evaluator.scores(placed, dataset.splits[split], thresholds=chosen.values())
    return write_report(
        evaluator,
        placed,
        split=split,
        checkpoint=checkpoint,
        step=step,
        folder=folder,
        scores=all_scores(scores),
        chosen=chosen,
        way=way,
        notes=notes,
    )


def _versions() -> dict[str, str]:
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {"python": platform.python_version()} | {p: metadata.version(p) for p in packages}
