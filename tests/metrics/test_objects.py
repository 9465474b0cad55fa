"""Metrics of objects: hand-worked cases, and a brute force over all pairs of objects."""

import collections
import itertools
import math

import numpy as np
import pytest
import scipy
from made_masks import random_pair
from skimage.measure import label as number_components

from unet_jax.metrics.objects import match
from unet_jax.metrics.partition import find_objects, grow, shared_pixels, without_small
from unet_jax.metrics.registry import Pixels, Task, class_values, metrics_of

KEYS = ["ap50", "ap75", "ap", "pq", "sq", "rq", "count_error"]
TASK = Task(2, groups=("objects",))


def values(
    truth: np.ndarray,
    prediction: np.ndarray,
    instances: np.ndarray | None = None,
    task: Task = TASK,
    index: int = 1,
) -> dict[str, float]:
    """The metrics of the group for one class."""
    pixels = Pixels(
        np.asarray(truth, np.uint8),
        np.asarray(prediction, np.uint8),
        np.zeros(np.shape(truth), np.float32),
        instances=None if instances is None else np.asarray(instances, np.int32),
    )
    metrics = [metric for metric in metrics_of(task) if metric.group == "objects"]
    return {key: of[index] for key, of in class_values(pixels, task, metrics).items()}


def row(*runs: tuple[int, int]) -> np.ndarray:
    """A mask of one row: lengths and values of its runs."""
    return np.concatenate([np.full(length, value) for length, value in runs])[None]


@pytest.mark.parametrize("most", [3, 10**9])  # ids for which a table of all pairs is small or huge
def test_shared_pixels_are_counted_for_each_pair(most):
    rng = np.random.default_rng(0)
    ids = np.concatenate([[0], rng.integers(0, most, 4)])
    for size in ((7, 9), (1, 1), (0, 5)):
        one, other = (ids[rng.integers(0, 5, size)].astype(np.int32) for _ in range(2))
        expected = collections.Counter(
            zip(one.ravel().tolist(), other.ravel().tolist(), strict=True)
        )
        found = zip(*(x.tolist() for x in shared_pixels(one, other)), strict=True)
        assert [*found] == [(*pair, expected[pair]) for pair in sorted(expected)]


def test_a_class_that_the_ids_do_not_number_has_components():
    """Class 1 is debris, class 2 is cells that touch and are numbered."""
    truth, ids = row((3, 1), (2, 0), (4, 1), (6, 2)), row((9, 0), (3, 5), (3, 9))
    task = Task(3, groups=("objects",))
    debris, cells = (values(truth, truth, ids, task, k) for k in (1, 2))
    assert debris == dict.fromkeys(KEYS, 1) | {"count_error": 0}
    assert cells["count_error"] == 1  # the prediction has one component


def test_hand_worked():
    # Labelled: 10, 4 and 2 pixels. Predicted: 8 of the 10, 4 that share 2 of the 4 and 2 beyond.
    truth = row((10, 1), (5, 0), (4, 1), (5, 0), (2, 1))
    found = row((8, 1), (9, 0), (4, 1), (5, 0))
    # IoU 8/10 and 2/6: one match up to 0.75, none from 0.8 on (8/10 is not above it).
    assert values(truth, found) == pytest.approx(
        {
            "ap50": 1 / 4,
            "ap75": 1 / 4,
            "ap": 6 * (1 / 4) / 10,
            "pq": 0.8 * 2 / 5,
            "sq": 0.8,
            "rq": 2 / 5,
            "count_error": 1,
        }
    )


def test_an_overlap_of_exactly_a_half_is_no_match():
    assert values(row((4, 1), (2, 0)), row((2, 1), (4, 0)))["ap50"] == 0
    assert values(row((4, 1), (2, 0)), row((3, 1), (3, 0)))["ap75"] == 0
    assert values(row((4, 1), (2, 0)), row((3, 1), (3, 0)))["ap50"] == 1


def test_images_without_objects():
    empty, one = row((5, 0)), row((2, 1), (3, 0))
    assert values(empty, empty) == dict.fromkeys(KEYS, 1) | {"count_error": 0}
    for truth, found in ((empty, one), (one, empty)):
        missed = values(truth, found)
        assert math.isnan(missed.pop("sq"))
        assert missed == dict.fromkeys(missed, 0) | {"count_error": 1}


def test_instance_ids_separate_touching_objects():
    truth, ids = row((8, 1)), row((4, 7), (4, 3))
    assert values(truth, truth)["ap"] == 1  # without ids they are one
    joined = values(truth, truth, ids)
    assert (joined["ap50"], joined["rq"], joined["count_error"]) == (0, 0, 1)
    assert values(truth, row((4, 1), (1, 0), (3, 1)), ids)["sq"] == (1 + 3 / 4) / 2


def test_components_touch_at_corners():
    corners = np.eye(3)
    assert find_objects(corners > 0, "components").max() == 1


def test_ignored_pixels_are_void():
    truth = row((4, 1), (2, 0), (6, 255), (2, 0))
    # Half of the first object is ignored: it counts by its other pixels. Most of the second is
    # ignored: it is no error.
    found = row((4, 1), (4, 0), (5, 1), (1, 0))
    assert values(truth, found)["ap"] == 1
    beside = row((4, 1), (3, 0), (1, 0), (4, 1), (2, 1))
    assert values(truth, beside)["count_error"] == 0  # 4 of 6 pixels are ignored
    outside = row((4, 1), (2, 0), (4, 0), (2, 1), (2, 1))
    assert values(truth, outside)["count_error"] == 1  # 2 of 4 pixels are


def test_a_predicted_object_matches_by_the_pixels_that_count():
    truth = row((1, 1), (9, 255))
    assert values(truth, row((10, 1)))["pq"] == 1


def test_small_objects_are_left_out_on_both_sides():
    truth, found = row((4, 1), (1, 0), (2, 1), (1, 0), (1, 0)), row((4, 1), (4, 0), (1, 1))
    all_ = values(truth, found)
    assert all_["count_error"] == 0 and all_["ap"] == pytest.approx(1 / 3)
    two = values(truth, found, task=Task(2, groups=("objects",), min_object_pixels=2))
    three = values(truth, found, task=Task(2, groups=("objects",), min_object_pixels=3))
    assert (two["ap"], two["count_error"], three["ap"]) == (1 / 2, 1, 1)
    np.testing.assert_array_equal(
        without_small(row((1, 5), (2, 0), (3, 2)), 2), row((3, 0), (3, 1))
    )


def test_each_class_of_many_has_objects():
    truth = row((2, 0), (2, 1), (2, 2), (2, 0))
    found = row((2, 0), (2, 1), (2, 0), (2, 2))
    three = Task(3, groups=("objects",))
    assert [values(truth, found, task=three, index=k)["ap50"] for k in range(3)] == [1 / 3, 1, 0]
    ids = row((2, 0), (2, 1), (2, 2), (2, 0))
    of_ids = [values(truth, found, ids, three, k)["ap"] for k in range(3)]
    assert math.isnan(of_ids[0]) and of_ids[1:] == [1, 0]


def test_objects_with_a_border_grow_into_it():
    task = Task(3, groups=("objects",), border=2)
    truth = row((1, 0), (1, 2), (2, 1), (2, 2), (2, 1), (1, 2), (1, 0))
    ids = row((1, 0), (4, 1), (4, 2), (1, 0))
    assert values(truth, truth, ids, task)["ap"] == 1
    assert math.isnan(values(truth, truth, ids, task, 2)["ap"])
    # A border without an interior beside it is no object.
    far = row((1, 2), (1, 0), (2, 1), (2, 2), (2, 1), (1, 2), (1, 0))
    assert values(truth, far, ids, task)["count_error"] == 0
    np.testing.assert_array_equal(
        grow(row((1, 1), (4, 0), (1, 2), (2, 0)), row((7, 1), (1, 0)) > 0),
        row((3, 1), (4, 2), (1, 0)),
    )


def discs(*centres: tuple[float, float], radius: float = 10) -> np.ndarray:
    rows, columns = np.mgrid[:30, :70]
    return np.any([np.hypot(rows - y, columns - x) < radius for y, x in centres], axis=0)


@pytest.mark.parametrize(("half", "objects"), [(1, 2), (2, 1), (3, 1)])
def test_a_neck_of_exactly_three_quarters_divides_nothing(half, objects):
    """The blocks have a half-width of 4 pixels, and the neck between them one of half + 1."""
    mask = np.zeros((11, 33), bool)
    mask[2:9, 2:11] = mask[2:9, 22:31] = True
    mask[5 - half : 6 + half, 8:25] = True
    assert find_objects(mask, "watershed").max() == objects


@pytest.mark.parametrize(("distance", "count"), [(8, 1), (12, 1), (16, 2), (19, 2), (25, 2)])
def test_the_watershed_divides_components_at_narrow_necks(distance, count):
    """Two discs of radius 10 have a neck of sqrt(100 - distance^2 / 4) pixels: 7.5 at 13.2."""
    mask = discs((14, 15), (14, 15 + distance))
    objects = find_objects(mask, "watershed")
    assert objects.max() == count and ((objects > 0) == mask).all()
    assert find_objects(mask, "components").max() == 1 + (distance > 20)


def test_the_watershed_of_any_mask_refines_its_components():
    for seed in range(40):
        mask = random_pair(seed)[1] > 0
        components, parts = (find_objects(mask, rule) for rule in ("components", "watershed"))
        assert ((parts > 0) == mask).all()
        assert {*np.unique(parts)} | {0} == {*range(parts.max() + 1)}
        pairs = np.unique(np.stack([parts[mask], components[mask]]), axis=1)
        assert pairs.shape[1] == parts.max() >= components.max()


def test_the_watershed_option_holds_for_label_and_prediction():
    truth = discs((14, 15), (14, 33)).astype(np.uint8)
    found = discs((14, 15)).astype(np.uint8)
    task = Task(2, groups=("objects",), objects="watershed")
    assert values(truth, found)["count_error"] == 0
    assert values(truth, found, task=task)["count_error"] == 1
    assert values(truth, truth, task=task)["ap"] == 1


def brute_force(labelled: np.ndarray, predicted: np.ndarray, counted: np.ndarray) -> dict:
    """The metrics from the IoU of all pairs, matched so that the sum of the IoUs is largest."""
    ours = [labelled == i for i in np.unique(labelled[labelled > 0])]
    theirs = [predicted == i for i in np.unique(predicted[predicted > 0])]
    iou = np.zeros((len(ours), len(theirs)))
    for (i, a), (j, b) in itertools.product(enumerate(ours), enumerate(theirs)):
        iou[i, j] = (a & b & counted).sum() / ((a | b) & counted).sum()
    void = [(b & ~counted).sum() > b.sum() / 2 for b in theirs]
    counts = [j for j in range(len(theirs)) if not void[j] or (iou[:, j] > 0.5).any()]

    def matched(threshold: float) -> list[float]:
        allowed = np.where(iou > threshold + 1e-9, iou, 0)
        rows, columns = scipy.optimize.linear_sum_assignment(allowed, maximize=True)
        return [x for x in allowed[rows, columns] if x]

    def precision(threshold: float) -> float:
        hits = len(matched(threshold))
        total = len(ours) + len(counts) - hits
        return hits / total if total else 1.0

    half, objects = matched(0.5), len(ours) + len(counts)
    quality = np.mean(half) if half else math.nan if objects else 1.0
    recognition = 2 * len(half) / objects if objects else 1.0
    return {
        "ap50": precision(0.5),
        "ap75": precision(0.75),
        "ap": np.mean([precision(x) for x in np.arange(0.5, 0.96, 0.05)]),
        "pq": quality * recognition if recognition else 0.0,
        "sq": quality,
        "rq": recognition,
        "count_error": abs(len(ours) - len(counts)),
    }


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_random_masks_agree_with_a_brute_force(first):
    for seed in range(first, first + 20):
        truth, prediction = random_pair(seed)
        counted, ids = truth != 255, None
        if seed % 3 == 0:  # ids that touch and that have gaps
            rows, columns = (np.arange(side) for side in truth.shape)
            ids = np.where(truth == 1, 1 + 3 * np.add.outer(rows // 5, columns // 7 * 100), 0)
        labelled = number_components(truth == 1, connectivity=2) if ids is None else ids
        predicted = number_components(prediction == 1, connectivity=2)
        expected = brute_force(labelled, predicted, counted)
        if not counted.any():
            expected = dict.fromkeys(expected, math.nan)
        found = values(truth, prediction, ids)
        assert found == pytest.approx(expected, abs=1e-6, nan_ok=True), seed


def test_no_objects_at_all():
    nothing = np.zeros((2, 3), np.int32)
    assert match(nothing, nothing, nothing > 0).average_precision(10) == 1
