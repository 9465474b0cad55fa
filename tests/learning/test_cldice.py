"""Tests of soft clDice: its skeleton, values by hand, and an independent reference."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from unet_jax.learning.cldice import soft_skeleton
from unet_jax.learning.losses import build

pytestmark = pytest.mark.usefixtures("quick_compilation")


@functools.cache
def cldice(smooth: float = 1.0, class_weights: tuple[float, ...] = ()):
    """Compiles a function of (logits, label) that returns the loss and its gradient."""
    fields = {"name": "cldice", "weights": (), "class_weights": class_weights}
    return jax.jit(jax.value_and_grad(build(**fields, cldice_iterations=3, dice_smooth=smooth)))


def skeleton_in_scipy(p: np.ndarray, iterations: int) -> np.ndarray:
    """Computes the soft skeleton of an image [H, W] with grey-scale morphology."""

    def erode(x):
        cross = ndimage.generate_binary_structure(2, 1)
        return ndimage.grey_erosion(x, footprint=cross, mode="nearest")

    def opening(x):
        return ndimage.grey_dilation(erode(x), size=(3, 3), mode="nearest")

    skeleton = np.maximum(p - opening(p), 0)
    for _ in range(iterations):
        p = erode(p)
        skeleton = skeleton + (1 - skeleton) * np.maximum(p - opening(p), 0)
    return skeleton


ONE_SHAPE = (9, 8)
compiled_skeleton = jax.jit(soft_skeleton, static_argnums=1)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([2, 4, 1000]))
def test_the_skeleton_equals_grey_scale_morphology(seed, levels):
    p = np.random.default_rng(seed).integers(0, levels, (2, *ONE_SHAPE)) / (levels - 1)
    found = compiled_skeleton(p.astype(np.float32)[..., None], 2)
    assert found.shape == (2, *ONE_SHAPE, 1) and found.min() >= 0 and found.max() <= 1
    expected = [skeleton_in_scipy(image, 2) for image in p]
    np.testing.assert_allclose(found[..., 0], expected, atol=1e-6)


@pytest.mark.parametrize(("half", "iterations"), [(0, 2), (2, 2), (2, 10), (3, 2)])
def test_a_bar_s_skeleton_is_its_centreline_if_the_erosions_reach_it(half, iterations):
    bar = np.zeros((1, 11, 13, 1), np.float32)
    bar[:, 5 - half : 6 + half] = 1
    line = np.zeros_like(bar)
    line[:, 5] = half <= iterations
    np.testing.assert_array_equal(compiled_skeleton(bar, iterations), line)


def line_and_logits(q: float):
    """A line across the image, predicted with probability q, and nothing else."""
    label = np.zeros((1, *ONE_SHAPE), np.uint8)
    label[:, 2] = 1
    logits = np.where(label == 1, np.log(q / (1 - q)), -1e4).astype(np.float32)
    return logits[..., None], label


@pytest.mark.parametrize("smooth", [1.0, 1e-8])
def test_a_faint_line_by_hand(smooth):
    logits, label = line_and_logits(0.25)
    sensitivity = (8 * 0.25 + smooth) / (8 + smooth)  # the precision is 1
    expected = 1 - 2 * sensitivity / (1 + sensitivity)
    assert float(cldice(smooth)(logits, label)[0]) == pytest.approx(expected, rel=1e-5)


def test_a_gap_costs_more_than_width():
    """A vessel that is too wide keeps its centreline; one with a gap has lost a part of it."""
    label = np.zeros((1, *ONE_SHAPE), np.uint8)
    label[:, 3:6] = 1
    wide, gap = label.copy(), label.copy()
    wide[:, 2:7] = 1
    gap[:, :, 3:5] = 0
    logits = [(20.0 * x - 10)[..., None].astype(np.float32) for x in (label, wide, gap)]
    right, too_wide, interrupted = (float(cldice()(z, label)[0]) for z in logits)
    assert right < 0.01 and too_wide < 0.01 and interrupted > 0.05


@pytest.mark.parametrize("smooth", [1.0, 1e-8])
def test_disjoint_lines_have_a_finite_loss_near_1(smooth):
    label, logits = np.zeros((1, *ONE_SHAPE), np.uint8), np.full((1, *ONE_SHAPE, 1), -1e4)
    label[:, 2], logits[:, 6] = 1, 1e4
    value, gradient = cldice(smooth)(logits.astype(np.float32), label)
    expected = 1 - smooth / (8 + smooth)
    assert float(value) == pytest.approx(expected) and np.all(np.isfinite(gradient))


def test_several_classes_are_the_mean_over_all_but_the_background():
    rng = np.random.default_rng(0)
    logits = (2 * rng.normal(size=(2, *ONE_SHAPE, 3))).astype(np.float32)
    label = rng.integers(0, 3, (2, *ONE_SHAPE)).astype(np.uint8)
    label[0, :3] = 255
    counted = label != 255
    p = np.exp(logits.astype(np.float64))
    p = p / p.sum(-1, keepdims=True) * counted[..., None]
    each = []
    for c in (1, 2):
        t = (label == c).astype(np.float64)
        skeletons = [np.stack([skeleton_in_scipy(x, 3) for x in y]) for y in (p[..., c], t)]
        predicted, labelled = (s * counted for s in skeletons)
        precision = ((predicted * t).sum() + 1) / (predicted.sum() + 1)
        sensitivity = ((labelled * p[..., c]).sum() + 1) / (labelled.sum() + 1)
        each.append(1 - 2 / (1 / precision + 1 / sensitivity))
    assert float(cldice()(logits, label)[0]) == pytest.approx(np.mean(each), rel=1e-5)
    weighted = float(cldice(class_weights=(9.0, 1.0, 3.0))(logits, label)[0])
    assert weighted == pytest.approx(np.average(each, weights=(1, 3)), rel=1e-5)
