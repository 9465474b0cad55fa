"""Thresholds that are chosen on validation, and the table of them in a report."""

import math

import numpy as np
import pytest
from made_scores import score, with_cells

from unet_jax.evaluation.image import score_image
from unet_jax.evaluation.scores import pack, unpack
from unet_jax.evaluation.thresholds import (
    GRID,
    USED,
    choose_thresholds,
    threshold_table,
    thresholds_by_metric,
)
from unet_jax.metrics.em_challenge import THRESHOLDS
from unet_jax.metrics.registry import METRICS, Masks, Metric, Score, Task

CELLS = Task(2, cells=True)


def test_the_threshold_table():
    flat = [0.2] * len(THRESHOLDS)
    v_rand, v_info = list(flat), list(flat)
    v_rand[3], v_info[7] = 0.8, 0.9  # at 0.3 and 0.7
    scores = [
        with_cells(score("a", 0.5, [[2, 0], [0, 2]]), v_rand, v_info),
        with_cells(score("b", 0.1, [[0, 4], [0, 4]]), v_rand, v_info),
    ]
    assert choose_thresholds(scores, CELLS) == {"dice": 0.5, "v_rand": THRESHOLDS[3]}
    chosen = {"dice": 0.25, "v_rand": THRESHOLDS[3]}
    more = threshold_table(scores, CELLS, 0.5, chosen, {"for all": 0.25})
    table = [row for row in more if row["rule"] != "for all"]
    assert more[1] == table[1] | {"rule": "for all"}  # the best Dice is at this threshold, too
    rules = [row["rule"] for row in table]
    assert rules == [
        USED,
        "best Dice on validation",
        "best V^Rand on validation",
        "best on these images, as the challenge scores",
    ]
    fixed, dice, v_rand, highest = table
    assert fixed["dice"] == pytest.approx((1 + 8 / 12) / 2)
    assert fixed["v_rand"] == pytest.approx(0.2)
    # Nothing is above 0.75 but at 0.25 nothing is below either.
    assert dice["threshold"] == 0.25
    assert dice["pixel_accuracy"] == pytest.approx(0.75)
    assert (dice["v_rand"], dice["v_info"]) == (0.1, 0.2)
    assert v_rand["v_rand"] == pytest.approx(0.8)
    assert v_rand["v_info"] == pytest.approx(0.2)
    assert (highest["v_rand"], highest["v_info"]) == pytest.approx((0.8, 0.9))
    assert highest["dice"] is None


def test_images_without_cells_are_left_out_of_the_choice():
    nan = [np.nan] * len(THRESHOLDS)
    v_rand = [0.1] * len(THRESHOLDS)
    v_rand[6] = 0.7
    empty = with_cells(score("a", 0.5, [[4, 0], [0, 0]]), nan, nan)
    assert choose_thresholds([empty], CELLS)["v_rand"] == 0.5
    some = with_cells(score("b", 0.5, [[2, 0], [0, 2]]), v_rand, v_rand)
    assert choose_thresholds([empty, some], CELLS)["v_rand"] == THRESHOLDS[6]


def excess(masks: Masks) -> float:
    """Pixels that are predicted too much or too little; undefined for an empty prediction."""
    if not masks.prediction.any():
        return math.nan
    return float(abs(int(masks.prediction.sum()) - int(masks.label.sum())))


@pytest.fixture
def masked(monkeypatch) -> Task:
    """A task with a metric of masks, of which lower is better."""
    metric = Metric("excess", "excess", "excess.", "lower", group="boundary", of_masks=excess)
    monkeypatch.setitem(METRICS._found(), "excess", metric)
    return Task(2, groups=("default", "boundary"))


def images(count=3):
    rng = np.random.default_rng(0)
    for _ in range(count):
        label = (rng.random((9, 11)) > 0.6).astype(np.uint8)
        label[0] = 255
        yield label, rng.random((9, 11, 1)).astype(np.float32) ** 2


def scored(task, **needed) -> list[Score]:
    thresholds = thresholds_by_metric(task, 0.5, **needed)
    return [score_image(*pair, 0.3, task, 0.5, thresholds) for pair in images()]


def excess_above(threshold):
    return [
        abs(int(((p[..., 0] > threshold) & (label < 255)).sum()) - int((label == 1).sum()))
        for label, p in images()
    ]


def test_a_metric_of_masks_is_tuned_on_a_grid(masked):
    scores = scored(masked, tuned=["excess"])
    assert tuple(scores[0].curves["excess"]) == GRID
    chosen = choose_thresholds(scores, masked, ["excess"])
    lowest = min(np.mean(excess_above(t)) for t in GRID)
    assert chosen.keys() == {"excess"}
    assert np.mean(excess_above(chosen["excess"])) == lowest


def test_metrics_of_masks_are_reported_at_every_chosen_threshold(masked):
    scores = scored(masked, chosen=[0.25, 0.7])
    assert scores[0].curves["excess"].keys() == {0.25, 0.7}
    scores = list(unpack(pack(scores)))  # as hosts exchange them
    table = threshold_table(scores, masked, 0.5, {"dice": 0.25, "excess": 0.7})
    assert [row["rule"] for row in table[1:]] == [
        "best Dice on validation",
        "best excess on validation",
    ]
    for row, threshold in zip(table, (0.5, 0.25, 0.7), strict=True):
        assert row["threshold"] == threshold
        assert row["excess"] == pytest.approx(np.mean(excess_above(threshold)))
        bins = round(threshold * 1024) / 1024
        right = [((p[..., 0] > bins) == (label == 1))[label < 255].mean() for label, p in images()]
        assert row["pixel_accuracy"] == pytest.approx(np.mean(right))


def test_scores_without_a_threshold_are_not_reported_at_it(masked):
    with pytest.raises(KeyError):
        threshold_table(scored(masked), masked, 0.5, {"dice": 0.25})


def test_what_is_not_tuned_is_not_computed_on_the_grid(masked):
    assert not any(thresholds_by_metric(masked, 0.5).values())
    needed = thresholds_by_metric(masked, 0.5, [0.3], ["dice", "nsd"])
    assert needed.pop("nsd") == sorted({*GRID, 0.3})
    assert "excess" in needed and all(each == [0.3] for each in needed.values())
    many = Task(3, groups=masked.groups)
    assert thresholds_by_metric(many, 0.5, [0.3], ["excess"]) == {}
    assert thresholds_by_metric(CELLS, 0.5, [0.25])["v_rand"] == sorted({*THRESHOLDS, 0.25})


def test_thresholds_with_fewer_defined_images_are_left_out(masked):
    """At 0.9 one image has a prediction, and that one is perfect."""
    curves = [dict.fromkeys(GRID, 5.0) | {0.9: math.nan, 0.35: 4.0}, dict.fromkeys(GRID, 5.0)]
    curves[1][0.9] = 0.0
    scores = [Score("", None, curves={"excess": curve}) for curve in curves]
    assert choose_thresholds(scores, masked, ["excess"]) == {"excess": 0.35}
    curves[0][0.35] = 5.0
    assert choose_thresholds(scores, masked, ["excess"]) == {"excess": 0.5}
    never = [Score("", None, curves={"excess": dict.fromkeys(GRID, math.nan)})]
    assert choose_thresholds(never, masked, ["excess"]) == {}


def test_a_metric_with_thresholds_of_its_own_is_tuned_among_them():
    v_info = [0.2] * len(THRESHOLDS)
    v_info[7] = 0.9
    scores = [with_cells(score("a", 0.5, [[2, 0], [0, 2]]), v_info, v_info)]
    assert choose_thresholds(scores, CELLS, ["v_info"]) == {"v_info": THRESHOLDS[7]}
    assert choose_thresholds(scores, CELLS, ["iou", "pixel_accuracy"]) == {
        "iou": 0.5,
        "pixel_accuracy": 0.5,
    }
