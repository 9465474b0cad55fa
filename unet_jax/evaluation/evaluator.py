"""Evaluates a network on the images of a split: predictions and scores."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import grain
import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from unet_jax import models
from unet_jax.data import pipeline
from unet_jax.data.dataset import Dataset, Split
from unet_jax.data.fit import Fit
from unet_jax.data.resize import resize_label, resize_smooth
from unet_jax.distributed import devices, hosts
from unet_jax.evaluation.image import score_image
from unet_jax.evaluation.task import task_of
from unet_jax.evaluation.thresholds import thresholds_by_metric
from unet_jax.inference import predictor
from unet_jax.inference.ensemble import Forward
from unet_jax.learning import losses
from unet_jax.metrics import overlap
from unet_jax.metrics.registry import Score, headline_of
from unet_jax.reporting.overlays import Overlay, best_median_worst
from unet_jax.runs.threshold import decided


def eval_step(
    variables: Any, batch: dict[str, jax.Array], *, network: Forward, loss: losses.Loss
) -> dict[str, jax.Array]:
    """Computes probabilities and losses for one device's part of a batch.

    Args:
      variables: of the network.
      batch: `image` [N, H, W, C], as stored, and `label` [N, H, W], uint8.
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
