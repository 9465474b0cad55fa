"""The loss of deep supervision: a weighted mean over levels, at the centres of their pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_jax.learning import losses
from unet_jax.learning.deep_supervision import at_level, mean_over_levels

FIELDS = {"name": "bce+dice", "weights": (), "class_weights": ()}


def draw(shape: tuple[int, int, int], levels: int):
    rng = np.random.default_rng(0)
    n, height, width = shape
    logits = tuple(
        rng.normal(size=(n, -(-height // 2**i), -(-width // 2**i), 1)).astype(np.float32)
        for i in range(levels)
    )
    label = rng.choice([0, 1, 255], shape, p=[0.5, 0.3, 0.2]).astype(np.uint8)
    return logits, label, rng.random(shape, np.float32)


def test_logits_of_one_level_have_the_loss_itself():
    (logits,), label, weight = draw((2, 5, 6), 1)
    loss = losses.build(**FIELDS)

    @jax.jit
    def values(logits, label, weight):
        forms = [mean_over_levels(loss, x, label, weight=weight) for x in (logits, (logits,))]
        return loss(logits, label, weight=weight), *forms

    expected, *found = values(logits, label, weight)
    assert found == [expected, expected] and expected > 0


def test_the_weights_of_levels_are_halved_and_sum_to_one():
    logits, label, weight = draw((2, 16, 8), 3)
    loss = losses.build(**FIELDS)

    @jax.jit
    def values(logits, label, weight):
        centres = [(slice(None), slice(s // 2, None, s), slice(s // 2, None, s)) for s in (1, 2, 4)]
        each = [
            loss(level, label[own], weight=weight[own])
            for level, own in zip(logits, centres, strict=True)
        ]
        return each, mean_over_levels(loss, logits, label, weight=weight)

    each, found = values(logits, label, weight)
    expected = (4 * float(each[0]) + 2 * float(each[1]) + float(each[2])) / 7
    assert float(found) == pytest.approx(expected, rel=1e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 4))
def test_a_level_takes_the_nearest_pixel_to_each_centre(height, width, level):
    pixels = np.stack(np.mgrid[:height, :width], -1)[None]
    found = at_level(pixels, level)[0]
    stride = 2**level
    rows, columns = (-(-side // stride) for side in (height, width))
    assert rows - found.shape[0] in (0, 1) and columns - found.shape[1] in (0, 1)
    centres = np.stack(np.mgrid[: found.shape[0], : found.shape[1]], -1) * stride
    assert np.all(np.abs(found - (centres + (stride - 1) / 2)) <= 0.5)
    # A window has no label only if more than half of it is missing.
    for side, taken in zip((height, width), found.shape[:2], strict=True):
        assert (taken < -(-side // stride)) == (0 < side % stride <= stride // 2)


@pytest.mark.parametrize(
    "name",
    [
        "bce",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("dice", "focal_tversky", "boundary", "cldice", "lovasz")
        ),
    ],
)
def test_a_loss_is_exact_over_devices(name):
    """With numbers of ignored pixels that differ between the devices, at odd sizes."""
    logits, label, weight = draw((4, 13, 15), 3)
    label[0], label[1, :9] = 255, 255
    loss = losses.build(name=name, weights=(), class_weights=())

    def total(x):
        return jax.lax.psum(jnp.sum(x), "batch")

    def local(logits, label, weight):
        return mean_over_levels(loss, logits, label, total, weight)

    alone = jax.jit(lambda *batch: mean_over_levels(loss, *batch[:2], weight=batch[2]))
    expected = alone(logits, label, weight)
    spread = jax.tree.map(lambda x: x.reshape(4, 1, *x.shape[1:]), (logits, label, weight))
    found = jax.jit(jax.vmap(local, axis_name="batch"))(*spread)
    np.testing.assert_allclose(found, [expected] * 4, rtol=1e-5)


def test_ignored_pixels_of_all_levels_have_no_gradient():
    logits, label, _ = draw((1, 8, 8), 2)
    label[:, :4] = 255
    loss = losses.build(**FIELDS)
    value = jax.jit(jax.value_and_grad(lambda x, label: mean_over_levels(loss, x, label)))
    _, slopes = value(logits, label)
    assert not np.any(slopes[0][:, :4]) and not np.any(slopes[1][:, :2])
    assert np.any(slopes[1][:, 2:])
    nothing, slopes = value(logits, np.full_like(label, 255))
    assert nothing == 0 and not any(np.any(level) for level in slopes)
