"""The registry of metrics, over which reports, TensorBoard, sweeps and comparisons iterate.

A metric is computed for each image at its native size. Some also have a pooled value, computed from
what was counted in all images of a split together. NaN means undefined. Metrics that take long are
in groups of their own, which `eval.metrics` selects.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from unet_jax import IGNORED, is_binary
from unet_jax.core.errors import UserError
from unet_jax.core.registry import Registry

GROUPS = ("default", "boundary", "topology", "objects")  # what `eval.metrics` may name
OBJECT_RULES = ("components", "watershed")  # the values of `eval.objects`
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Task:
    """What is segmented; it decides which metrics apply.

    Raises:
      UserError: the number of tolerances does not fit the classes.
    """

    classes: int
    cells: bool = False  # whether class 1 is cells that are separated by class 0
    resized: bool = False  # whether images are resized for the network
    groups: tuple[str, ...] = ("default",)  # `eval.metrics`
    nsd_pixels: tuple[float, ...] = (2.0,)  # `eval.nsd_pixels`, one for all classes or for each
    length_unit: str = ""  # a key of `lengths.MICROMETRES`; "" if images have no physical size
    objects: Literal["components", "watershed"] = "components"  # `eval.objects`
    min_object_pixels: int = 0  # `eval.min_object_pixels`
    border: int = 0  # the class that is the border of the objects of class 1; 0: there is none

    def __post_init__(self) -> None:
        if len(self.nsd_pixels) not in (1, self.classes):
            raise UserError(
                f"eval.nsd_pixels={self.nsd_pixels}: has {len(self.nsd_pixels)} numbers; give 1 "
                f"for all classes, or 1 for each of the {self.classes} classes"
            )


@dataclasses.dataclass(frozen=True)
class Counts:
    """What is counted in an image, or in all images of a split together."""

    loss: float  # NaN if it is unknown
    confusion: np.ndarray  # int64 [K, K], [label][prediction]; see `overlap.confusion`
    histogram: np.ndarray  # int64 [2, BINS]; see `calibration.histogram`
    network_confusion: np.ndarray | None = None  # at the network's size, if images are resized


@dataclasses.dataclass(frozen=True, eq=False)
class Pixels:
    """The pixels of an image, at its native size."""

    label: np.ndarray  # uint8 [H, W], 255 = ignored
    prediction: np.ndarray  # class ids, uint8 [H, W]
    # float32 [H, W], of class 1; with more than two classes, of the predicted class.
    probability: np.ndarray
    # Height and width of a pixel in `Task.length_unit`; None if they are unknown.
    spacing: tuple[float, float] | None = None
    instances: np.ndarray | None = None  # ids of the label's objects, int32 [H, W], 0 = none
    # What `Masks.of_label` computed; predictions at other thresholds share it.
    of_labels: dict[tuple[Callable, int], Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Masks:
    """The masks of one class in an image, at its native size.

    Both masks are False at ignored pixels. Metrics that share a costly computation may cache it by
    the object, whose hash is its identity.
    """

    label: np.ndarray  # bool [H, W]
    prediction: np.ndarray  # bool [H, W]
    counted: np.ndarray  # bool [H, W], False at ignored pixels
    index: int  # class id
    task: Task
    pixels: Pixels | None = None  # all classes, and predictions at ignored pixels

    def of_label(self, compute: Callable[[np.ndarray], T]) -> T:
        """Computes a function of the label's mask once for all predictions of the image."""
        if self.pixels is None:
            return compute(self.label)
        known, key = self.pixels.of_labels, (compute, self.index)
        if key not in known:
            known[key] = compute(self.label)
        return known[key]


@dataclasses.dataclass(frozen=True)
class Score:
    """The measurements of an image that are kept until its split is summarised."""

    name: str
    counts: Counts
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)  # of `of_pixels`
    # Values of `of_masks` by metric, one for each class; see `class_values`.
    of_classes: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    # Values by metric and threshold: of `at_thresholds`, and of class 1 for `of_masks`.
    curves: Mapping[str, Mapping[float, float]] = dataclasses.field(default_factory=dict)
    prediction: np.ndarray | None = None  # class ids, uint8 [H, W], if the image is to be shown
    index: int = 0  # the image's position in its split


def any_task(task: Task) -> bool:
    """Returns True: a metric with this `applies` is computed for every task."""
    return True


def two_classes(task: Task) -> bool:
    """Returns whether a task has two classes."""
    return is_binary(task.classes)


def many_classes(task: Task) -> bool:
    """Returns whether a task has more than two classes."""
    return not is_binary(task.classes)


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric. One of `of_counts`, `of_pixels`, `of_masks` and `at_thresholds` computes it.

    Raises:
      ValueError: none or several of these are given, or an `overall` metric has no `of_counts`.

    Attributes:
      key: its name in report.json, TensorBoard and configs.
      label: its name on pages and in figures.
      help: its definition, for the reader of a report.
      better: which values are better.
      unit: unit of the values; empty if they are between 0 and 1.
      applies: whether the metric has a meaning for a task.
      group: the group of `eval.metrics` with which it is computed; `default` always is.
      of_counts: computes the metric of an image from its counts and, from the counts of all images
        together, the pooled metric.
      of_pixels: computes the metric of an image from its pixels; there is no pooled metric.
      of_masks: computes the metric of one class of an image from its masks. With two classes that
        of class 1 is the image's, with more the mean over the classes that are in the label or the
        prediction; there is no pooled metric.
      at_thresholds: computes the metric of an image from its pixels at each of several thresholds
        of class 1's probability; there is no pooled metric.
      thresholds: thresholds at which `at_thresholds` is always computed.
      best_threshold: chooses the threshold of class 1's probability that is best for the metric;
        for metrics with `at_thresholds` or `of_masks` a default exists.
      tuned: whether its best threshold is chosen on validation if `eval.tune` is empty.
      headline: ranks the images and the runs of its tasks. Each task has one such metric.
      statistic: the statistic to quote: the mean over the images, or the pooled value.
      overall: whether the metric is compared at several thresholds and with a trivial predictor;
        only for metrics with `of_counts`. Recall, for example, is not: it is 1 for a prediction of
        class 1 everywhere.
      prominent: is shown at the top of a report, as a learning curve, and in sweeps.
      averages: key of the metric of a class that this metric averages over the classes.
      settings: fields of `Task`, from the section `eval` of the config, that change the metric.
        Reports record them, and do not compare values of different settings.
      order: position in reports; metrics with equal numbers are in the order of registration.
    """

    key: str
    label: str
    help: str
    better: Literal["higher", "lower"] = "higher"
    unit: str = ""
    applies: Callable[[Task], bool] = any_task
    group: Literal["default", "boundary", "topology", "objects"] = "default"
    of_counts: Callable[[Counts], float] | None = None
    of_pixels: Callable[[Pixels], float] | None = None
    of_masks: Callable[[Masks], float] | None = None
    at_thresholds: Callable[[Pixels, Sequence[float]], Sequence[float]] | None = None
    thresholds: Sequence[float] = ()
    best_threshold: Callable[[Sequence[Score]], float] | None = None
    tuned: bool = False
    headline: bool = False
    statistic: Literal["mean", "pooled"] = "mean"
    overall: bool = False
    prominent: bool = True
    averages: str | None = None
    settings: Sequence[str] = ()
    order: int = 100

    def __post_init__(self) -> None:
        ways = (self.of_counts, self.of_pixels, self.of_masks, self.at_thresholds)
        if sum(map(bool, ways)) != 1:
            raise ValueError(
                f"{self.key}: give one of of_counts, of_pixels, of_masks and at_thresholds"
            )
        if self.overall and not self.of_counts:
            raise ValueError(f"{self.key}: a metric that is overall needs of_counts")

    @property
    def title(self) -> str:
        """The label with the unit, if it has one."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    @property
    def logged(self) -> str:
        """The key under which a training logs the statistic to quote, such as `iou/mean`."""
        pooled = self.statistic == "pooled" and self.averages
        return f"{self.averages}/mean" if pooled else self.key

    def quoted(self, name: str) -> str:
        """Returns a name of the metric as that of the statistic to quote: "mean IoU, pooled"."""
        return f"{name}, pooled" if self.statistic == "pooled" else name

    def value(self, score: Score, threshold: float) -> float:
        """Returns the metric of an image.

        Args:
          score: the image's measurements.
          threshold: threshold of class 1's probability, one of those in `score.curves`. Only
            metrics with `at_thresholds` use it.
        """
        if self.of_counts:
            return self.of_counts(score.counts)
        if self.at_thresholds:
            return score.curves[self.key][threshold]
        if self.of_masks:
            known = [x for x in score.of_classes[self.key] if not math.isnan(x)]
            return sum(known) / len(known) if known else math.nan
        return score.values[self.key]

    def pooled(self, total: Counts) -> float:
        """Returns the metric of all images together, whose counts are `total`; NaN if undefined."""
        return self.of_counts(total) if self.of_counts else math.nan

    def best(self, values: Sequence[float]) -> float:
        """Returns the best of the values, at least one."""
        return (max if self.better == "higher" else min)(values)


METRICS: Registry[Metric] = Registry("unet_jax.metrics")


def register(metric: Metric) -> Metric:
    """Registers a metric under its key, and returns it."""
    return METRICS.register(metric.key)(metric)


def in_order() -> list[Metric]:
    """Returns all metrics in the order in which reports show them."""
    return sorted(METRICS.values(), key=lambda metric: metric.order)


def metrics_of(task: Task) -> list[Metric]:
    """Returns the metrics that apply to a task, in the order in which reports show them."""
    return [m for m in in_order() if m.group in ("default", *task.groups) and m.applies(task)]


def class_values(pixels: Pixels, task: Task, metrics: Sequence[Metric]) -> dict[str, list[float]]:
    """Computes the metrics of an image that have `of_masks`, for each class.

    Returns:
      A value for each class, by metric. It is NaN for class 0 of two, and for a class of more than
      two that neither label nor prediction contains.
    """
    metrics = [metric for metric in metrics if metric.of_masks]
    values = {metric.key: [math.nan] * task.classes for metric in metrics}
    if not metrics:
        return values
    counted, two = pixels.label != IGNORED, is_binary(task.classes)
    for k in (1,) if two else range(task.classes):
        label, prediction = pixels.label == k, counted & (pixels.prediction == k)
        if counted.any() and (two or label.any() or prediction.any()):
            masks = Masks(label, prediction, counted, k, task, pixels)
            for metric in metrics:
                assert metric.of_masks
                values[metric.key][k] = metric.of_masks(masks)
    return values


def headline_of(task: Task) -> Metric:
    """Returns the metric that ranks the images and the runs of a task."""
    return next(metric for metric in metrics_of(task) if metric.headline)


def by_prominence() -> list[Metric]:
    """Returns the prominent metrics: those that rank first, then the others in their order."""
    prominent = [metric for metric in in_order() if metric.prominent]
    return sorted(prominent, key=lambda metric: not metric.headline)


register(
    Metric(
        "loss",
        "loss",
        "the training loss, computed on each image; lower is better.",
        better="lower",
        # The loss of an image without counted pixels is 0, which would lower the mean.
        of_counts=lambda counts: counts.loss if counts.confusion.any() else math.nan,
        order=0,
    )
)
