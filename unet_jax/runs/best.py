"""Which of a run's models is the best, by the metrics that are saved with it."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from unet_jax.metrics.registry import Metric

SELECTED = "selected"  # key of the metric that selected a model in `best/`, if not the loss


class Best(NamedTuple):
    """Step and validation metrics of a checkpoint in `best/`."""

    step: int
    metrics: dict[str, Any]

    @classmethod
    def of(
        cls, step: int, metrics: Mapping[str, Any], metric: Metric, value: float, images: int
    ) -> "Best":
        """Returns the metrics with the one that selects models, unless that is the loss.

        Args:
          step: training step.
          metrics: the validation metrics.
          metric: the metric of `eval.best`.
          value: its value, the mean over the images or the pooled one.
          images: the number of images for which it is defined.
        """
        if metric.key == "loss":
            return cls(step, dict(metrics))
        selected = {
            "metric": metric.key,
            "better": metric.better,
            "value": value,
            "images": images,
        }
        return cls(step, {**metrics, SELECTED: selected})

    @property
    def rank(self) -> float:
        """The loss, or the selecting metric with the sign with which lower is better.

        Infinite if it is missing, as the loss may be in earlier versions' checkpoints.
        """
        by_loss = {"better": "lower", "value": self.metrics.get("loss")}
        selected = self.metrics.get(SELECTED, by_loss)
        value = selected.get("value")
        if not isinstance(value, int | float) or not math.isfinite(value):
            return math.inf
        return float(value) if selected.get("better") == "lower" else -float(value)

    @property
    def order(self) -> tuple[int, float]:
        """Orders models, the best first: by the images with a defined metric, then by `rank`.

        A model whose predictions leave the metric undefined for some images, of which the mean
        says nothing, is therefore not better than one that is measured on all.
        """
        images = self.metrics.get(SELECTED, {}).get("images")
        return -images if isinstance(images, int) else 0, self.rank
