"""Tests of the analysis of a run's loss near class borders."""

import re

import numpy as np
import pytest
from made_runs import make_run, small_config
from scipy.special import ndtr

from benchmarks import borders
from benchmarks.overlays import predicted
from unet_jax.core.errors import UserError


def test_a_distance_is_to_the_nearest_counted_pixel_of_the_other_class():
    label = np.zeros((5, 9), np.uint8)
    label[:, 6:] = 1
    expected = np.tile([6, 5, 4, 3, 2, 1, 1, 2, 3], (5, 1))
    np.testing.assert_allclose(borders.distances(label), expected, rtol=1e-6)
    label[:, 5] = 255
    expected = np.tile([6, 5, 4, 3, 2, 2, 3, 4], (5, 1))
    np.testing.assert_allclose(np.delete(borders.distances(label), 5, axis=1), expected, rtol=1e-6)


@pytest.mark.parametrize("sigma", [0.7, 5.0])
def test_the_equivalent_sigma_reproduces_the_loss(sigma):
    """The labels' borders deviate by sigma from lines that the predictor knows."""
    rng = np.random.default_rng(0)
    columns, lines = np.arange(400), rng.uniform(190, 210, 3000)
    drawn = lines + rng.normal(0, sigma, lines.shape)
    label = columns >= drawn[:, None]
    probability = ndtr((columns - lines[:, None]) / sigma)
    right = np.where(label, probability, 1 - probability)
    loss = -np.log(np.maximum(right, 1e-12)).mean()
    first = np.ceil(drawn)[:, None]
    distance = np.where(label, columns - first + 1, first - columns)
    assert borders.border_loss(distance, sigma) == pytest.approx(loss, rel=0.1)
    assert borders.equivalent_sigma(distance, loss) == pytest.approx(sigma, rel=0.1)
    assert borders.equivalent_sigma(distance, 0.7) == np.inf  # more than the loss of random guesses


def test_loss_and_errors_are_split_by_distance():
    distance = np.array([1.0, 1.0, 1.5, 4.0, 50.0])
    second = np.array([True, False, True, True, False])
    probability = np.array([0.5, 0.5, 0.25, 1.0, 0.75])
    rows = borders.by_distance(distance, second, probability)
    assert [row["share of the pixels"] for row in rows] == pytest.approx([0.4, 0.2, 0, 0.2, 0, 0.2])
    bits = np.array([2, 2, 0, 0, 0, 2]) / 6  # bits of each pixel
    assert [row["share of the loss"] for row in rows] == pytest.approx(bits)
    assert [row["mean loss"] for row in rows] == pytest.approx(np.log([2, 4, 1, 1, 1, 4]))
    assert [row["share of the errors"] for row in rows] == pytest.approx(
        [1 / 3, 1 / 3, 0, 0, 0, 1 / 3]
    )


def test_a_missed_object_is_far_from_what_was_found():
    label, probability = np.zeros((9, 40), np.uint8), np.zeros((9, 40))
    label[:, 2:6] = label[:, 20:22] = 1  # the second object is missed
    probability[:, 4:9] = 1  # the first is found two pixels farther right
    distance = borders.distances_to_found(label, probability)
    rows = borders.by_distance_to_found(distance, label == 1, probability)
    missed, added, dice = zip(*[[*row.values()][1:] for row in rows], strict=True)
    assert missed == pytest.approx([1 / 7, 1 / 7, 0, 0, 0, 2 / 7])
    assert added == pytest.approx([1 / 7, 1 / 7, 1 / 7, 0, 0, 0])
    assert dice == pytest.approx([6 / 11, 8 / 11, 8 / 10, 8 / 10, 8 / 10, 1])


def test_without_true_positives_all_errors_are_far():
    label, probability = np.eye(5, dtype=np.uint8), np.zeros((5, 5))
    distance = borders.distances_to_found(label, probability)
    rows = borders.by_distance_to_found(distance, label == 1, probability)
    assert [row["Dice without them"] for row in rows] == [0, 0, 0, 0, 0, 1]
    assert [row["false negatives, share of the errors"] for row in rows] == [0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("row", range(3))
@pytest.mark.parametrize("column", range(3))
def test_shifting_back_a_shifted_prediction_gives_a_loss_of_0(row, column):
    rng = np.random.default_rng(0)
    probability = rng.uniform(0.3, 0.7, (24, 31))
    label = np.roll(probability > 0.5, (row - 1, column - 1), axis=(0, 1)).astype(np.uint8)
    label[5, 5] = 255
    losses = borders.moved_losses(label, probability)
    assert np.unravel_index(losses.argmin(), (3, 3)) == (row, column)
    certain = np.maximum(probability, 1 - probability)
    moved = np.roll(certain, (row - 1, column - 1), axis=(0, 1))
    counted = (label != 255)[1:-1, 1:-1]
    assert losses[row, column] == pytest.approx(-np.log(moved[1:-1, 1:-1][counted]).mean())


@pytest.mark.slow
def test_a_run_is_analysed_with_its_best_checkpoint(stacks, tmp_path, capsys):
    config = small_config(data__root=str(stacks), model__depth=1)
    run = make_run(tmp_path / "run", config, 1, calm=True)
    images = {name: found for name, *found in predicted(run, config, "validation")}
    assert len(images) == 3
    (one,) = predicted(run, config, "validation", list(images)[1])
    for found, expected in zip(one[1:], images[one[0]], strict=True):
        np.testing.assert_array_equal(found, expected)
    right = [np.where(label == 1, p[..., 0], 1 - p[..., 0]) for _, label, p, _ in images.values()]
    loss = -np.log(right).mean()
    borders.main([str(run), "--split=validation"])
    output = capsys.readouterr().out
    match = re.match(rf"{run}: mean loss (\S+), sigma inf pixels\n", output)
    assert match and float(match[1]) == pytest.approx(loss, abs=2e-4)
    inner = -np.log([one[1:-1, 1:-1] for one in right]).mean()
    (unmoved,) = re.findall(r"\| - \| \S+ \| (\S+) \| \S+ \|\n", output)
    assert float(unmoved) == pytest.approx(inner, abs=2e-4)
    with pytest.raises(UserError, match="no split tests; choose one of train, validation, test"):
        list(predicted(run, config, "tests"))
    with pytest.raises(UserError, match="--image=none: the test images are slice-"):
        list(predicted(run, config, "test", "none"))


def test_runs_of_more_classes_are_refused(tmp_path):
    config = small_config(model__classes=3, loss__name="cross_entropy")
    run = make_run(tmp_path / "run", config, 1, steps=())
    with pytest.raises(UserError, match="has 3 classes; give runs of two classes"):
        borders.main([str(run)])
