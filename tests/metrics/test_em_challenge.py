"""Tests of V^Rand and V^Info, against hand-computed values, brute force and scikit-image."""

import collections
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import metrics as skimage_metrics
from skimage.segmentation import watershed

from unet_jax.data.files.tiff import read_tiff
from unet_jax.metrics.em_challenge import (
    THRESHOLDS,
    best,
    curve,
    label_segments,
    predicted_segments,
    scores,
)

PROPERTY = settings(max_examples=50, deadline=None, derandomize=True)


@st.composite
def images(draw, values, count: int = 1) -> list[np.ndarray]:
    """Draws `count` small images of one shape."""
    height, width = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    pixels = st.lists(values, min_size=height * width, max_size=height * width)
    return [np.array(draw(pixels)).reshape(height, width) for _ in range(count)]


def brute_force(label: np.ndarray, predicted: np.ndarray) -> tuple[float, ...]:
    """Computes the six scores from all pixels and all pairs of pixels."""
    pairs = zip(label.ravel().tolist(), predicted.ravel().tolist(), strict=True)
    pixels = [(t, s or f"border {k}") for k, (t, s) in enumerate(pairs) if t]
    same = sum(a == b for a in pixels for b in pixels)
    same_t = sum(a[0] == b[0] for a in pixels for b in pixels)
    same_s = sum(a[1] == b[1] for a in pixels for b in pixels)

    def entropy(items: list) -> float:
        return -sum(
            n / len(items) * math.log2(n / len(items)) for n in collections.Counter(items).values()
        )

    h_t, h_s = entropy([t for t, _ in pixels]), entropy([s for _, s in pixels])
    mutual = h_t + h_s - entropy(pixels)
    rand = same / (same_s / 2 + same_t / 2), same / same_t, same / same_s
    info = (mutual / h if h else 1.0 for h in ((h_s + h_t) / 2, h_s, h_t))
    return *rand, *info


def made_cells(size: int = 96, seeds: int = 25, seed: int = 0) -> np.ndarray:
    """Returns a label: Voronoi cells, separated by membranes of one or two pixels."""
    points = np.random.default_rng(seed).integers(0, size, (2, seeds))
    away = np.ones((size, size), bool)
    away[tuple(points)] = False
    nearest = ndimage.distance_transform_edt(away, return_distances=False, return_indices=True)
    owner = nearest[0] * size + nearest[1]
    membrane = np.diff(owner, axis=0, append=owner[-1:]) != 0
    membrane |= np.diff(owner, axis=1, append=owner[:, -1:]) != 0
    return (~membrane).astype(np.uint8)


def thicker(label: np.ndarray, pixels: int) -> np.ndarray:
    """Returns the label's cells (bool) with membranes thicker by `pixels` on both sides."""
    return ndimage.binary_erosion(label == 1, iterations=pixels, border_value=1)


def score(label: np.ndarray, cell: np.ndarray):
    return scores(label_segments(label), predicted_segments(cell))


def test_two_cells_merged():
    # Joint counts 2, 2; cells 2, 2; one segment of 4 (the membrane does not count).
    # V^Rand = 8 / (16 / 2 + 8 / 2); one segment has no information and splits nothing.
    result = scores(np.array([[1, 1, 0, 2, 2]]), np.array([[7, 7, 7, 7, 7]]))
    assert result == pytest.approx((2 / 3, 1, 1 / 2, 0, 1, 0), abs=1e-12)


def test_one_cell_split():
    # Joint counts 2, 2, 2; cells 4, 2; segments 2, 2, 2. V^Rand = 12 / (12 / 2 + 20 / 2).
    # In bits H(T) = log2 3 - 2/3, H(S) = log2 3, and the segments determine the cells: I = H(T).
    result = scores(np.array([[1, 1, 1, 1, 2, 2]]), np.array([[1, 1, 3, 3, 5, 5]]))
    bits = math.log2(3)
    info = (bits - 2 / 3) / (bits - 1 / 3), (bits - 2 / 3) / bits, 1
    assert result == pytest.approx((3 / 4, 12 / 20, 1, *info), abs=1e-12)


def test_a_border_inside_a_cell_is_segments_of_one_pixel():
    # Cells 4, 2; segments 1, (1), (1), 1, 2: joint the same, squares 1 + 1 + 1 + 1 + 4 = 8.
    result = scores(np.array([[1, 1, 1, 1, 0, 2, 2]]), np.array([[1, 0, 0, 2, 0, 3, 3]]))
    assert result[:3] == pytest.approx((8 / (8 / 2 + 20 / 2), 8 / 20, 1), abs=1e-12)
    # H(S) = 4/6 log2 6 + 2/6 log2 3 bits = log2 3 + 2/3, I = H(T) = log2 3 - 2/3.
    bits = math.log2(3)
    info = (bits - 2 / 3) / bits, (bits - 2 / 3) / (bits + 2 / 3), 1
    assert result[3:] == pytest.approx(info, abs=1e-12)


def test_scores_are_nan_if_the_label_has_no_cell():
    empty = np.zeros((3, 4), np.uint8)
    assert all(math.isnan(value) for value in scores(empty, np.ones((3, 4), np.int32)))
    assert np.isnan(curve(empty, np.ones((3, 4), np.float32))).all()
    assert np.isnan(curve(np.full((3, 4), 255, np.uint8), np.ones((3, 4), np.float32))).all()


def test_one_cell():
    one = np.ones((2, 2), np.int32)
    assert scores(one, one) == (1, 1, 1, 1, 1, 1)  # V^Info is 0/0: no split or merge is possible
    # Split in halves: V^Rand = 8 / (8 / 2 + 16 / 2); I = 0 = H(T), H(S) = 1 bit.
    assert scores(one, np.array([[1, 1], [2, 2]])) == pytest.approx((2 / 3, 1 / 2, 1, 0, 0, 1))


@pytest.mark.parametrize("size", [2, 3, 7])
def test_segments_across_all_cells_have_no_information(size):
    rows, columns = np.indices((size, size)) + 1
    result = scores(rows, columns)  # every joint count is 1
    assert result[:3] == pytest.approx((1 / size,) * 3)
    assert result[3:] == pytest.approx((0,) * 3, abs=1e-12)
    assert min(result) >= 0  # rounding must not give a negative information


@given(images(st.integers(0, 3), 2))
@PROPERTY
def test_scores_equal_brute_force(pair):
    label, predicted = pair
    assume(label.any())
    result = scores(label, predicted)
    assert all(0 <= value <= 1 for value in result)
    assert all(type(value) is float for value in result)
    assert result == pytest.approx(brute_force(label, predicted), abs=1e-9)


@given(images(st.integers(0, 3), 2), st.permutations(range(1, 4)), st.integers(0, 3))
@PROPERTY
def test_scores_do_not_depend_on_numbering_and_orientation(pair, numbers, turns):
    label, predicted = pair
    assume(label.any())
    result = pytest.approx(scores(label, predicted), abs=1e-12)
    renumber = np.array([0, *(10 * n for n in numbers)])
    assert scores(renumber[label], predicted) == result
    assert scores(label, renumber[predicted]) == result
    assert scores(np.rot90(label, turns), np.rot90(predicted, turns)) == result
    assert scores(label[:, ::-1], predicted[:, ::-1]) == result


@given(images(st.integers(1, 3), 2))
@PROPERTY
def test_exchanging_label_and_prediction_exchanges_split_and_merge(pair):
    v_rand, rand_split, rand_merge, v_info, info_split, info_merge = scores(*pair)
    exchanged = v_rand, rand_merge, rand_split, v_info, info_merge, info_split
    assert scores(*reversed(pair)) == pytest.approx(exchanged, abs=1e-12)


def test_scores_agree_with_scikit_image():
    label = label_segments(made_cells(seed=1))
    predicted = label_segments(made_cells(seed=2))
    predicted[predicted == 0] = 99  # scikit-image treats the border as another segment
    result = scores(label, predicted)
    error, _, _ = skimage_metrics.adapted_rand_error(label, predicted)
    # scikit-image leaves out the pairs of a pixel with itself, one for each pixel.
    pixels = (label > 0).sum()
    cells = (np.bincount(label[label > 0]) ** 2).sum()
    segments = (np.bincount(predicted[label > 0]) ** 2).sum()
    same = (1 - error) * (cells + segments - 2 * pixels) / 2 + pixels
    assert result.v_rand == pytest.approx(2 * same / (cells + segments), abs=1e-12)
    assert result.v_rand == pytest.approx(1 - error, abs=0.01)
    # H(S|T) and H(T|S), in bits; I / H(S) = 1 - H(S|T) / H(S).
    s_given_t, t_given_s = skimage_metrics.variation_of_information(
        label, predicted, ignore_labels=[0]
    )
    p = np.bincount(predicted[label > 0]) / pixels
    entropy = -(p[p > 0] * np.log2(p[p > 0])).sum()
    information = entropy - s_given_t
    assert result.info_split == pytest.approx(information / entropy, abs=1e-12)
    assert result.info_merge == pytest.approx(information / (information + t_given_s), abs=1e-12)


@given(images(st.booleans()))
@PROPERTY
def test_thinning_keeps_every_segment_and_separates_neighbours(pair):
    (cell,) = pair
    assume(cell.any())
    segments = predicted_segments(cell)
    assert segments.dtype == np.int32
    components, count = ndimage.label(cell)
    assert set(np.unique(segments[segments > 0])) == set(range(1, count + 1))
    np.testing.assert_array_equal(segments[cell], components[cell])
    # A border pixel joins a nearest segment (city-block) or is the line between two.
    ys, xs = np.nonzero(cell)
    for y, x in zip(*np.nonzero(~cell), strict=True):
        distance = abs(ys - y) + abs(xs - x)
        nearest = set(components[cell][distance == distance.min()])
        assert segments[y, x] in {0, *nearest}
    for a, b in (segments[1:], segments[:-1]), (segments[:, 1:], segments[:, :-1]):
        assert ((a == b) | (a == 0) | (b == 0)).all()


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40), st.floats(0.2, 3))
@PROPERTY
def test_borders_are_thinned_by_the_nearest_cells_that_scipy_finds(seed, height, width, sigma):
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(height, width)), sigma)
    cell = noise > rng.choice([-0.5, 0, 0.5, 1.5]) * noise.std()
    assume(cell.any())
    components, count = ndimage.label(cell)
    distance, nearest = ndimage.distance_transform_cdt(~cell, "taxicab", return_indices=True)
    segments = components[tuple(nearest)]
    rank = distance.astype(np.int64) * (count + 1) + segments
    line = np.zeros(cell.shape, bool)
    for near, far in (np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:]):
        meet = segments[near] != segments[far]
        line[near] |= meet & (rank[near] > rank[far])
        line[far] |= meet & (rank[near] < rank[far])
    np.testing.assert_array_equal(predicted_segments(cell), np.where(line, 0, segments))


@given(images(st.sampled_from([0, 1, 255])))
@PROPERTY
def test_a_label_scores_1_against_itself(pair):
    (label,) = pair
    assume((label == 1).any())
    # The cells are unchanged; only membrane, which does not count, changes segment.
    assert score(label, label == 1) == pytest.approx((1,) * 6, abs=1e-12)
    assert score(label, label == 1).v_rand == 1


@pytest.mark.parametrize("width", range(1, 7))
def test_a_straight_border_is_thinned_to_its_centre_line(width):
    cell = np.ones((4, 8 + width), bool)
    cell[:, 4 : 4 + width] = False
    for segments in (predicted_segments(cell), predicted_segments(cell.T).T):
        columns = set(np.nonzero(segments == 0)[1])
        assert len(columns) == 1
        assert columns <= {4 + (width - 1) // 2, 4 + width // 2}
        assert (segments == 0).sum() == 4


def test_a_border_that_ends_disappears():
    cell = np.ones((7, 7), bool)
    cell[3, :4] = False
    assert (predicted_segments(cell) == 1).all()


def test_without_a_cell_a_prediction_is_one_segment():
    assert (predicted_segments(np.zeros((3, 4), bool)) == 1).all()


def test_thinning_agrees_with_a_watershed():
    label = made_cells()
    cell = thicker(label, 2)
    flooded = watershed(~cell, ndimage.label(cell)[0], connectivity=1, watershed_line=True)
    segments = predicted_segments(cell)
    both = (segments > 0) & (flooded > 0)
    np.testing.assert_array_equal(segments[both], flooded[both])
    # The lines have equal lengths and are nowhere more than one pixel apart.
    assert (segments == 0).sum() == pytest.approx((flooded == 0).sum(), rel=0.05)
    block = np.ones((3, 3))
    assert ndimage.binary_dilation(flooded == 0, block)[segments == 0].all()
    assert ndimage.binary_dilation(segments == 0, block)[flooded == 0].all()
    cells = label_segments(label)
    np.testing.assert_allclose(scores(cells, segments), scores(cells, flooded), atol=3e-3)


def test_the_thickness_of_a_membrane_hardly_changes_the_scores():
    label = made_cells()
    assert min(score(label, thicker(label, 2))) > 0.97
    unthinned = scores(label_segments(label), ndimage.label(thicker(label, 2))[0])
    assert unthinned.v_rand < 0.8
    assert unthinned.v_info < 0.8


def test_a_gap_of_one_pixel_merges_two_cells():
    label = np.ones((8, 17), np.uint8)
    label[:, 8] = 0
    probability = label.astype(np.float32)
    assert curve(label, probability, [0.5]).tolist() == [[1, 1]]
    probability[3, 8] = 1
    # As in the first test: two cells of 64 pixels in one segment.
    np.testing.assert_allclose(curve(label, probability, [0.5]), [[2 / 3, 0]], atol=1e-12)


def test_thresholds_are_the_challenge_s():
    np.testing.assert_allclose(THRESHOLDS, np.linspace(0, 1, 11), atol=1e-15)
    assert 0.5 in THRESHOLDS
    assert THRESHOLDS[-1] < 1


def test_a_cell_is_above_the_threshold_not_at_it():
    label = np.array([[1, 1, 0, 1, 1]], np.uint8)
    probability = np.array([[1, 1, 0.5, 1, 1]], np.float32)
    rand = curve(label, probability)[:, 0]
    assert rand.shape == (11,)
    np.testing.assert_allclose(rand, [2 / 3] * 5 + [1] * 6)  # at 0.5 the gap closes
    # float32 0.1 lies above 0.1; a probability of 1 is cell at every threshold.
    probability[0, 2] = 0.1
    np.testing.assert_allclose(curve(label, probability)[:, 0], [2 / 3] * 2 + [1] * 9)


def test_predictions_for_ignored_pixels_have_no_effect():
    rng = np.random.default_rng(0)
    label = made_cells(size=48, seeds=12)
    probability = np.clip(ndimage.gaussian_filter(label.astype(float), 1.5), 0, 1)
    probability = (probability + rng.normal(0, 0.1, label.shape)).astype(np.float32)
    expected = curve(label, probability)
    assert expected.shape == (11, 2)
    assert expected.dtype == np.float64
    assert np.ptp(expected[:, 0]) > 0.2
    # Padding with ignored pixels and any prediction.
    padded = np.pad(label, 5, constant_values=255)
    for value in (0, 1):
        guess = np.pad(probability, 5, constant_values=value)
        np.testing.assert_array_equal(curve(padded, guess), expected)
    # A hole of ignored pixels with any prediction; its pixels do not count.
    label[20:30, 10:40] = 255
    expected = curve(label, probability)
    for value in (0, 1):
        guess = np.where(label == 255, np.float32(value), probability)
        np.testing.assert_array_equal(curve(label, guess), expected)
    by_hand = scores(np.array([[1, 1, 0, 0]]), np.array([[1, 1, 2, 2]]))
    ignored = curve(np.array([[1, 1, 255, 255]], np.uint8), np.ones((1, 4), np.float32), [0.5])
    assert ignored.tolist() == [[by_hand.v_rand, by_hand.v_info]]


def test_best_is_the_maximum_of_the_mean():
    # Means 0.4, 0.5 and 0.6, 0.5: each has its own threshold; it is not the mean of the slices'
    # maxima (0.63 and 0.7).
    slices = [[[0.1, 0.9], [0.8, 0.3]], [[0.7, 0.6], [0.4, 0.6]], [[0.4, 0.3], [0.3, 0.6]]]
    assert best(np.array(slices)) == pytest.approx((0.5, 0.6))
    without_cells = [[math.nan, math.nan]] * 2
    assert best(np.array([*slices, without_cells])) == pytest.approx((0.5, 0.6))
    assert all(math.isnan(value) for value in best(np.array([without_cells])))


@pytest.mark.slow
def test_real_labels(real_data):
    labels = (read_tiff(real_data / "isbi" / "train-labels.tif")[::10] > 0).astype(np.uint8)
    rng = np.random.default_rng(0)
    for label in labels:
        assert score(label, label == 1) == pytest.approx((1,) * 6, abs=1e-12)
        assert min(score(label, thicker(label, 1))) > 0.995
        assert min(score(label, thicker(label, 2))) > 0.99
        thick = thicker(label, 2)
        flooded = watershed(~thick, ndimage.label(thick)[0], connectivity=1, watershed_line=True)
        expected = scores(label_segments(label), flooded)
        np.testing.assert_allclose(score(label, thick), expected, atol=3e-4)
        ys, xs = np.nonzero(label == 0)
        punched = label == 1
        for k in rng.integers(0, len(ys), 10):
            punched[max(ys[k] - 5, 0) : ys[k] + 6, max(xs[k] - 5, 0) : xs[k] + 6] = True
        result = score(label, punched)
        assert max(result.v_rand, result.rand_merge, result.info_merge) < 0.98
        assert min(result.rand_split, result.info_split) > 0.999
