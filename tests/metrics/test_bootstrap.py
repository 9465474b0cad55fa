"""Confidence intervals over images."""

import math

import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_jax.metrics import bootstrap
from unet_jax.reporting.sections import COVERAGE

VALUES = st.lists(st.floats(-1, 1) | st.just(math.nan), min_size=2, max_size=8)


def all_draws(images: int) -> np.ndarray:
    return np.concatenate(list(bootstrap.draws(images)))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(VALUES)
def test_intervals_are_those_of_the_means_of_repeated_values(values):
    values = np.array(values)
    means = []
    for counts in all_draws(len(values)).astype(int):
        drawn = np.repeat(values, counts)
        drawn = drawn[~np.isnan(drawn)]
        means += [drawn.mean()] if len(drawn) else []
    found = bootstrap.mean_intervals(values[:, None])[0]
    if (~np.isnan(values)).sum() < 2:
        assert np.isnan(found).all()
    else:
        np.testing.assert_allclose(found, np.quantile(means, [0.025, 0.975]), atol=1e-12)


def test_draws_are_of_all_images_with_replacement_and_equal_every_time():
    draws = all_draws(7)
    assert draws.shape == (bootstrap.DRAWS, 7) and (draws.sum(1) == 7).all()
    np.testing.assert_allclose(draws.mean(0), 1, atol=0.15)
    np.testing.assert_allclose(draws.var(0), 6 / 7, atol=0.2)  # binomial
    np.testing.assert_array_equal(draws, all_draws(7))


def test_intervals_are_scipys():
    """It draws other images, so that the ends differ by their own standard error."""
    values = np.random.default_rng(1).beta(9, 2, 40)
    result = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(2)
    )
    found = bootstrap.mean_intervals(values[:, None])[0]
    np.testing.assert_allclose(found, result.confidence_interval, atol=0.2 * result.standard_error)


def test_metrics_share_the_draws_so_that_paired_differences_are_exact():
    rng = np.random.default_rng(0)
    first = rng.random((20, 1))
    means = bootstrap.means_of_draws(np.hstack([first, first + 0.25]))
    np.testing.assert_allclose(means[:, 1] - means[:, 0], 0.25, atol=1e-12)


def test_equal_values_have_no_width_and_one_image_has_no_interval():
    same = np.full((6, 1), 0.1)
    np.testing.assert_array_equal(bootstrap.mean_intervals(same), [[0.1, 0.1]])
    assert np.isnan(bootstrap.mean_intervals(np.array([[0.5]]))).all()
    nothing = np.array([[0.5, math.nan], [math.nan, math.nan], [0.7, math.nan]])
    (low, high), missing = bootstrap.mean_intervals(nothing)
    assert (low, high) == (0.5, 0.7) and np.isnan(missing).all()


@pytest.mark.parametrize(("images", "percent"), [*COVERAGE.items(), (100, 95)])
def test_intervals_contain_the_true_mean_as_often_as_reports_say(images, percent):
    """In 1,500 experiments with normally distributed scores."""
    scores = np.random.default_rng(images).normal(0, 1, (images, 1500))
    low, high = bootstrap.mean_intervals(scores).T
    assert 100 * ((low <= 0) & (high >= 0)).mean() == pytest.approx(percent, abs=2.5)
