import dataclasses

import numpy as np
import pytest
from made_scores import score, with_cells

from unet_jax.evaluation.scores import (
    class_scalars,
    mean_scalars,
    only_predicted_class,
    scores_line,
    summarise,
)
from unet_jax.metrics.em_challenge import THRESHOLDS
from unet_jax.metrics.registry import Task

TASK, CELLS = Task(2), Task(2, cells=True)


def test_summary_of_hand_made_scores():
    scores = [
        score("a", 0.5, [[2, 0], [0, 2]]),
        score("b", 0.1, [[0, 4], [0, 4]]),
    ]
    summary = summarise(scores, TASK, ["off", "on"], 0.5, True)
    assert summary["loss"] == pytest.approx(0.3)
    assert summary["aggregate"]["loss"]["pooled"] == pytest.approx((0.5 * 4 + 0.1 * 8) / 12)
    assert summary["aggregate"]["dice"]["mean"] == pytest.approx((1 + 2 * 4 / 12) / 2)
    assert summary["aggregate"]["dice"]["pooled"] == pytest.approx(2 * 6 / (2 * 6 + 4))
    assert summary["per_class"]["off"]["recall"] == pytest.approx(2 / 6)
    assert summary["confusion"] == [[2, 4], [0, 6]]
    assert summary["per_image"]["b"]["pixel_accuracy"] == 0.5
    trivial = summary["trivial"]
    assert trivial["prediction"] == "all on"
    assert trivial["per_class"]["on"]["dice"] == pytest.approx(2 * 6 / (2 * 6 + 6))
    assert trivial["per_class"]["off"]["precision"] is None
    assert trivial["aggregate"]["dice"]["min"] == pytest.approx(2 * 2 / 6)


def test_metrics_of_objects_are_those_of_each_image_where_they_are_defined():
    """SQ of image b has no value, because nothing matches there."""
    task, metrics = Task(3, groups=("objects",)), ("ap50", "ap75", "ap", "pq", "sq", "rq")
    values = {key: [[np.nan, 0.2, 0.6], [np.nan, 0.0, np.nan]] for key in metrics}
    values["sq"][1] = [np.nan] * 3
    values["count_error"] = [[np.nan, 1.0, 0.0], [np.nan, 3.0, np.nan]]
    scores = [
        dataclasses.replace(
            score(name, 0.1, np.eye(3, dtype=int)),
            of_classes={key: of_images[i] for key, of_images in values.items()},
        )
        for i, name in enumerate("ab")
    ]
    summary = summarise(scores, task, ["ground", "cell", "dust"], 0.5, True)
    first, second = summary["per_image"]["a"], summary["per_image"]["b"]
    for key in metrics:
        assert first[key] == pytest.approx(0.4)
        assert second[key] == (None if key == "sq" else 0)
    assert (first["count_error"], second["count_error"]) == (0.5, 3)
    assert summary["per_class"]["cell"]["pq"] == pytest.approx(0.1)


def test_the_pooled_loss_weighs_the_pixels_that_the_loss_saw():
    large, small = score("a", 0.5, [[90, 0], [0, 10]]), score("b", 0.1, [[0, 1], [0, 3]])
    hidden = score("c", 0.0, [[1, 0], [0, 0]])
    seen = [[[3, 0], [0, 1]], [[1, 1], [1, 1]], [[0, 0], [0, 0]]]
    resized = [
        dataclasses.replace(
            each, counts=dataclasses.replace(each.counts, network_confusion=np.array(counts))
        )
        for each, counts in zip((large, small, hidden), seen, strict=True)
    ]
    for scores, expected in (([large, small], (50 + 0.4) / 104), (resized, 0.3)):
        summary = summarise(scores, TASK, ["off", "on"], 0.5, True)
        assert summary["aggregate"]["loss"]["pooled"] == pytest.approx(expected)
        # Soft Dice of a batch, or weighted classes: the images' losses do not say.
        other = summarise(scores, TASK, ["off", "on"], 0.5, False)
        assert other["aggregate"]["loss"]["pooled"] is None
        assert other["loss"] == summary["loss"]


@pytest.mark.parametrize(
    ("counts", "only"),
    [
        ([[0, 5], [0, 3]], "on"),
        ([[5, 0], [3, 0]], "off"),
        ([[5, 1], [3, 0]], None),
        ([[0, 0], [0, 3]], None),  # the labels have nothing else
        ([[0, 0], [0, 0]], None),
    ],
)
def test_a_prediction_of_one_class_alone_is_noticed(counts, only):
    scores = [score("a", 0.5, counts), score("b", 0.5, np.zeros((2, 2), np.int64))]
    assert only_predicted_class(scores, ["off", "on"]) == only


def test_auc_and_calibration_are_part_of_the_summary():
    scores = [score("a", 0.5, [[2, 0], [0, 2]]), score("b", 0.1, [[2, 2], [1, 3]])]
    summary = summarise(scores, TASK, ["off", "on"], 0.5, True)
    assert summary["per_image"]["a"]["auc"] == 1.0
    # Of 16 pairs 6 are in order, 2 in the wrong one, 8 tie.
    assert summary["per_image"]["b"]["auc"] == pytest.approx((6 + 8 / 2) / 16)
    pooled = summary["aggregate"]["auc"]["pooled"]
    assert pooled == pytest.approx((4 * 5 + (4 * 1 + 2 * 5) / 2) / (6 * 6))
    assert summary["calibration"]["pixels"] == [5, 7]
    assert summary["calibration"]["observed"] == pytest.approx([1 / 5, 5 / 7])


def test_the_curves_of_more_classes_are_pooled():
    counts = [[[3, 1, 0], [0, 0, 0], [0, 0, 0]], [[1, 0, 0], [0, 9, 0], [0, 0, 0]]]
    summary = summarise(
        [score(f"{i}", 0.5, c) for i, c in enumerate(counts)], Task(3), ["a", "b", "c"], 0.5, True
    )
    curves = class_scalars(summary, Task(3))
    assert curves == pytest.approx(
        {"iou/a": 4 / 5, "iou/b": 9 / 10, "iou/mean": (4 / 5 + 9 / 10) / 2}
    )
    assert mean_scalars(summary)["pixel_accuracy"] == pytest.approx((3 / 4 + 1) / 2)
    assert scores_line(summary).endswith("mean_iou 0.6875  mean_iou (pooled) 0.8500")
    two = summarise([score("a", 0.5, [[1, 0], [0, 1]])], TASK, ["a", "b"], 0.5, True)
    assert "pooled" not in scores_line(two)
    assert class_scalars(two, TASK) == {}


def test_more_classes_have_calibration_but_no_auc():
    scores = [score("a", 0.5, np.eye(3, dtype=int))]
    summary = summarise(scores, Task(3), ["a", "b", "c"], 0.5, True)
    assert "auc" not in summary["aggregate"]
    assert summary["calibration"]["error"] is None  # the made histogram is empty


def test_the_pixel_error_is_the_challenges():
    """All pixels together: Dice 12 / 16 at 0.5, and 12 / 18 where everything is cell."""
    flat = [0.2] * len(THRESHOLDS)
    scores = [
        with_cells(score("a", 0.5, [[2, 0], [0, 2]]), flat, flat),
        with_cells(score("b", 0.1, [[0, 4], [0, 4]]), flat, flat),
    ]
    summary = summarise(scores, CELLS, ["membrane", "cell"], 0.5, True)
    assert summary["pixel_error"] == pytest.approx(1 - 12 / 16)
    plain = [score("a", 0.5, [[2, 0], [0, 2]])]
    assert "pixel_error" not in summarise(plain, TASK, ["off", "on"], 0.5, True)
