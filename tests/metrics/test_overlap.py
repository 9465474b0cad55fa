"""Metrics against hand-worked counts and against counting pixel by pixel."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_jax.metrics.overlap import (
    aggregate,
    class_metrics,
    confusion,
    headline_metrics,
    nan_mean,
    one_mask_empty,
)

NAN = math.nan
PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)


def same(value, expected) -> None:
    """Equal up to rounding, NaN where NaN."""
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=0, equal_nan=True)


@st.composite
def segmentations(draw) -> tuple[int, np.ndarray, np.ndarray]:
    classes = draw(st.integers(2, 4))
    height, width = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    pixels = height * width
    labels = st.sampled_from([*range(classes), 255])
    label = draw(st.lists(labels, min_size=pixels, max_size=pixels))
    prediction = draw(st.lists(st.integers(0, classes - 1), min_size=pixels, max_size=pixels))
    shape = height, width
    return (
        classes,
        np.array(label, np.uint8).reshape(shape),
        np.array(prediction, np.uint8).reshape(shape),
    )


def brute_force(label, prediction, k: int) -> tuple[int, int, int, int]:
    """True positives, false positives, false negatives, true negatives of class k."""
    tp = fp = fn = tn = 0
    for wanted, got in zip(label.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if wanted == 255:
            continue
        tp += wanted == k and got == k
        fp += wanted != k and got == k
        fn += wanted == k and got != k
        tn += wanted != k and got != k
    return tp, fp, fn, tn


def divide(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else NAN


def test_confusion_has_the_label_in_rows():
    label = np.array([[0, 0, 1], [1, 1, 255]], np.uint8)
    prediction = np.array([[0, 1, 1], [0, 1, 0]], np.uint8)
    counts = confusion(label, prediction, 2)
    assert counts.dtype == np.int64
    assert counts.tolist() == [[1, 1], [1, 2]]


def test_confusion_of_three_classes():
    label = np.array([[0, 1, 2, 2, 2, 255, 255]], np.uint8)
    prediction = np.array([[0, 0, 2, 1, 1, 2, 0]], np.uint8)
    assert confusion(label, prediction, 3).tolist() == [[1, 0, 0], [1, 0, 0], [0, 2, 1]]


def test_confusion_of_many_classes_does_not_overflow_the_labels_type():
    label = np.full((2, 2), 20, np.uint8)
    counts = confusion(label, label, 21)
    assert counts.shape == (21, 21)
    assert counts[20, 20] == counts.sum() == 4


def test_binary_metrics_by_hand():
    counts = np.array([[50, 10], [5, 35]])  # of class 1: 35 right, 10 false alarms, 5 missed
    per_class = class_metrics(counts)
    same(per_class["dice"], [100 / 115, 70 / 85])
    same(per_class["iou"], [50 / 65, 35 / 50])
    same(per_class["precision"], [50 / 55, 35 / 45])
    same(per_class["recall"], [50 / 60, 35 / 40])
    same(per_class["specificity"], [35 / 40, 50 / 60])
    headline = headline_metrics(counts)
    assert headline == pytest.approx(
        {
            "dice": 70 / 85,
            "iou": 0.7,
            "precision": 35 / 45,
            "recall": 0.875,
            "specificity": 50 / 60,
            "pixel_accuracy": 0.85,
        },
        rel=1e-12,
    )
    assert all(type(value) is float for value in headline.values())


def test_three_class_metrics_by_hand():
    counts = np.array([[4, 1, 0], [2, 6, 2], [0, 0, 5]])
    per_class = class_metrics(counts)
    same(per_class["dice"], [8 / 11, 12 / 17, 10 / 12])
    same(per_class["iou"], [4 / 7, 6 / 11, 5 / 7])
    same(per_class["precision"], [4 / 6, 6 / 7, 5 / 7])
    same(per_class["recall"], [4 / 5, 6 / 10, 1])
    same(per_class["specificity"], [13 / 15, 9 / 10, 13 / 15])
    headline = headline_metrics(counts)
    assert headline == pytest.approx(
        {
            "pixel_accuracy": 15 / 20,
            "mean_accuracy": (0.8 + 0.6 + 1) / 3,
            "mean_iou": (4 / 7 + 6 / 11 + 5 / 7) / 3,
        },
        rel=1e-12,
    )
    assert all(type(value) is float for value in headline.values())


def test_two_empty_masks_agree():
    headline = headline_metrics(np.array([[9, 0], [0, 0]]))
    assert headline["dice"] == headline["iou"] == headline["pixel_accuracy"] == 1
    assert headline["specificity"] == 1
    assert math.isnan(headline["precision"])
    assert math.isnan(headline["recall"])


def test_images_with_one_empty_mask_are_counted():
    only_label, only_prediction = [[1, 0], [2, 0]], [[1, 3], [0, 0]]
    both, none = [[1, 0], [0, 5]], [[0, 0], [0, 0]]
    images = [only_label, only_prediction, only_prediction, both, none]
    found = one_mask_empty([np.array(counts) for counts in images])
    assert {which: images.tolist() for which, images in found.items()} == {
        "label": [0, 2],
        "prediction": [0, 1],
    }


def test_two_full_masks_agree_on_the_background_too():
    per_class = class_metrics(np.array([[0, 0], [0, 9]]))
    same(per_class["dice"], [1, 1])
    same(per_class["iou"], [1, 1])
    same(per_class["specificity"], [1, NAN])


@pytest.mark.parametrize(
    ("counts", "undefined", "zero"),
    [
        ([[5, 0], [4, 0]], "precision", "recall"),  # nothing is predicted
        ([[5, 4], [0, 0]], "recall", "precision"),  # there is nothing to find
    ],
)
def test_a_ratio_of_zeros_is_nan(counts, undefined, zero):
    headline = headline_metrics(np.array(counts))
    assert math.isnan(headline[undefined])
    assert headline[zero] == headline["dice"] == headline["iou"] == 0


def test_a_class_that_is_absent_is_left_out_where_there_are_three():
    counts = np.array([[6, 2, 0], [0, 4, 0], [0, 0, 0]])
    per_class = class_metrics(counts)
    same(per_class["dice"], [12 / 14, 8 / 10, NAN])
    same(per_class["iou"], [6 / 8, 4 / 6, NAN])
    headline = headline_metrics(counts)
    assert headline["mean_iou"] == pytest.approx((6 / 8 + 4 / 6) / 2, rel=1e-12)
    assert headline["mean_accuracy"] == pytest.approx((6 / 8 + 1) / 2, rel=1e-12)


def test_a_class_that_is_only_predicted_counts_in_the_iou_and_not_in_the_accuracy():
    headline = headline_metrics(np.array([[6, 0, 2], [0, 4, 0], [0, 0, 0]]))
    assert headline["mean_iou"] == pytest.approx((6 / 8 + 1 + 0) / 3, rel=1e-12)
    assert headline["mean_accuracy"] == pytest.approx((6 / 8 + 1) / 2, rel=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
def test_an_image_of_ignored_pixels_has_no_metrics(classes):
    label = np.full((2, 3), 255, np.uint8)
    counts = confusion(label, np.ones((2, 3), np.uint8), classes)
    assert not counts.any()
    for values in class_metrics(counts).values():
        assert np.isnan(values).all()
    assert all(math.isnan(value) for value in headline_metrics(counts).values())


def test_aggregate_by_hand():
    counts = [
        np.array([[0, 2], [0, 2]]),  # dice 2/3
        np.array([[8, 0], [4, 4]]),  # dice 2/3 again, 16 pixels
        np.array([[10, 0], [0, 0]]),  # empty: dice 1, no recall
    ]
    summary = aggregate(counts)
    expected = {
        "dice": ((2 / 3 + 2 / 3 + 1) / 3, 2 / 3, 1, 12 / (12 + 2 + 4)),
        "iou": ((1 / 2 + 1 / 2 + 1) / 3, 1 / 2, 1, 6 / 12),
        "precision": ((1 / 2 + 1) / 2, 1 / 2, 1, 6 / 8),
        "recall": ((1 + 1 / 2) / 2, 1 / 2, 1, 6 / 10),
        "specificity": (2 / 3, 0, 1, 18 / 20),
        "pixel_accuracy": ((1 / 2 + 3 / 4 + 1) / 3, 1 / 2, 1, 24 / 30),
    }
    assert set(summary) == set(expected)
    for name, values in expected.items():
        assert list(summary[name]) == ["mean", "min", "max", "pooled"]
        same(list(summary[name].values()), values)
        assert all(type(value) is float for value in summary[name].values()), name


def test_the_pooled_iou_is_that_of_the_summed_counts():
    counts = [
        np.array([[3, 1, 0], [0, 0, 0], [0, 0, 0]]),
        np.array([[1, 0, 0], [0, 9, 0], [0] * 3]),
    ]
    pooled = aggregate(counts)["mean_iou"]["pooled"]
    assert pooled == pytest.approx((4 / 5 + 9 / 10) / 2, rel=1e-12)


def test_a_metric_without_meaning_anywhere_is_nan():
    empty = np.array([[4, 0], [0, 0]])
    same(list(aggregate([empty, empty])["recall"].values()), [NAN] * 4)


def test_an_image_of_ignored_pixels_is_left_out_of_an_aggregate():
    counts = [np.array([[3, 1], [0, 4]]), np.zeros((2, 2), np.int64)]
    summary = aggregate(counts)
    alone = aggregate(counts[:1])
    for name in alone:
        same(list(summary[name].values()), list(alone[name].values()))


@pytest.mark.parametrize("classes", [2, 3])
def test_a_split_of_ignored_pixels_has_no_aggregate(classes):
    summary = aggregate([np.zeros((classes, classes), np.int64)] * 2)
    for statistics in summary.values():
        same(list(statistics.values()), [NAN] * 4)


@pytest.mark.parametrize(
    ("values", "expected"), [([1.0, NAN, 4.0], 2.5), ([NAN, NAN], NAN), ([], NAN), ([3.0], 3.0)]
)
def test_nan_mean(values, expected):
    same(nan_mean(np.array(values)), expected)


@PROPERTY
@given(segmentations())
def test_counts_and_metrics_are_those_of_counting_by_pixel(example):
    classes, label, prediction = example
    counts = confusion(label, prediction, classes)
    assert counts.sum() == np.sum(label != 255)
    per_class = class_metrics(counts)
    for k in range(classes):
        tp, fp, fn, tn = brute_force(label, prediction, k)
        assert counts[k, k] == tp
        assert counts[:, k].sum() == tp + fp
        empty = 1.0 if classes == 2 and tn else NAN
        dice, iou = divide(2 * tp, 2 * tp + fp + fn), divide(tp, tp + fp + fn)
        same(per_class["dice"][k], empty if math.isnan(dice) else dice)
        same(per_class["iou"][k], empty if math.isnan(iou) else iou)
        same(per_class["precision"][k], divide(tp, tp + fp))
        same(per_class["recall"][k], divide(tp, tp + fn))
        same(per_class["specificity"][k], divide(tn, tn + fp))


@PROPERTY
@given(segmentations())
def test_dice_follows_from_iou(example):
    classes, label, prediction = example
    per_class = class_metrics(confusion(label, prediction, classes))
    same(per_class["dice"], 2 * per_class["iou"] / (1 + per_class["iou"]))


@PROPERTY
@given(segmentations(), st.integers(0, 1000))
def test_the_order_of_pixels_does_not_matter(example, seed):
    classes, label, prediction = example
    order = np.random.default_rng(seed).permutation(label.size)
    shuffled = confusion(label.ravel()[order], prediction.ravel()[order], classes)
    np.testing.assert_array_equal(shuffled, confusion(label, prediction, classes))
