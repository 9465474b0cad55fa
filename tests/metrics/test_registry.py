"""Every report is made of the registered metrics that apply to its task."""

import math

import numpy as np
import pytest

from unet_jax.metrics.registry import (
    METRICS,
    Counts,
    Metric,
    Pixels,
    Score,
    Task,
    by_prominence,
    class_values,
    headline_of,
    metrics_of,
    register,
)

KNOWN = {"loss", "dice", "iou", "precision", "recall", "specificity", "pixel_accuracy", "auc"}
KNOWN |= {"mean_accuracy", "mean_iou", "v_rand", "v_info"}
KNOWN |= {"network_dice", "network_iou", "network_mean_iou"}


def keys(task: Task) -> list[str]:
    """The metrics of a task without those that were added later."""
    return [metric.key for metric in metrics_of(task) if metric.key in KNOWN]


def test_the_metrics_of_each_task_have_a_fixed_order():
    two = ["loss", "dice", "iou", "precision", "recall", "specificity", "pixel_accuracy", "auc"]
    assert keys(Task(2)) == two
    assert keys(Task(2, cells=True)) == [*two, "v_rand", "v_info"]
    assert keys(Task(2, resized=True)) == [*two, "network_dice", "network_iou"]
    many = ["loss", "pixel_accuracy", "mean_accuracy", "mean_iou"]
    assert keys(Task(3)) == many
    assert keys(Task(3, resized=True)) == [*many, "network_mean_iou"]


@pytest.mark.parametrize("task", [Task(2), Task(2, cells=True), Task(3), Task(9, resized=True)])
def test_each_task_has_one_headline_metric(task):
    assert sum(metric.headline for metric in metrics_of(task)) == 1
    assert by_prominence()[0].headline and headline_of(task) in by_prominence()


def test_every_metric_is_computed_in_one_way_and_explained():
    for key, metric in METRICS.items():
        computed = (metric.of_counts, metric.of_pixels, metric.of_masks, metric.at_thresholds)
        assert metric.key == key and sum(one is not None for one in computed) == 1, key
        assert metric.label and metric.help.endswith("."), key
        assert metric.better in ("lower", "higher"), key


@pytest.fixture
def area(monkeypatch) -> Metric:
    """A metric of a group of its own: the share of the predicted mask that is in the label."""
    metric = Metric(
        "area",
        "area",
        "area.",
        group="boundary",
        of_masks=lambda m: float((m.label & m.prediction).sum() / max(m.prediction.sum(), 1)),
    )
    monkeypatch.setitem(METRICS._found(), "area", metric)
    return metric


def test_a_group_is_computed_only_on_request(area):
    assert area not in metrics_of(Task(2))
    assert area in metrics_of(Task(2, groups=("default", "boundary")))
    assert metrics_of(Task(2, groups=())) == metrics_of(Task(2))


def test_metrics_of_masks_are_of_each_class(area):
    label = np.array([[0, 0, 1, 1], [255, 255, 2, 2]], np.uint8)
    prediction = np.array([[0, 1, 1, 1], [3, 1, 2, 0]], np.uint8)
    pixels = Pixels(label, prediction, np.zeros(label.shape, np.float32))
    values = class_values(pixels, Task(5), [area, METRICS["dice"]])
    assert values.keys() == {"area"}
    np.testing.assert_allclose(values["area"], [0.5, 2 / 3, 1, math.nan, math.nan])
    score = Score("a", no_counts(5), of_classes=values)
    assert area.value(score, 0.5) == pytest.approx((0.5 + 2 / 3 + 1) / 3)


def test_of_two_classes_the_second_is_the_images(area):
    empty = np.zeros((2, 3), np.uint8)
    pixels = Pixels(empty, empty, empty)
    score = Score("a", no_counts(2), of_classes=class_values(pixels, Task(2), [area]))
    assert math.isnan(score.of_classes["area"][0]) and area.value(score, 0.5) == 0
    ignored = Pixels(empty + 255, empty, empty)
    assert all(map(math.isnan, class_values(ignored, Task(2), [area])["area"]))


def no_counts(classes: int) -> Counts:
    return Counts(0.0, np.zeros((classes, classes), np.int64), np.zeros((2, 4), np.int64))


def test_a_loss_without_pixels_is_undefined():
    assert math.isnan(METRICS["loss"].value(Score("a", no_counts(2)), 0.5))


def test_lower_can_be_better():
    assert METRICS["loss"].best([0.5, 0.25]) == 0.25
    assert METRICS["dice"].best([0.5, 0.25]) == 0.5


def test_a_key_is_registered_once():
    with pytest.raises(ValueError, match="'dice' is registered twice"):
        register(Metric("dice", "Dice", "again.", of_counts=lambda counts: 0.0))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"of_counts": lambda counts: 0.0, "of_pixels": lambda pixels: 0.0},
        {"of_pixels": lambda pixels: 0.0, "overall": True},
    ],
)
def test_a_metric_that_would_be_reported_wrongly_is_refused(fields):
    """One value of the pixels would stand at all thresholds of the table."""
    with pytest.raises(ValueError, match=r"^a: "):
        Metric("a", "A", "a.", **fields)
