"""clDice and Betti errors: hand-worked cases, and scikit-image as an independent reference."""

import dataclasses
import math

import numpy as np
import pytest
import scipy
from made_masks import drawn, random_pair
from skimage.measure import euler_number, label
from skimage.morphology import skeletonize

from unet_jax.metrics import topology
from unet_jax.metrics.registry import Pixels, Task, class_values, metrics_of

TASK = Task(2, groups=("topology",))


def values(truth: np.ndarray, prediction: np.ndarray, task: Task = TASK) -> dict[str, list[float]]:
    """The metrics of the group, each with a value for each class."""
    pixels = Pixels(truth, prediction, np.zeros(truth.shape, np.float32))
    metrics = [metric for metric in metrics_of(task) if metric.group == "topology"]
    return class_values(pixels, task, metrics)


def of_foreground(truth: np.ndarray, prediction: np.ndarray) -> list[float]:
    found = values(truth.astype(np.uint8), prediction.astype(np.uint8))
    return [found[key][1] for key in ("cldice", "betti0_error", "betti1_error")]


def test_a_gap_in_a_line_is_a_component_more_and_lowers_only_sensitivity():
    line = drawn(".......", "#######", ".......")
    gap = drawn(".......", "###.###", ".......")
    # All 6 pixels of the prediction lie on the line, and 6 of its 7 pixels are found.
    assert of_foreground(line, gap) == [pytest.approx(2 * (6 / 7) / (13 / 7)), 1, 0]


def test_a_filled_ring_is_a_hole_less():
    ring = drawn(".....", ".###.", ".#.#.", ".###.", ".....")
    disc = drawn(".....", ".###.", ".###.", ".###.", ".....")
    assert of_foreground(ring, disc)[1:] == [0, 1]


def test_corners_connect_the_foreground_but_not_the_background():
    diamond = drawn(".....", "..#..", ".#.#.", "..#..", ".....")
    assert topology.betti_numbers(diamond) == (1, 1)
    assert topology.betti_numbers(drawn("..#", ".#.", "#..")) == (1, 0)


def test_a_hole_does_not_reach_the_edge_of_the_image():
    assert topology.betti_numbers(drawn("###", "#.#", "#.#")) == (1, 0)
    assert topology.betti_numbers(drawn("###", "#.#", "###")) == (1, 1)
    assert topology.betti_numbers(np.ones((3, 3), bool)) == (1, 0)


def test_empty_masks_agree_and_one_empty_mask_is_no_agreement():
    empty, line = np.zeros((3, 7), bool), drawn(".......", "#######", ".......")
    assert of_foreground(empty, empty) == [1, 0, 0]
    assert of_foreground(empty, line) == of_foreground(line, empty) == [0, 1, 0]


def test_the_label_is_thinned_once_for_predictions_at_several_thresholds(monkeypatch):
    thinned, skeleton = [], topology.skeleton
    monkeypatch.setattr(topology, "skeleton", lambda mask: thinned.append(mask) or skeleton(mask))
    rng = np.random.default_rng(0)
    truth, metrics = (rng.random((9, 9)) < 0.5).astype(np.uint8), metrics_of(TASK)
    pixels = Pixels(truth, truth, rng.random((9, 9)).astype(np.float32))
    for threshold in (0.2, 0.5, 0.7):
        decided = (pixels.probability > threshold).astype(np.uint8)
        found = class_values(dataclasses.replace(pixels, prediction=decided), TASK, metrics)
        expected = values(truth, decided)
        assert {key: of[1] for key, of in found.items()} == {k: v[1] for k, v in expected.items()}
    assert len(thinned) == 3 * 2 + 4


def test_an_ignored_area_cuts_label_and_prediction_alike():
    truth = np.array([[0] * 9, [1, 1, 1, 255, 255, 255, 1, 1, 1], [0] * 9], np.uint8)
    for ignored in (0, 1):
        prediction = np.where(truth == 255, ignored, truth).astype(np.uint8)
        found = values(truth, prediction)
        assert [found[key][1] for key in found] == [1, 0, 0]


def test_each_class_of_many_has_its_topology():
    truth = np.array([[0, 0, 0, 0], [1, 1, 2, 2], [0, 0, 0, 0]], np.uint8)
    prediction = np.array([[0, 0, 0, 0], [1, 1, 2, 2], [0, 2, 0, 2]], np.uint8)
    found = values(truth, prediction, Task(4, groups=("topology",)))
    assert found["cldice"][1] == 1 and math.isnan(found["cldice"][3])
    assert found["betti0_error"][:3] == [1, 0, 0]  # the background below is cut
    assert found["betti1_error"][:3] == [0, 0, 0]


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_random_masks_agree_with_scikit_image(first):
    for seed in range(first, first + 20):
        truth, prediction = random_pair(seed)
        found = {key: of[1] for key, of in values(truth, prediction).items()}
        if (truth == 255).all():
            assert all(map(math.isnan, found.values())), seed
            continue
        masks = [truth == 1, (prediction == 1) & (truth != 255)]
        components = [int(label(mask, connectivity=2).max()) for mask in masks]
        euler = [euler_number(mask, connectivity=2) for mask in masks]
        holes = [b0 - chi for b0, chi in zip(components, euler, strict=True)]
        assert found["betti0_error"] == abs(components[0] - components[1]), seed
        assert found["betti1_error"] == abs(holes[0] - holes[1]), seed
        assert found["cldice"] == pytest.approx(cldice(*masks), abs=1e-6), seed


def cldice(truth: np.ndarray, prediction: np.ndarray) -> float:
    """clDice from the skeletons of scikit-image."""
    if not truth.any() or not prediction.any():
        return float(truth.any() == prediction.any())
    precision = (skeletonize(prediction) & truth).sum() / skeletonize(prediction).sum()
    sensitivity = (skeletonize(truth) & prediction).sum() / skeletonize(truth).sum()
    return scipy.stats.hmean([precision, sensitivity]) if precision * sensitivity else 0.0
