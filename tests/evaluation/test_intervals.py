"""Confidence intervals of a report's means and pooled values."""

import dataclasses
import json

import numpy as np
import pytest
from made_scores import score

from unet_jax.evaluation.intervals import add_intervals, resampled
from unet_jax.evaluation.scores import summarise
from unet_jax.metrics import bootstrap
from unet_jax.metrics.registry import METRICS, Task

CLASSES = ["off", "on"]


def scores_of(images: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    return [score(f"{i}", rng.random(), rng.integers(0, 90, (2, 2))) for i in range(images)]


def with_intervals(scores, plain=True):
    summary = summarise(scores, Task(2), CLASSES, 0.5, plain)
    before = json.loads(json.dumps(summary))
    add_intervals(summary, scores, plain)
    for metric, values in before["aggregate"].items():
        kept = {key: summary["aggregate"][metric][key] for key in values}
        assert kept == values
    return json.loads(json.dumps(summary))


def test_each_draw_has_the_pooled_values_of_its_images():
    scores = scores_of(5)
    scores[3] = score("ignored", 0.0, np.zeros((2, 2)))
    small = [np.array([[i, 1], [2, 3]]) * (i != 3) for i in range(5)]
    resized = [
        dataclasses.replace(s, counts=dataclasses.replace(s.counts, network_confusion=c))
        for s, c in zip(scores, small, strict=True)
    ]
    weights = next(bootstrap.draws(5))[:6]
    for images, task in ((scores, Task(2)), (resized, Task(2, resized=True))):
        for counts, total in zip(weights, resampled(images, weights, True), strict=True):
            drawn = [images[i] for i in np.repeat(np.arange(5), counts.astype(int))]
            aggregate = summarise(drawn, task, CLASSES, 0.5, True)["aggregate"]
            for metric, values in aggregate.items():
                assert METRICS[metric].pooled(total) == pytest.approx(values["pooled"]), metric


def test_a_report_has_intervals_of_means_and_pooled_values():
    scores = scores_of(6)
    summary = with_intervals(scores)
    assert summary["bootstrap"] == {"level": 0.95, "draws": 1000, "seed": 0}
    for metric, values in summary["aggregate"].items():
        for kind, interval in (("mean", "interval"), ("pooled", "pooled_interval")):
            low, high = values[interval]
            assert values["min"] < low < values[kind] < high < values["max"], metric
    dice = np.array([[row["dice"]] for row in summary["per_image"].values()])
    expected = bootstrap.mean_intervals(dice)[0]
    assert summary["aggregate"]["dice"]["interval"] == pytest.approx(expected)
    assert with_intervals(scores) == summary


def test_values_without_a_meaning_have_no_interval():
    loss = with_intervals(scores_of(4), plain=False)["aggregate"]["loss"]
    assert loss["interval"] and loss["pooled"] is None and "pooled_interval" not in loss
    one = with_intervals(scores_of(1))["aggregate"]["dice"]
    assert one["interval"] is None and one["pooled_interval"] is None
    empty = [score(f"{i}", 0.1, [[5, 0], [0, 0]]) for i in range(3)]
    aggregate = with_intervals(empty)["aggregate"]
    assert aggregate["recall"]["interval"] is None
    assert aggregate["dice"]["interval"] == aggregate["dice"]["pooled_interval"] == [1.0, 1.0]
