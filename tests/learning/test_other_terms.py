"""Tests of label smoothing, the Tversky losses and the boundary-weighted cross-entropy."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from unet_jax.learning.boundary import near_boundary
from unet_jax.learning.losses import build

pytestmark = pytest.mark.usefixtures("quick_compilation")

PROBABILITIES = [[1 / 4, 1 / 2, 1 / 4], [4 / 5, 1 / 10, 1 / 10], [1 / 3, 1 / 3, 1 / 3]]
LOGITS = np.log(PROBABILITIES, dtype=np.float32).reshape(1, 1, 3, 3)
LABEL = np.array([[[1, 2, 255]]], np.uint8)
BINARY = np.log([1, 3, 3, 99]).reshape(1, 2, 2, 1).astype(np.float32)  # 1/2, 3/4, 3/4 and ignored
BINARY_LABEL = np.array([[[1, 0], [1, 255]]], np.uint8)


@functools.cache
def compiled(name: str, **fields):
    """Compiles a function of (logits, label) that returns the loss and its gradient."""
    loss = build(**{"name": name, "weights": (), "class_weights": ()} | fields)
    return jax.jit(jax.value_and_grad(loss))


def value(name: str, logits, label, **fields) -> float:
    return float(compiled(name, **fields)(logits, label)[0])


compiled_near_boundary = jax.jit(near_boundary, static_argnums=1)

# Label smoothing.


def test_smoothed_cross_entropies_by_hand():
    found = value("bce", BINARY, BINARY_LABEL, label_smoothing=0.2)
    logs = [np.log(2), 0.9 * np.log(4) + 0.1 * np.log(4 / 3), 0.9 * np.log(4 / 3) + 0.1 * np.log(4)]
    assert found == pytest.approx(np.mean(logs), rel=1e-6)
    q = np.array([[0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])  # smoothing 0.3 over three classes
    expected = -(q * np.log(PROBABILITIES[:2])).sum(-1).mean()
    found = value("cross_entropy", LOGITS, LABEL, label_smoothing=0.3)
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("name", "k"), [("bce", 1), ("cross_entropy", 3)])
def test_the_smoothed_label_has_the_lowest_loss(name, k):
    """Without smoothing the loss of a right prediction falls without end, and with it it rises."""
    label = np.ones((1, 1, 1), np.uint8)
    certain = np.where(np.arange(k) == (k > 1), 1.0, 0.0).astype(np.float32).reshape(1, 1, 1, k)
    best = np.log(0.95 / 0.05) if k == 1 else np.log((0.9 + 0.1 / 3) / (0.1 / 3))
    at_best, gradient = compiled(name, label_smoothing=0.1)(best * certain, label)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    assert value(name, 20 * certain, label, label_smoothing=0.1) > float(at_best)


# Tversky losses.


def test_tversky_by_hand():
    hits, false_positives, false_negatives = 1 / 2 + 3 / 4, 3 / 4, 1 / 2 + 1 / 4
    weighted = 0.3 * false_positives + 0.7 * false_negatives
    index = (hits + 0.5) / (hits + weighted + 0.5)  # smooth = 1 counts twice
    assert value("tversky", BINARY, BINARY_LABEL) == pytest.approx(1 - index, rel=1e-6)
    found = value("focal_tversky", BINARY, BINARY_LABEL)
    assert found == pytest.approx((1 - index) ** 0.75, rel=1e-6)


@pytest.mark.parametrize("k", [1, 3])
@settings(max_examples=8, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_tversky_with_equal_weights_is_dice_and_with_gamma_1_not_focal(k, seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, 3, 4, k)).astype(np.float32)
    label = rng.choice([*range(max(k, 2)), 255], (2, 3, 4)).astype(np.uint8)
    fields = {"tversky_alpha": 0.5, "tversky_beta": 0.5, "dice_smooth": 2.0}
    expected = value("dice", logits, label, dice_smooth=2.0)
    assert value("tversky", logits, label, **fields) == pytest.approx(expected, rel=1e-5)
    found = value("focal_tversky", logits, label, **fields, focal_tversky_gamma=1.0)
    assert found == pytest.approx(expected, rel=1e-5)


def test_beta_weights_missed_pixels_and_alpha_invented_ones():
    label = np.zeros((1, 4, 4), np.uint8)
    label[:, 1:3, 1:3] = 1
    missed, invented = label.copy(), label.copy()
    missed[0, 1, 1], invented[0, 0, 0] = 0, 1
    for alpha, beta in ((0.3, 0.7), (0.7, 0.3)):
        fields = {"tversky_alpha": alpha, "tversky_beta": beta}
        values = [
            value("tversky", (40.0 * x - 20)[..., None].astype(np.float32), label, **fields)
            for x in (missed, invented)
        ]
        assert (values[0] > values[1]) == (beta > alpha)


# Boundaries.


@pytest.mark.parametrize("pixels", [1, 3])
@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), coarse=st.booleans())
def test_pixels_are_near_a_boundary_if_another_class_is_within_reach(pixels, seed, coarse):
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 1, 2, 254, 255], size=(2, 12, 9), p=[0.4, 0.2, 0.1, 0.1, 0.2])
    if coarse:
        label = np.kron(label[:, :3, :3], np.ones((1, 4, 3)))
    label = label.astype(np.uint8)
    found = np.asarray(compiled_near_boundary(label, pixels))
    for image, near in zip(label, found, strict=True):
        for c in set(np.unique(image)) - {255}:
            others = (image != c) & (image != 255)
            distance = ndimage.distance_transform_cdt(~others, "chessboard")
            expected = (distance <= pixels) & others.any()
            np.testing.assert_array_equal(near[image == c], expected[image == c])


def test_boundary_by_hand():
    label = np.array([[[0, 0, 0, 1, 255, 0]]], np.uint8)  # an ignored pixel is no border
    logits = np.full((1, 1, 6, 1), np.log(3.0), np.float32)  # probability 3/4
    ce = np.array([np.log(4), np.log(4), np.log(4), np.log(4 / 3), 0, np.log(4)])
    for pixels, weights in ((1, [1, 1, 3, 3, 0, 1]), (2, [1, 3, 3, 3, 0, 3])):
        found = value("boundary", logits, label, boundary_weight=2.0, boundary_pixels=pixels)
        assert found == pytest.approx(np.average(ce, weights=weights), rel=1e-6)


def test_boundary_with_weight_0_is_the_cross_entropy():
    assert value("boundary", LOGITS, LABEL, boundary_weight=0.0) == pytest.approx(
        value("cross_entropy", LOGITS, LABEL), rel=1e-6
    )
