"""Evaluation of networks on a whole split: predictions, scores of the images, and the report."""

import copy
import dataclasses
import functools
import pathlib
import platform
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any, Self

import grain
import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from unet_jax import is_binary, models
from unet_jax.core.config import digest
from unet_jax.core.errors import UserError
from unet_jax.data import pipeline
from unet_jax.data.dataset import Dataset, Split
from unet_jax.data.fit import Fit
from unet_jax.data.resize import resize_label, resize_smooth
from unet_jax.distributed import devices, hosts
from unet_jax.evaluation.image import score_image
from unet_jax.evaluation.intervals import add_intervals
from unet_jax.evaluation.scores import all_scores, check_finite, second_observer, summarise
from unet_jax.evaluation.task import task_of
from unet_jax.evaluation.thresholds import threshold_table, thresholds_by_metric
from unet_jax.inference import predictor
from unet_jax.inference.ensemble import (
    Forward,
    check_alike,
    ensemble_network,
    run_network,
    symmetries_note,
)
from unet_jax.learning import losses
from unet_jax.metrics import overlap
from unet_jax.metrics.registry import Score, headline_of
from unet_jax.reporting.overlays import Overlay, best_median_worst
from unet_jax.runs import folder as run_folder
from unet_jax.runs.log import read_history
from unet_jax.runs.shared_checkpoints import SharedCheckpoints
from unet_jax.runs.threshold import decided


def eval_step(
    variables: Any, batch: dict[str, jax.Array], *, network: Forward, loss: losses.Loss
) -> dict[str, jax.Array]:
    """Computes probabilities and losses for one device's part of a batch.

    Args:
      variables: of the network.
      batch: `image` [N, H, W, C], unsigned integer, and `label` [N, H, W], uint8.
      network: see `ensemble.Forward`.
      loss: see `losses.Loss`.

    Returns:
      `probabilities`, float32 [N, H, W, K], and `loss`, float32 [N], the loss of each image.
    """
    logits = network(variables, batch["image"])
    per_image = jax.vmap(lambda logit, label: loss(logit[None], label[None]))
    return {
        "probabilities": models.probabilities(logits),
        "loss": per_image(logits, batch["label"]),
    }


def compile_evaluation(config: ConfigDict, network: Forward, mesh: Mesh) -> Callable:
    """Compiles `eval_step` of an experiment for this host's devices.

    Returns:
      A function (variables, batch) -> outputs; see `devices.compile_eval_step`.
    """
    step = functools.partial(eval_step, network=network, loss=losses.build(**config.loss))
    return devices.compile_eval_step(step, mesh)


class Evaluator:
    """Evaluates a network with given variables on splits of a data set, on this host's devices."""

    def __init__(self, config: ConfigDict, dataset: Dataset, network: Forward, mesh: Mesh):
        self.stated = config
        self.config = decided(config, {})  # the same with the threshold that is used
        self.dataset, self.mesh = dataset, mesh
        self.task, self.fit = task_of(config, dataset), Fit.of(config.data)
        # Padding examples fill the last batch, so `eval.batch_size` need not be a multiple of the
        # number of devices; it is rounded up.
        self.batch_size = -(-config.eval.batch_size // devices.device_count(mesh)) * mesh.size
        self._step = compile_evaluation(config, network, mesh)

    def predictions(
        self, variables: Any, split: Split, indices: Sequence[int] | None = None
    ) -> Iterator[tuple[int, np.ndarray, float]]:
        """Predicts images of a split.

        Args:
          variables: of the network, on the devices.
          split: the images.
          indices: positions of the images in the split; None predicts all.

        Yields:
          Index, probabilities (float32 [H, W, K]) and loss of each image. H and W are those of the
          image, or `data.size` if images are resized (`data.fit`).
        """
        batches = pipeline.eval_batches(
            split, batch_size=self.batch_size, fit=self.fit, indices=indices
        )
        for outputs in self.run(variables, pipeline.read_ahead(batches)):
            for index, probabilities, loss in zip(*outputs, strict=True):
                if index < 0:
                    continue  # a padding example
                probabilities = self.fit.without_padding(probabilities, split.sizes[index])
                yield int(index), probabilities, float(loss)

    def run(
        self, variables: Any, batches: grain.IterDataset
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yields indices [N], probabilities [N, H, W, K] and losses [N] of each batch.

        Padding examples are included; their index is negative. The devices compute the next batch
        while the caller uses the last one.
        """
        with devices.on_devices(batches, self.mesh) as placed:
            for batch, outputs in devices.one_ahead(
                (batch, self._step(variables, batch)) for batch in placed
            ):
                yield (
                    devices.join(batch["index"]),
                    devices.join(outputs["probabilities"]),
                    devices.join(outputs["loss"]),
                )

    def decided(self, chosen: Mapping[str, float]) -> Self:
        """Returns a copy with the threshold that a model has; see `decided_threshold`."""
        other = copy.copy(self)
        other.config = decided(self.stated, chosen)
        return other

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """Converts probabilities [H, W, K] to class ids, uint8 [H, W]; see `predictor.decide`."""
        return predictor.decide(probabilities, self.config.eval.threshold)

    def scores(
        self,
        variables: Any,
        split: Split,
        *,
        thresholds: Iterable[float] = (),
        tuned: Collection[str] = (),
        shown: Container[int] = (),
    ) -> Iterator[Score]:
        """Scores this host's share of a split's images against the labels as they are on disk.

        Args:
          variables: of the network, on the devices.
          split: the images.
          thresholds: further ones at which metrics that depend on a threshold are computed.
          tuned: keys of the metrics for which a threshold will be chosen; those of masks are
            computed at each candidate.
          shown: indices of the images whose scores include the prediction.

        Yields:
          The score of each image, in any order; `all_scores` collects those of all hosts.
        """
        fixed = self.config.eval.threshold
        by_metric = thresholds_by_metric(self.task, fixed, thresholds, tuned)
        share = range(hosts.index(), len(split), hosts.count())
        for index, probabilities, loss in self.predictions(variables, split, share):
            (_, label), at_network_size = split.read(index), None
            if self.fit.resizes:
                resized = resize_label(label, *probabilities.shape[:2])
                decided = self.decide(probabilities)
                at_network_size = overlap.confusion(resized, decided, self.task.classes)
                probabilities = resize_smooth(probabilities, *split.sizes[index])
            unit, ids_of = self.task.length_unit, split.instances
            score = score_image(
                label,
                probabilities,
                loss,
                self.task,
                fixed,
                by_metric,
                spacing=split.spacing(index, unit) if unit else None,
                instances=ids_of(index) if ids_of and "objects" in self.task.groups else None,
            )
            yield dataclasses.replace(
                score,
                name=split.names[index],
                index=index,
                counts=dataclasses.replace(score.counts, network_confusion=at_network_size),
                prediction=score.prediction if index in shown else None,
            )

    def overlays(self, variables: Any, split: Split, scores: Sequence[Score]) -> list[Overlay]:
        """Predicts the images with the best, the median and the worst score again, for figures.

        The score is the headline metric of the task.

        Args:
          variables: of the network, on the devices.
          split: the images.
          scores: the scores of the whole split, in its order.

        Returns:
          At most three overlays; none for images without a defined score.
        """
        metric = headline_of(self.task)
        values = [metric.value(score, self.config.eval.threshold) for score in scores]
        titles = best_median_worst(values)
        drawn = {}
        for index, probabilities, _ in self.predictions(variables, split, list(titles)):
            image, label = split.read(index)
            probabilities = resize_smooth(probabilities, *split.sizes[index])
            score = f"{metric.label} {values[index]:.4f}"
            title = f"{titles[index]}: {split.names[index]}, {score}"
            prediction = self.decide(probabilities)
            drawn[index] = Overlay(split.names[index], title, image, label, prediction)
        return [drawn[index] for index in titles]


def summarise_split(
    config: ConfigDict, dataset: Dataset, scores: Sequence[Score], intervals: bool = False
) -> dict[str, Any]:
    """Summarises a split's scores with the experiment's loss and threshold; see `summarise`.

    Args:
      config: the experiment.
      dataset: its data set.
      scores: the scores of the split.
      intervals: whether to add confidence intervals; see `add_intervals`.
    """
    plain = losses.is_mean_over_pixels(**config.loss)
    task = task_of(config, dataset)
    summary = summarise(scores, task, dataset.classes, config.eval.threshold, plain)
    if intervals:
        add_intervals(summary, scores, plain)
    return summary


def write_report(
    evaluator: Evaluator,
    variables: Any,
    *,
    split: str,
    checkpoint: str,
    step: int,
    folder: pathlib.Path | None,
    scores: Sequence[Score],
    chosen: Mapping[str, float],
    suffixes: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Builds a report; the first host writes it to the run's folder.

    The report of checkpoint `best` on `Dataset.final_split` is the run's main report,
    `report.json`. Any other is named `report-SPLIT-CHECKPOINT`, followed by the suffixes.

    Args:
      evaluator: the experiment, its data set and its network.
      variables: of the network, on the devices.
      split: name of the split.
      checkpoint: `best`, `last` or a step, as requested.
      step: the step of the checkpoint.
      folder: the run's folder; None writes nothing.
      scores: the scores of the whole split, in its order.
      chosen: thresholds that were best on validation, by metric.
      suffixes: suffixes of the file name, for an ensemble and for test-time augmentation.
      notes: remarks that the report shows, in addition to those of the data set.

    Returns:
      The report's content.

    Raises:
      UserError: the loss of an image is not finite; nothing is written.
    """
    config, dataset = evaluator.config, evaluator.dataset
    check_finite(scores, f"{split}, checkpoint {checkpoint} of step {step}")
    content = {
        "name": config.name,
        "split": split,
        "step": step,
        "checkpoint": checkpoint,
        "selected_by": config.eval.best if checkpoint == "best" else None,
        "classes": list(dataset.classes),
        "channels": list(dataset.channel_names),
        "notes": [*dataset.notes, *notes],
        "threshold": config.eval.threshold if is_binary(evaluator.task.classes) else None,
        **summarise_split(config, dataset, scores, intervals=True),
        "observer": second_observer(dataset.splits[split], dataset.classes),
        "parameters": models.parameter_count(variables),
        "versions": _versions(),
        "device": devices.describe(evaluator.mesh),
        "config_digest": digest(evaluator.stated),
        "initial": run_folder.read_initial(folder) if folder and hosts.is_first() else {},
    }
    if is_binary(evaluator.task.classes):
        content["thresholds"] = threshold_table(
            scores, evaluator.task, config.eval.threshold, chosen
        )
    stem = "-".join(["report", split, checkpoint, *suffixes])
    if stem == f"report-{dataset.final_split}-best":
        stem = "report"
    if folder and hosts.is_first():
        from unet_jax.reporting import report  # its import of matplotlib takes a second

        overlays = evaluator.overlays(variables, dataset.splits[split], scores)
        history, fields = read_history(folder), config.to_dict()
        report.write_report(folder, content, history, overlays, stem, config=fields)
    return content


def evaluate(
    runs: Mapping[pathlib.Path, ConfigDict],
    dataset: Dataset,
    mesh: Mesh,
    *,
    split: str,
    checkpoint: str,
    symmetries: bool = False,
    other_data: bool = False,
    write: bool = True,
) -> dict[str, Any]:
    """Evaluates a run, or an ensemble of runs, on a split, and writes a report.

    An ensemble averages the probabilities of its runs. Its report is written to the first run's
    folder, and its thresholds are those of the first run.

    Args:
      runs: folders of the runs, with their configs.
      dataset: the data set.
      mesh: this host's devices.
      split: name of the split.
      checkpoint: `best`, `last` or a step.
      symmetries: averages over the training symmetries of each run (test-time augmentation).
      other_data: whether `dataset` is not that with which the runs were trained.
      write: whether to write the report.

    Returns:
      The report's content.

    Raises:
      UserError: the split has no images, a run does not match the data, the other runs or
        `symmetries`, there is no such checkpoint, or the loss of an image is not finite.
    """
    (folder, *others), config = runs, next(iter(runs.values()))
    if not len(dataset.splits.get(split, ())):
        has = ", ".join(name for name, part in dataset.splits.items() if len(part))
        raise UserError(f"--split={split}: {config.data.root} has no such images; it has {has}")
    step, chosen, decisive, networks, variables, suffixes = 0, {}, {}, [], [], []
    for run, run_config in runs.items():
        hosts.check_same(run_folder.identity(run_config, dataset))
        if not other_data:
            hosts.on_first(functools.partial(run_folder.check_data, run, run_config, dataset))
        check_alike(config, run_config, run)
        networks.append(run_network(run, run_config, symmetries))
        keep = run_config.checkpoint.keep
        checkpoints = SharedCheckpoints(run, keep, run_config.to_dict(), read_only=True)
        try:
            model = models.build(**run_config.model)
            target = models.init(model, dataset.channels, seed=run_config.seed)
            restored = checkpoints.restore_model(checkpoint, target)
            variables.append(restored.model)
            if run == folder:
                step, chosen = restored.step, restored.thresholds
                decisive = checkpoints.chosen_thresholds
        finally:
            checkpoints.close()
    network, used = networks[0], decided(config, decisive)
    notes = hosts.on_first(functools.partial(run_folder.notes_on_scores, folder, used, decisive))
    if others:
        network = ensemble_network(networks)
        suffixes.append(f"ensemble{len(runs)}")
        notes.append(f"probabilities are the mean of {len(runs)} runs: {', '.join(map(str, runs))}")
    if symmetries:
        suffixes.append("tta")
        notes.append(symmetries_note(runs.values()))
    evaluator = Evaluator(config, dataset, network, mesh).decided(decisive)
    placed = devices.replicate(variables if others else variables[0], mesh)
    scores = evaluator.scores(placed, dataset.splits[split], thresholds=chosen.values())
    return write_report(
        evaluator,
        placed,
        split=split,
        checkpoint=checkpoint,
        step=step,
        folder=folder if write else None,
        scores=all_scores(scores),
        chosen=chosen,
        suffixes=suffixes,
        notes=notes,
    )


def _versions() -> dict[str, str]:
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {"python": platform.python_version()} | {p: metadata.version(p) for p in packages}
