"""What every loss term promises: ignored pixels, extreme logits, devices, one logit or two."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_jax.distributed import reductions
from unet_jax.learning.losses import build
from unet_jax.learning.registry import LOSSES

pytestmark = pytest.mark.usefixtures("quick_compilation")

OPTIONS = {
    "label_smoothing": 0.1,
    "focal_gamma": 0.3,  # below 1, a power has no finite gradient at 0
    "cldice_iterations": 2,
    "boundary_pixels": 1,
}
SHAPE = (4, 5, 6)
CASES = [(name, k) for name in sorted(LOSSES) for k in (1, 3) if k in LOSSES[name].logits]
each_case = pytest.mark.parametrize(("name", "k"), CASES)
few = settings(max_examples=8, deadline=None, derandomize=True)


def loss_of(name: str, class_weights: tuple[float, ...] = ()):
    return build(name=name, weights=(), class_weights=class_weights, **OPTIONS)


@functools.cache
def compiled(name: str, class_weights: tuple[float, ...] = ()):
    """Compiles a function of (logits, label, weight) that returns the loss and its gradient."""
    loss = loss_of(name, class_weights)
    return jax.jit(
        jax.value_and_grad(lambda logits, label, weight: loss(logits, label, weight=weight))
    )


def batch(k: int, seed: int = 0):
    """Returns random logits, labels (some ignored, in each image more) and pixel weights."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=(*SHAPE, k)).astype(np.float32)
    label = rng.integers(0, max(k, 2), SHAPE).astype(np.uint8)
    label[rng.random(SHAPE) < np.linspace(0, 0.7, SHAPE[0])[:, None, None]] = 255
    return logits, label, rng.exponential(size=SHAPE).astype(np.float32)


@each_case
@few
@given(
    there=st.sampled_from([-7.5, 1e4, 1e30, np.inf, -np.inf, np.nan]),
    seed=st.integers(0, 10**6),
)
def test_logits_and_weights_of_ignored_pixels_change_nothing(name, k, there, seed):
    logits, label, weight = batch(k, seed)
    value, gradient = compiled(name)(logits, label, weight)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))
    ignored = label == 255
    assert not np.any(gradient[ignored])
    logits[ignored] = there
    logits[ignored, 0] = -there  # differs between classes
    weight[ignored] = there
    found = compiled(name)(logits, label, weight)
    assert float(found[0]) == float(value)
    np.testing.assert_array_equal(found[1], gradient)


@each_case
def test_loss_and_gradient_are_zero_if_all_pixels_are_ignored(name, k):
    logits, label, weight = batch(k)
    for nothing in ((np.full_like(label, 255), weight), (label, np.zeros_like(weight))):
        value, gradient = compiled(name)(logits, *nothing)
        assert float(value) == 0
        np.testing.assert_array_equal(gradient, 0)


@each_case
@few
@given(size=st.sampled_from([100.0, 1e4]), seed=st.integers(0, 10**6), empty=st.booleans())
def test_extreme_logits_have_finite_losses_and_gradients(name, k, size, seed, empty):
    _, label, weight = batch(k, seed)
    label = np.where(empty & (label != 255), 0, label).astype(np.uint8)
    logits = np.random.default_rng(seed).choice(np.float32([-size, 0, size]), (*SHAPE, k))
    right = np.where(label[..., None] == (np.arange(k) if k > 1 else 1), size, -size)
    for z in (logits, right.astype(np.float32), -right.astype(np.float32)):
        value, gradient = compiled(name)(z, label, weight)
        assert np.isfinite(value) and value >= 0
        assert np.all(np.isfinite(gradient))


@each_case
def test_the_loss_falls_from_wrong_to_right(name, k):
    _, label, weight = batch(k)
    right = np.where(label[..., None] == (np.arange(k) if k > 1 else 1), 5, -5).astype(np.float32)
    values = [float(compiled(name)(x * right, label, weight)[0]) for x in (-1, 0, 1)]
    assert values[0] > values[1] > values[2]
    z = np.zeros_like(right)
    z = z - 0.1 * compiled(name)(z, label, weight)[1]
    assert float(compiled(name)(z, label, weight)[0]) < values[1]


@pytest.mark.parametrize(("name", "k"), [x for x in CASES if x[1] == 3 or x[0] == "lovasz"])
def test_the_number_of_devices_changes_nothing(name, k):
    logits, label, weight = batch(k)
    count = 2 if name in ("cldice", "tversky") else 4
    loss = loss_of(name)

    @functools.partial(
        jax.pmap, axis_name=reductions.AXIS, in_axes=(None, 0, 0), devices=jax.devices()[:count]
    )
    def on_devices(logits, label, weight):
        def local_loss(logits):
            own = logits[jax.lax.axis_index(reductions.AXIS)]
            return loss(own, label, reductions.total, weight)

        value, gradient = jax.value_and_grad(local_loss)(logits)
        return value, reductions.mean(gradient)

    parts = [x.reshape(count, -1, *x.shape[1:]) for x in (logits, label, weight)]
    expected = compiled(name)(logits, label, weight)  # on one device
    for value, gradient in zip(*on_devices(*parts), strict=True):
        assert float(value) == pytest.approx(float(expected[0]), rel=1e-5)
        found = gradient.reshape(logits.shape)
        np.testing.assert_allclose(found, expected[1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("name", "k"), [x for x in CASES if x[1] == 3])
def test_evaluation_computes_the_loss_of_each_image_by_vmap(name, k):
    logits, label, _ = batch(k)
    label[1] = 255  # a padding image
    loss = loss_of(name)
    per_image = jax.jit(jax.vmap(lambda x, y: loss(x[None], y[None])))(logits, label)
    assert float(per_image[1]) == 0
    label[[0, 2]] = 255
    value, _ = compiled(name)(logits, label, np.ones(SHAPE, np.float32))
    assert float(per_image[3]) == pytest.approx(float(value), rel=1e-5)


# The classes over which a loss of two logits is a mean; that of one logit is of class 1 alone.
OF_CLASS_1 = dict.fromkeys(("dice", "tversky", "focal_tversky"), (0.0, 1.0))
# Lovász hinge and Lovász-Softmax are different losses.
SAME = [name for name, k in CASES if k == 1 and name != "lovasz"]


@pytest.mark.parametrize("name", SAME)
@few
@given(seed=st.integers(0, 10**6))
def test_one_logit_equals_two_logits_of_which_the_first_is_0(name, seed):
    logits, label, weight = batch(1, seed)
    value, gradient = compiled(name)(logits, label, weight)
    two = np.concatenate([np.zeros_like(logits), logits], axis=-1)
    other = compiled("cross_entropy" if name == "bce" else name, OF_CLASS_1.get(name, ()))
    expected, slopes = other(two, label, weight)
    assert float(value) == pytest.approx(float(expected), rel=1e-5, abs=1e-7)
    np.testing.assert_allclose(gradient[..., 0], slopes[..., 1], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(slopes.sum(-1), 0, atol=1e-6)
