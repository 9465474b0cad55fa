"""Two runs compared image by image."""

import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st
from made_reports import make_report

from unet_jax.metrics import bootstrap
from unet_jax.reporting.paired import compare, table

VALUES = st.none() | st.sampled_from([0.1, 0.2, 0.4, 0.7, 0.9])


def report(**columns):
    """A report with these values for each image."""
    count = len(next(iter(columns.values())))
    rows = [{key: values[i] for key, values in columns.items()} for i in range(count)]
    return make_report() | {"per_image": {f"image-{i}": row for i, row in enumerate(rows)}}


def test_a_comparison_by_hand():
    first = report(dice=[0.5, 0.6, 0.7, 0.8, None], loss=[0.3, 0.3, 0.3, 0.3, 0.3])
    second = report(dice=[0.6, 0.8, 0.6, 0.8, 0.1], loss=[0.2, 0.2, 0.2, 0.2, 0.2])
    loss, dice = compare(first, second)
    assert (loss.metric.key, loss.better, loss.worse, loss.equal) == ("loss", 5, 0, 0)
    assert loss.p == pytest.approx(2 / 2**5)
    assert loss.difference == pytest.approx(-0.1)
    assert loss.interval == pytest.approx((-0.1, -0.1))
    assert (dice.better, dice.worse, dice.equal) == (2, 1, 1)
    assert dice.p == pytest.approx(1.0)
    assert dice.difference == pytest.approx(0.05)
    assert table([loss, dice]).rows[0][1:] == [
        "-0.1000",
        "[-0.1000, -0.1000]",
        5,
        0,
        0,
        "p = 0.062",
    ]
    assert [row.metric.key for row in compare(first, second, ["loss"])] == ["dice"]


def test_metrics_of_different_settings_are_not_compared():
    columns = {"dice": [0.5, 0.6], "nsd": [0.7, 0.8], "ap50": [0.1, 0.2]}
    settings = {"nsd_pixels": [2.0], "objects": "components"}
    first = report(**columns) | {"settings": settings}
    other = first | {"settings": settings | {"nsd_pixels": [3.0]}}
    assert [row.metric.key for row in compare(first, first)] == ["dice", "nsd", "ap50"]
    assert [row.metric.key for row in compare(first, other)] == ["dice", "ap50"]
    other = first | {"settings": settings | {"objects": "watershed"}}
    assert [row.metric.key for row in compare(first, other)] == ["dice", "nsd"]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=9))
def test_a_comparison_is_that_of_brute_force(pairs):
    first, second = zip(*pairs, strict=True)
    known = [(a, b) for a, b in pairs if None not in (a, b)]
    found = compare(report(dice=first), report(dice=second))
    if not known:
        assert found == "the runs have no metric in common"
        return
    (dice,) = found
    assert dice.difference == pytest.approx(np.mean([b - a for a, b in known]))
    assert dice.better == sum(b > a for a, b in known)
    assert dice.worse == sum(b < a for a, b in known)
    assert dice.better + dice.worse + dice.equal == len(known)
    untied = dice.better + dice.worse
    if untied:  # twice the smaller tail of a fair coin
        tail = scipy.stats.binom.cdf(min(dice.better, dice.worse), untied, 0.5)
        assert dice.p == pytest.approx(min(1, 2 * tail))
    else:
        assert dice.p is None
    back = compare(report(dice=second), report(dice=first))[0]
    assert (back.better, back.worse, back.p) == (dice.worse, dice.better, dice.p)
    if len(known) > 1:
        assert (-back.interval[1], -back.interval[0]) == pytest.approx(dice.interval)
    else:
        assert dice.interval is None


def test_the_interval_is_scipys_of_pairs():
    rng = np.random.default_rng(0)
    first = rng.random(30)
    second = first + rng.normal(0.02, 0.05, 30)
    (dice,) = compare(report(dice=first.tolist()), report(dice=second.tolist()))
    result = scipy.stats.bootstrap(
        (first, second),
        lambda a, b, axis: (b - a).mean(axis),
        n_resamples=5000,
        paired=True,
        method="percentile",
        rng=rng,
    )
    expected = result.confidence_interval
    np.testing.assert_allclose(dice.interval, expected, atol=0.2 * result.standard_error)


def test_pairs_show_a_difference_that_the_intervals_of_the_runs_hide():
    rng = np.random.default_rng(0)
    first = rng.uniform(0.2, 0.9, 30)
    second = first + rng.uniform(0.005, 0.015, 30)
    ends = bootstrap.mean_intervals(np.stack([first, second], axis=1))
    assert ends[1, 0] < ends[0, 1]  # they overlap
    (dice,) = compare(report(dice=first.tolist()), report(dice=second.tolist()))
    assert dice.interval[0] > 0 and dice.p < 1e-6


def test_runs_that_do_not_compare_say_why():
    first = report(dice=[0.5, 0.6])
    other = first | {"per_image": {"image-1": {"dice": 0.6}, "x": {"dice": 0.6}}}
    assert compare(first, other) == (
        "the runs are scored on different images (2 and 2, of which 1 have the same name)"
    )
    assert "different classes" in compare(first, first | {"classes": ["a", "b"]})
    unknown = report(speed=[1, 2])
    assert compare(unknown, unknown) == "the runs have no metric in common"


def test_the_order_of_the_images_does_not_matter():
    first, second = report(dice=[0.5, 0.6, 0.9]), report(dice=[0.6, 0.65, 0.7])
    turned = second | {"per_image": dict(reversed(second["per_image"].items()))}
    assert compare(first, turned) == compare(first, second)
