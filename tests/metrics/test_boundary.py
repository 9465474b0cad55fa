"""Boundary metrics against DeepMind's surface-distance, brute force and cases worked by hand."""

import math

import cv2
import numpy as np
import pytest
import surface_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from unet_jax.metrics import boundary
from unet_jax.metrics.registry import METRICS, Masks, Pixels, Task, class_values, metrics_of

KEYS = ("hd95", "hd", "assd", "nsd", "boundary_iou")
TASK = Task(2, groups=("boundary",))


def measured(label, prediction, task=TASK, spacing=None, of_class=1) -> dict[str, float]:
    """The boundary metrics of a class; labels and predictions are class ids, 255 is ignored."""
    arrays = [np.asarray(mask, np.uint8) for mask in (label, prediction)]
    pixels = Pixels(*arrays, np.zeros(arrays[0].shape, np.float32), spacing)
    metrics = [metric for metric in metrics_of(task) if metric.group == "boundary"]
    return {key: of[of_class] for key, of in class_values(pixels, task, metrics).items()}


def square(shape, top, left, side=1):
    mask = np.zeros(shape, np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


@st.composite
def pairs_of_masks(draw, ignored=False):
    """Two masks: blobs or noise, sparse or dense, sometimes empty or full, and what is ignored."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    masks = []
    for _ in range(2):
        noise = rng.random(shape)
        if draw(st.booleans()):
            noise = ndimage.uniform_filter(noise, 5)
        masks.append(noise <= np.quantile(noise, draw(st.sampled_from([0.05, 0.3, 0.8, 1]))))
        masks[-1] &= draw(st.integers(0, 19)) > 0
    share = draw(st.sampled_from([0.02, 0.2, 0.5])) if ignored else 0
    return masks[0], masks[1], rng.random(shape) >= share


def reference(label, prediction, spacing=(1, 1), tolerance=2.0) -> dict[str, float]:
    """By surface-distance; neither mask is empty."""
    found = surface_distance.compute_surface_distances(label, prediction, spacing)
    distances = [found["distances_gt_to_pred"], found["distances_pred_to_gt"]]
    lengths = [found["surfel_areas_gt"], found["surfel_areas_pred"]]
    return {
        "hd95": surface_distance.compute_robust_hausdorff(found, 95),
        "hd": max(map(max, distances)),
        "assd": np.average(np.concatenate(distances), weights=np.concatenate(lengths)),
        "nsd": surface_distance.compute_surface_dice_at_tolerance(found, tolerance),
    }


def of_empty_masks(label, prediction, diagonal) -> dict[str, float]:
    wrong = label.any() or prediction.any()
    distances = dict.fromkeys(("hd95", "hd", "assd"), diagonal if wrong else 0)
    return distances | dict.fromkeys(("nsd", "boundary_iou"), 0 if wrong else 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@settings(max_examples=200, deadline=None, derandomize=True)
@given(pairs_of_masks())
def test_distances_are_those_of_surface_distance(pair):
    label, prediction, _ = pair
    found = measured(label, prediction)
    if label.any() and prediction.any():
        expected = reference(label, prediction)
        assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-6)
    else:
        assert found == of_empty_masks(label, prediction, math.hypot(*label.shape))


def brute_force(label, prediction, counted, spacing=(1, 1), tolerance=2.0) -> dict[str, float]:
    """The definitions, corner by corner and pair of points by pair of points."""
    height, width = label.shape

    def around(i, j):
        """The pixels at a corner that are in the image."""
        return [
            (y, x) for y in (i - 1, i) for x in (j - 1, j) if 0 <= y < height and 0 <= x < width
        ]

    def contour(mask):
        points, lengths = [], []
        for i, j in np.ndindex(height + 1, width + 1):
            pixels = around(i, j)
            inside = {(y - i + 1, x - j + 1) for y, x in pixels if mask[y, x]}
            if not all(counted[pixel] for pixel in pixels) or len(inside) in (0, 4):
                continue
            diagonal = math.hypot(*spacing) / 2
            if len(inside) == 2:
                (a, b), (c, d) = sorted(inside)
                straight = spacing[1] if a == c else spacing[0]
                lengths.append(straight if a == c or b == d else 2 * diagonal)
            else:
                lengths.append(diagonal)
            points.append((i * spacing[0], j * spacing[1]))
        return np.array(points).reshape(-1, 2), np.array(lengths)

    (points, lengths), (others, other_lengths) = contour(label), contour(prediction)
    if not len(points):
        return dict.fromkeys(("hd95", "hd", "assd", "nsd"), math.nan)
    if not len(others):
        diagonal = math.hypot(height * spacing[0], width * spacing[1])
        return dict.fromkeys(("hd95", "hd", "assd"), diagonal) | {"nsd": 0.0}
    pairs = np.sqrt(((points[:, None] - others[None]) ** 2).sum(-1))
    distances = [pairs.min(1), pairs.min(0)]
    percentiles = []
    for near, weight in zip(distances, (lengths, other_lengths), strict=True):
        within = [weight[near <= d + 1e-9].sum() / weight.sum() for d in np.sort(near)]
        percentiles.append(np.sort(near)[np.array(within) >= 0.95 - 1e-9][0])
    every, weights = np.concatenate(distances), np.concatenate([lengths, other_lengths])
    return {
        "hd95": max(percentiles),
        "hd": every.max(),
        "assd": np.average(every, weights=weights),
        "nsd": weights[every <= tolerance + 1e-9].sum() / weights.sum(),
    }


@settings(max_examples=100, deadline=None, derandomize=True)
@given(pairs_of_masks(ignored=True), st.sampled_from([(1.0, 1.0), (0.5, 0.5), (0.75, 2.0)]))
def test_ignored_pixels_hide_contours(pair, spacing):
    label, prediction, counted = pair
    task = Task(2, groups=("boundary",), length_unit="um")
    found = measured(np.where(counted, label, 255), prediction, task, spacing)
    label, prediction = label & counted, prediction & counted
    if not counted.any():
        assert all(map(math.isnan, found.values()))
    elif not (label.any() and prediction.any()):
        assert {k: found[k] for k in KEYS} == of_empty_masks(
            label, prediction, math.hypot(*label.shape)
        )
    else:
        expected = brute_force(label, prediction, counted)
        assert {k: found[k] for k in expected} == pytest.approx(expected, abs=1e-6, nan_ok=True)
        physical = brute_force(label, prediction, counted, spacing)
        for key in ("hd95", "hd", "assd"):
            assert found[f"{key}_um"] == pytest.approx(physical[key], abs=1e-6, nan_ok=True)


def cheng(label, prediction) -> float:
    """Boundary IoU by the steps of the authors' code (boundary_iou/utils/boundary_utils.py)."""
    boundaries = []
    for mask in (label, prediction):
        height, width = mask.shape
        dilation = max(1, round(0.02 * np.sqrt(height**2 + width**2)))
        padded = cv2.copyMakeBorder(mask.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=dilation)
        boundaries.append((mask.view(np.uint8) - eroded[1:-1, 1:-1]) > 0)
    return (boundaries[0] & boundaries[1]).sum() / (boundaries[0] | boundaries[1]).sum()


@pytest.mark.parametrize("seed", range(40))
def test_boundary_iou_is_that_of_its_authors(seed):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 150, 2)
    noise = ndimage.gaussian_filter(rng.random((2, *shape)), (0, 4, 4))
    label, prediction = noise <= np.quantile(noise, rng.choice([0.2, 0.6, 1]))
    if label.any() and prediction.any():
        expected = cheng(label, prediction)
        assert measured(label, prediction)["boundary_iou"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_boundary_iou_does_not_erode_from_ignored_pixels(seed):
    rng = np.random.default_rng(seed)
    label, prediction = ndimage.uniform_filter(rng.random((2, 60, 70)), (0, 9, 9)) < 0.5
    counted = ndimage.uniform_filter(rng.random((60, 70)), 7) < 0.52
    width = round(0.02 * math.hypot(60, 70))
    near = []
    for mask in (label & counted, prediction & counted):
        outside = np.pad(counted & ~mask, 1, constant_values=False)
        outside[[0, -1], 1:-1], outside[1:-1, [0, -1]] = counted[[0, -1]], counted[:, [0, -1]]
        outside[np.ix_([0, -1], [0, -1])] = counted[np.ix_([0, -1], [0, -1])]
        distance = ndimage.distance_transform_cdt(~outside, "chessboard")[1:-1, 1:-1]
        near.append(mask & (distance <= width))
    expected = (near[0] & near[1]).sum() / (near[0] | near[1]).sum()
    assert measured(np.where(counted, label, 255), prediction)["boundary_iou"] == expected


def test_two_pixels_by_hand():
    """Each contour has four corners of length sqrt(1/2), at distances 3, 3, 4 and 4."""
    found = measured(square((10, 20), 4, 2), square((10, 20), 4, 6))
    assert found["hd95"] == found["hd"] == 4
    assert found["assd"] == pytest.approx(3.5)
    assert found["nsd"] == found["boundary_iou"] == 0
    wide = measured(
        square((10, 20), 4, 2),
        square((10, 20), 4, 6),
        Task(2, groups=("boundary",), nsd_pixels=(3.0,)),
    )
    assert wide["nsd"] == pytest.approx(0.5)


def test_a_wider_mask_by_hand():
    """A square of 4 in one of 6, both centred: the corners of the larger are sqrt(2) away."""
    found = measured(square((20, 20), 8, 8, 4), square((20, 20), 7, 7, 6))
    corner, side = math.sqrt(0.5), 1.0
    outer, inner = 4 * corner + 20 * side, 4 * corner + 12 * side
    assert found["hd"] == pytest.approx(math.sqrt(2))
    # Without the four corners, 20 / 22.8 = 88% of the outer contour's length is within 1 pixel.
    assert found["hd95"] == pytest.approx(math.sqrt(2))
    assert found["assd"] == pytest.approx(
        (20 + 4 * corner * math.sqrt(2) + inner) / (outer + inner)
    )
    assert found["nsd"] == 1
    # The boundary is 1 pixel wide: rings of 12 and of 20 pixels that do not meet.
    assert found["boundary_iou"] == 0


def test_the_edge_of_the_image_is_a_border_unless_it_is_ignored():
    full = np.ones((6, 8), np.uint8)
    smaller = full.copy()
    smaller[:, 5:] = 0
    found = measured(full, smaller)
    assert found["hd"] == 3 and found["hd95"] == 3
    # Rings of 24 and of 18 pixels, 14 of which are in both.
    assert found["boundary_iou"] == pytest.approx(14 / 28)
    label = np.pad(full, 1, constant_values=255)
    assert all(map(math.isnan, measured(label, np.pad(smaller, 1)).values()))
    known = np.pad(smaller, 1, constant_values=255)
    missed = measured(known, np.ones_like(known))  # the contour is where the image is ignored
    assert [missed[key] for key in KEYS] == [*[math.hypot(8, 10)] * 3, 0, 0]


def test_a_border_towards_ignored_pixels_is_none():
    label = square((9, 12), 3, 2, 3)
    prediction = square((9, 12), 3, 2, 3)
    prediction[3:6, 5:7] = 1  # two columns too wide
    assert measured(label, prediction)["hd"] == 2
    label[3:6, 5:12] = 255  # it is unknown where the object ends
    found = measured(label, prediction)
    assert found["hd"] == found["assd"] == 0 and found["nsd"] == found["boundary_iou"] == 1


@pytest.mark.parametrize("counts", [(0, 0), (0, 1), (1, 0)])
def test_empty_masks(counts):
    label, prediction = (square((3, 4), 1, 1) * count for count in counts)
    found = measured(label, prediction)
    perfect = counts == (0, 0)
    assert [found[key] for key in KEYS] == [*[0 if perfect else 5] * 3, *[float(perfect)] * 2]


def test_each_class_of_many_has_its_tolerance():
    label = square((12, 12), 2, 2, 3) + 2 * square((12, 12), 7, 7, 3)
    task = Task(4, groups=("boundary",), nsd_pixels=(0.5, 1.0, 0.5, 2.0))
    found = [measured(label, np.roll(label, 1, 1), task, of_class=k) for k in range(4)]
    assert [of["hd"] for of in found[:3]] == [1, 1, 1]
    assert found[1]["nsd"] == 1 and found[0]["nsd"] < 1 and found[2]["nsd"] < 1
    assert all(map(math.isnan, found[3].values()))
    one = measured(label, np.roll(label, 1, 1), Task(4, groups=("boundary",)), of_class=2)
    assert one["nsd"] == 1


@pytest.mark.parametrize(("unit", "label"), [("nm", "nm"), ("um", "µm"), ("mm", "mm"), ("m", "m")])
def test_distances_have_the_physical_unit_of_the_images(unit, label):
    task = Task(2, groups=("boundary",), length_unit=unit)
    found = measured(square((10, 20), 4, 2), square((10, 20), 4, 6), task, (3.0, 0.5))
    assert found[f"hd95_{unit}"] == found[f"hd_{unit}"] == 2
    assert found[f"assd_{unit}"] == pytest.approx(1.75) and found["hd"] == 4
    assert METRICS[f"assd_{unit}"].title == f"ASSD, {label}"
    empty = measured(square((30, 80), 0, 0), np.zeros((30, 80)), task, (1.0, 0.5))
    assert empty[f"hd_{unit}"] == 50
    assert not any(key.endswith(f"_{unit}") for key in measured(np.eye(3), np.eye(3)))


@pytest.mark.parametrize("shape", [(1500, 40), (40, 1500), (200, 300)])
def test_distances_are_exact_at_any_size(shape):
    rng = np.random.default_rng(0)
    points, others = rng.random(shape) < 0.1, rng.random(shape) < 0.0005
    others[0, 0] = True
    exact = ndimage.distance_transform_edt(~others)[points]
    np.testing.assert_allclose(boundary._distances(points, others, (1.0, 1.0)), exact, rtol=1e-15)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4)), min_size=1, max_size=20),
    st.sampled_from([1, 19, 20, 100]),
    st.sampled_from([50, 75, 95, 100]),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_percentile_is_the_smallest_distance_within_which_that_share_lies(points, times, percent):
    """Also where exactly that share of the length lies within a distance."""
    points = sorted([*points, *[(0, 1)] * times])
    total = sum(length for _, length in points)
    expected = min(
        reach
        for reach, _ in points
        if 100 * sum(length for distance, length in points if distance <= reach) >= percent * total
    )
    contour = boundary.Contour(*np.array(points, np.float64).T)
    assert contour.percentile(percent) == expected


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 60),
    st.integers(1, 60),
    st.sampled_from([0.0005, 0.01, 0.2, 0.9]),
    st.sampled_from([0, 10, 10**6]),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_near_and_far_points_have_their_exact_distance(seed, height, width, share, few):
    """Few far points are searched for one by one, more of them have a distance transform."""
    rng = np.random.default_rng(seed)
    points, others = rng.random((2, height, width)) < share
    others[rng.integers(height), rng.integers(width)] = True
    exact = ndimage.distance_transform_edt(~others)[points]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boundary, "FEW", few)
        found = boundary._distances(points, others, (1.0, 1.0))
    np.testing.assert_array_equal(found, exact)


def test_metrics_share_the_distances_of_a_mask(monkeypatch):
    found = []
    transform = boundary._distances
    monkeypatch.setattr(boundary, "_distances", lambda *args: found.append(1) or transform(*args))
    measured(square((9, 9), 1, 1, 3), square((9, 9), 2, 2, 3))
    assert len(found) == 2


def test_masks_of_one_object_are_measured_once_each():
    """The cache is by identity, so that a later image of equal size is not taken for it."""
    for left in (2, 3, 4):
        masks = Masks(
            square((9, 9), 1, 1).astype(bool),
            square((9, 9), 1, left).astype(bool),
            np.ones((9, 9), bool),
            1,
            TASK,
        )
        assert METRICS["hd"].of_masks(masks) == left - 1
