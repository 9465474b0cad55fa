"""Tests of the Lovász losses: the IoU of certain predictions, and the definition by sets."""

import functools
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_jax.learning.losses import build
from unet_jax.learning.lovasz import iou_slopes

SHAPE = (3, 4, 4)


pytestmark = pytest.mark.usefixtures("quick_compilation")


@functools.cache
def lovasz(class_weights: tuple[float, ...] = ()):
    """Compiles a function of (logits, label[, weight]) that returns the loss."""
    loss = build(name="lovasz", weights=(), class_weights=class_weights)
    return jax.jit(lambda logits, label, weight=None: loss(logits, label, weight=weight))


def iou_loss(positive: np.ndarray, wrong: np.ndarray, weight: np.ndarray) -> float:
    """Returns 1 - IoU of a labelled set and the prediction that differs from it at `wrong`."""
    union = weight[positive | wrong].sum()
    return 1 - weight[positive & ~wrong].sum() / union if union else 0.0


def extension(errors: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> float:
    """Computes the Lovász extension by its definition: the integral over thresholds of errors."""
    levels = np.unique(np.append(errors, 0.0))
    steps = [
        (high - low) * iou_loss(positive, errors > low, weight)
        for low, high in itertools.pairwise(levels)
    ]
    return float(np.sum(steps))


def by_definition(logits, label, weight) -> float:
    images = []
    for z, t, w in zip(logits.astype(np.float64), label, weight, strict=True):
        counted = (t != 255) & (w > 0)
        z, t, w = z[counted], t[counted], w[counted]
        if not len(t):
            continue
        if z.shape[-1] == 1:
            errors = np.maximum(0, 1 - z[:, 0] * np.where(t == 1, 1, -1))
            images.append(extension(errors, t == 1, w))
        else:
            p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
            classes = [(abs((t == c) - p[:, c]), t == c, w) for c in np.unique(t)]
            images.append(np.mean([extension(*each) for each in classes]))
    return np.mean(images) if images else 0.0


@pytest.mark.parametrize("k", [1, 3])
@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    ignored=st.sampled_from([0.0, 0.4, 0.95]),
    classes=st.integers(1, 3),
    ties=st.booleans(),
    weighted=st.booleans(),
)
def test_the_loss_is_the_lovasz_extension_of_each_image_s_iou(
    k, seed, ignored, classes, ties, weighted
):
    rng = np.random.default_rng(seed)
    logits = (2 * rng.normal(size=(*SHAPE, k))).astype(np.float32)
    if ties:
        logits = logits.round()
    label = rng.integers(0, min(classes, max(k, 2)), SHAPE).astype(np.uint8)
    label[rng.random(SHAPE) < ignored] = 255
    weight = np.ones(SHAPE, np.float32)
    if weighted:
        weight = (rng.exponential(size=SHAPE) * (rng.random(SHAPE) < 0.8)).astype(np.float32)
    expected = by_definition(logits, label, weight)
    assert float(lovasz()(logits, label, weight)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_loss_of_certain_predictions_is_1_minus_iou():
    rng = np.random.default_rng(0)
    label, prediction = rng.integers(0, 3, (2, *SHAPE)).astype(np.uint8)
    logits = 1e3 * (prediction[..., None] == np.arange(3)).astype(np.float32)
    ious = [
        np.mean([np.sum((t == c) & (y == c)) / np.sum((t == c) | (y == c)) for c in np.unique(t)])
        for t, y in zip(label, prediction, strict=True)
    ]
    weight = np.ones(SHAPE, np.float32)
    assert float(lovasz()(logits, label, weight)) == pytest.approx(1 - np.mean(ious), rel=1e-5)


def test_the_hinge_by_hand():
    logits = np.zeros((*SHAPE, 1), np.float32)
    label = np.full(SHAPE, 255, np.uint8)
    logits[0, 0, :, 0], label[0, 0] = [2.0, -1.0, 0.5, -3.0], [1, 1, 0, 0]
    # Errors 0, 2, 1.5 and 0: first a pixel of the mask is lost (IoU 1/2), then one is added (1/3).
    expected = 2 * (1 - 1 / 2) + 1.5 * (1 / 2 - 1 / 3)
    weight = np.ones(SHAPE, np.float32)
    assert float(lovasz()(logits, label, weight)) == pytest.approx(expected, rel=1e-6)
    label[0, 0] = 0  # the IoU falls to 0 with the first pixel
    assert float(lovasz()(logits, label, weight)) == pytest.approx(3, rel=1e-6)


def test_class_weights_weight_the_mean_over_present_classes():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1, 3, 4, 3)).astype(np.float32)
    label = rng.integers(0, 2, (1, 3, 4)).astype(np.uint8)  # class 2 is absent
    z, t = logits.reshape(-1, 3), label.ravel()
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    alone = [extension(abs((t == c) - p[:, c]), t == c, np.ones(12)) for c in (0, 1)]
    both = float(lovasz((1.0, 3.0, 7.0))(logits, label))
    assert both == pytest.approx((alone[0] + 3 * alone[1]) / 4, rel=1e-5)


def test_slopes_are_exact_for_many_pixels():
    rng = np.random.default_rng(0)
    count = 2**16
    errors = rng.random((1, 1, count), np.float32)
    positive = rng.random((1, 1, count)) < 0.1
    weight = np.ones((1, 1, count), np.float32)
    slopes = np.asarray(jax.jit(iou_slopes)(errors, positive, weight))[0, 0]
    order = np.argsort(-errors[0, 0], kind="stable")
    hits = positive[0, 0][order].astype(np.float64)
    iou = (hits.sum() - hits.cumsum()) / (hits.sum() + (1 - hits).cumsum())
    np.testing.assert_allclose(slopes[order], -np.diff(iou, prepend=1.0), rtol=1e-5, atol=1e-14)
