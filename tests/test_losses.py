"""Losses against numpy in float64, at ignored pixels, at extremes, and over spread batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unet_jax.losses import LOSSES, binary_cross_entropy, cross_entropy

CASES = [("bce", 1, 2), ("cross_entropy", 2, 2), ("cross_entropy", 4, 4)]  # loss, logits, classes
EXTREMES = [(name, k, classes, x) for name, k, classes in CASES for x in (100.0, 1e4)]


COMPILED = {name: jax.jit(jax.value_and_grad(loss)) for name, loss in LOSSES.items()}


def batch(k: int, classes: int, shape=(3, 4, 5), ignored: float = 0.3):
    """Random logits and labels, some pixels ignored."""
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(*shape, k))
    label = rng.integers(0, classes, shape).astype(np.uint8)
    label[rng.random(shape) < ignored] = 255
    return logits.astype(np.float32), label


def reference(logits: np.ndarray, label: np.ndarray) -> tuple[float, np.ndarray]:
    """Loss and gradient in float64, pixel by pixel."""
    logits = logits.astype(np.float64)
    valid = np.argwhere(label != 255)
    loss, gradient = 0.0, np.zeros_like(logits)
    for pixel in map(tuple, valid):
        z = logits[pixel]
        if len(z) == 1:
            z = np.array([0.0, z[0]])  # a sigmoid is a softmax beside a logit of 0
        p = np.exp(z - z.max())
        p /= p.sum()
        loss -= np.log(p[label[pixel]])
        residual = p - np.eye(len(p))[label[pixel]]
        gradient[pixel] = residual[-logits.shape[-1] :]
    return loss / len(valid), gradient / len(valid)


def test_the_names_that_configs_use():
    assert LOSSES["bce"] is binary_cross_entropy
    assert LOSSES["cross_entropy"] is cross_entropy


def test_binary_cross_entropy_by_hand():
    logits = jnp.array([0.0, np.log(3.0), np.log(3.0), 5.0]).reshape(1, 2, 2, 1)
    label = jnp.array([1, 1, 0, 255], jnp.uint8).reshape(1, 2, 2)
    expected = (np.log(2) + np.log(4 / 3) + np.log(4)) / 3
    assert float(binary_cross_entropy(logits, label)) == pytest.approx(expected, rel=1e-6)


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[1.0, 2, 1], [8, 1, 1], [1, 1, 1]])).reshape(1, 1, 3, 3)
    label = jnp.array([[[1, 2, 255]]], jnp.uint8)
    expected = (np.log(4 / 2) + np.log(10 / 1)) / 2
    assert float(cross_entropy(logits, label)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("name", "k", "classes"), CASES)
@pytest.mark.parametrize("ignored", [0.0, 0.3])
def test_value_and_gradient_are_numpy_s(name, k, classes, ignored):
    logits, label = batch(k, classes, ignored=ignored)
    value, gradient = COMPILED[name](logits, label)
    expected_value, expected_gradient = reference(logits, label)
    assert value.shape == () and value.dtype == jnp.float32
    assert float(value) == pytest.approx(expected_value, rel=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("name", "k", "classes"), CASES)
@pytest.mark.parametrize("there", [0.0, -7.5, 1e4, -1e4, 1e30])
def test_logits_of_ignored_pixels_change_nothing(name, k, classes, there):
    logits, label = batch(k, classes)
    ignored = label == 255
    changed = logits.copy()
    changed[ignored] = there
    changed[ignored, 0] = -there  # not the same for all classes
    function = COMPILED[name]
    value, gradient = function(logits, label)
    changed_value, changed_gradient = function(changed, label)
    assert float(changed_value) == float(value)
    np.testing.assert_array_equal(changed_gradient, gradient)
    assert not np.any(changed_gradient[ignored])
    assert np.all(np.any(changed_gradient[~ignored] != 0, axis=-1))


@pytest.mark.parametrize(("name", "k", "classes"), CASES)
@pytest.mark.parametrize("there", [np.inf, np.nan])
def test_the_loss_is_finite_where_logits_of_ignored_pixels_are_not(name, k, classes, there):
    logits, label = batch(k, classes)
    changed = logits.copy()
    changed[label == 255, 0] = there
    value, _ = COMPILED[name](changed, label)
    assert float(value) == float(COMPILED[name](logits, label)[0])


@pytest.mark.parametrize(("name", "k", "classes"), CASES)
def test_loss_and_gradient_are_zero_where_everything_is_ignored(name, k, classes):
    logits, label = batch(k, classes, ignored=2.0)
    value, gradient = COMPILED[name](logits, label)
    assert float(value) == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize(("name", "k", "classes", "size"), EXTREMES)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("wanted", ["empty", "full"])
def test_finite_at_extreme_logits(name, k, classes, size, sign, wanted):
    """The last logit is far above (or below) the others, where all pixels are 0 or the last."""
    logits = np.zeros((1, 3, 3, k), np.float32)
    logits[..., -1] = sign * size
    label = np.full((1, 3, 3), 0 if wanted == "empty" else classes - 1, np.uint8)
    value, gradient = COMPILED[name](logits, label)
    right = (sign > 0) == (wanted == "full")
    if right:
        # Between several classes that are equally unlikely, or likely, there is no certainty.
        assert float(value) == pytest.approx(0 if wanted == "full" else np.log(classes - 1))
    else:
        assert float(value) == pytest.approx(size, rel=0.02)
    assert np.all(np.isfinite(gradient))
    assert np.any(gradient) == (not right or (wanted == "empty" and classes > 2))


@pytest.mark.parametrize(("name", "k", "classes"), CASES)
def test_vmap_gives_each_image_its_own_loss(name, k, classes):
    logits, label = batch(k, classes)
    label[1] = 255  # a padding image
    per_image = jax.vmap(lambda x, y: LOSSES[name](x[None], y[None], jnp.sum))(logits, label)
    for i in (0, 2):
        assert float(per_image[i]) == pytest.approx(reference(logits[i], label[i])[0], rel=1e-5)
    assert float(per_image[1]) == 0


@pytest.mark.parametrize(("name", "k", "classes"), CASES)
def test_a_total_over_devices_makes_the_global_batch_s_loss(name, k, classes):
    logits, label = batch(k, classes, shape=(4, 3, 5))
    label[:2][np.random.default_rng(1).random((2, 3, 5)) < 0.7] = 255  # unevenly spread
    loss = LOSSES[name]

    def total(x):
        return jax.lax.psum(jnp.sum(x), "batch")

    def spread(logits):
        halves = logits.reshape(2, 2, *logits.shape[1:])
        on_each = jax.vmap(lambda x, y: loss(x, y, total), axis_name="batch")
        return on_each(halves, label.reshape(2, 2, 3, 5))

    def mean_and_values(logits):
        values = spread(logits)
        return values.mean(), values

    whole, gradient = COMPILED[name](logits, label)
    (_, values), spread_gradient = jax.jit(jax.value_and_grad(mean_and_values, has_aux=True))(
        logits
    )
    np.testing.assert_allclose(values, [whole, whole], rtol=1e-5)
    mean_of_halves = sum(reference(logits[i : i + 2], label[i : i + 2])[0] for i in (0, 2)) / 2
    assert abs(mean_of_halves - float(whole)) > 1e-3  # which would be wrong
    np.testing.assert_allclose(spread_gradient, gradient, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(gradient, reference(logits, label)[1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("name", "k", "classes"), CASES)
def test_all_devices_ignored_is_zero_too(name, k, classes):
    logits, label = batch(k, classes, ignored=2.0)

    def total(x):
        return jax.lax.psum(jnp.sum(x), "batch")

    on_each = jax.vmap(lambda x, y: LOSSES[name](x[None], y[None], total), axis_name="batch")
    np.testing.assert_array_equal(on_each(logits, label), 0)
