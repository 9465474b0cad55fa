import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_jax.metrics.calibration import (
    BINS,
    best_threshold,
    calibration,
    confusion_above,
    histogram,
    roc_auc,
)

PROPERTY = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def predictions(draw):
    """Draws events and probabilities of pixels, many of them at bin edges."""
    values = st.floats(0, 1, width=32) | st.integers(0, BINS).map(lambda b: b / BINS)
    pairs = draw(st.lists(st.tuples(st.booleans(), values), min_size=1, max_size=60))
    event, probability = zip(*pairs, strict=True)
    return np.array(event), np.array(probability, np.float32)


def brute_force_auc(event, score):
    pairs = [(p > n) + 0.5 * (p == n) for p in score[event] for n in score[~event]]
    return np.mean(pairs) if pairs else np.nan


@PROPERTY
@given(predictions(), st.integers(1, BINS - 1))
def test_counts_above_an_edge_equal_those_of_a_comparison(prediction, edge):
    near = np.float32([edge - 0.5, edge + 0.5] * 2) / BINS
    event = np.concatenate([prediction[0], [False, False, True, True]])
    probability = np.concatenate([prediction[1], near])
    counts = histogram(event, probability)
    assert counts.sum() == len(event)
    above = probability > edge / BINS
    expected = [
        [np.sum(~event & ~above), np.sum(~event & above)],
        [np.sum(event & ~above), np.sum(event & above)],
    ]
    np.testing.assert_array_equal(confusion_above(counts, edge / BINS), expected)


@PROPERTY
@given(predictions())
def test_auc_equals_brute_force_over_pairs_with_bins_as_ties(prediction):
    event, probability = prediction
    bins = np.maximum(np.ceil(probability.astype(np.float64) * BINS), 1)
    found = roc_auc(histogram(event, probability))
    np.testing.assert_allclose(found, brute_force_auc(event, bins), rtol=1e-12)


def test_probabilities_rounded_above_1_count_as_1():
    event = np.array([True, False])
    counts = histogram(event, np.nextafter(np.float32([1, 1]), np.float32(2)))
    np.testing.assert_array_equal(counts[:, -1], [1, 1])
    assert counts.sum() == 2


def test_auc_of_a_hand_computed_example():
    event = np.array([True, True, False, False])
    assert roc_auc(histogram(event, np.float32([0.9, 0.8, 0.2, 0.1]))) == 1
    assert roc_auc(histogram(event, np.float32([0.1, 0.2, 0.8, 0.9]))) == 0
    assert roc_auc(histogram(event, np.float32([0.5, 0.5, 0.5, 0.5]))) == 0.5
    # One of the four pairs (0.9, 0.3 against 0.4, 0.1) is in the wrong order.
    assert roc_auc(histogram(event, np.float32([0.9, 0.3, 0.4, 0.1]))) == 0.75
    assert np.isnan(roc_auc(histogram(event[:2], np.float32([0.9, 0.8]))))


def test_calibration_of_a_hand_computed_example():
    event = np.array([True, False, False, False, True, True])
    probability = np.float32([0.26, 0.26, 0.26, 0.26, 0.99, 0.99])
    found = calibration(histogram(event, probability))
    assert found["pixels"] == [4, 2]
    assert found["observed"] == [0.25, 1.0]
    np.testing.assert_allclose(found["predicted"], [0.26, 0.99], atol=0.5 / BINS)
    np.testing.assert_allclose(found["error"], (4 * 0.01 + 2 * 0.01) / 6, atol=0.5 / BINS)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.001, 0.01, 0.5]))
@PROPERTY
def test_the_calibration_error_weights_each_range_by_its_pixels(seed, share):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 1000, (2, BINS)) * (rng.random((2, BINS)) < share)
    counts[seed % 2, seed % BINS] += 1
    total = 0.0
    for first in range(0, BINS, BINS // 16):
        bins = range(first, first + BINS // 16)
        events = counts[1, bins].sum()
        predicted = sum((b + 0.5) / BINS * counts[:, b].sum() for b in bins)
        total += abs(predicted - events)  # pixels * |their mean probability - share of events|
    assert calibration(counts)["error"] == pytest.approx(total / counts.sum(), abs=1e-12)


def test_calibration_without_pixels_has_a_nan_error():
    found = calibration(np.zeros((2, BINS), np.int64))
    assert np.isnan(found.pop("error"))
    assert found == {"predicted": [], "observed": [], "pixels": []}


@pytest.mark.parametrize(("lift", "error"), [(0.0, 0.0), (0.2, 0.2)])
def test_calibration_measures_overconfidence(lift, error):
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.2, 0.7, 200_000)
    event = rng.random(truth.size) < truth
    found = calibration(histogram(event, (truth + lift).astype(np.float32)))
    assert found["error"] == pytest.approx(error, abs=0.01)


def dice(event, above):
    size = above.sum() + event.sum()
    return 2 * np.sum(above & event) / size if size else 1.0


def iou(event, above):
    return np.sum(above & event) / np.sum(above | event) if (above | event).any() else 1.0


MEASURES = {
    "dice": dice,
    "iou": iou,
    "pixel_accuracy": lambda event, above: (event == above).mean(),
}


@PROPERTY
@given(st.sampled_from(sorted(MEASURES)), st.lists(predictions(), min_size=1, max_size=3))
def test_the_best_threshold_maximises_the_mean_over_the_images(metric, images):
    def mean(threshold):
        return np.mean([MEASURES[metric](event, p > threshold) for event, p in images])

    best = best_threshold([histogram(*image) for image in images], metric)
    assert 0 < best < 1
    highest = max(mean(edge / BINS) for edge in range(1, BINS))
    assert mean(best) == pytest.approx(highest, abs=1e-12)


def test_of_equally_good_thresholds_the_nearest_to_a_half_is_chosen():
    event, probability = np.array([True, False]), np.float32([0.9, 0.1])
    assert best_threshold([histogram(event, probability)]) == 0.5
    probability = np.float32([0.9, 0.75])
    assert best_threshold([histogram(event, probability)]) == 0.75
