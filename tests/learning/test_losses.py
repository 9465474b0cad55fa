"""Tests of losses: by hand, against numpy, and at extremes; test_every_loss.py has the rest."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_jax.distributed import reductions
from unet_jax.learning.losses import build, pixel_cross_entropy

FIELDS = {
    "name": "bce",
    "weights": (),
    "class_weights": (),
    "dice_smooth": 1.0,
    "focal_gamma": 2.0,
}
ONE_LOGIT = ("bce", "dice", "focal", "bce+dice")
SEVERAL = ("cross_entropy", "dice", "focal", "cross_entropy+dice")
CASES = [*((name, 1) for name in ONE_LOGIT), *((name, 4) for name in SEVERAL)]
CASES += [("cross_entropy", 2), ("dice", 2)]
each_case = pytest.mark.parametrize(("name", "k"), CASES)


def compiled(name: str, **fields):
    """Compiles a function of (logits, label[, weight]) that returns the loss and its gradient."""
    return _compiled(**FIELDS | {"name": name} | fields)


@functools.cache
def _compiled(**fields):
    loss = build(**fields)
    return jax.jit(
        jax.value_and_grad(lambda logits, label, weight=None: loss(logits, label, weight=weight))
    )


def batch(k: int, shape=(3, 4, 5), ignored: float = 0.3, seed: int = 0):
    """Returns random logits, labels (some ignored) and pixel weights (some 0)."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=(*shape, k))
    label = rng.integers(0, max(k, 2), shape).astype(np.uint8)
    label[rng.random(shape) < ignored] = 255
    weight = rng.exponential(size=shape) * (rng.random(shape) < 0.8)
    return logits.astype(np.float32), label, weight.astype(np.float32)


def some_class_weights(k: int) -> tuple[float, ...]:
    return (0.5, 2.0, 0.0, 1.0)[: max(k, 2)]


def value_in_numpy(
    logits, label, weight, *, name, weights, class_weights, dice_smooth, focal_gamma
):
    """Computes the loss by the papers' formulas, from float64 or complex logits."""
    counted = label != 255
    z, t, weight = logits[counted], label[counted], weight[counted]
    if logits.shape[-1] == 1:  # a sigmoid is a softmax with a second logit of 0
        z = np.concatenate([np.zeros_like(z), z], axis=-1)
    p = np.exp(z - z.real.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    own = p[np.arange(len(t)), t]
    factors = np.array(class_weights or (1.0,) * z.shape[-1])
    pixels = weight * factors[t]

    def mean(values):
        return (pixels * values).sum() / pixels.sum() if pixels.sum() else 0.0

    def dice(c):
        both = 2 * (weight * p[:, c] * (t == c)).sum() + dice_smooth
        return both / ((weight * p[:, c]).sum() + (weight * (t == c)).sum() + dice_smooth)

    def term(one):
        if one == "dice" and logits.shape[-1] == 1:
            return 1 - dice(1)
        if one == "dice":
            return sum(f * (1 - dice(c)) for c, f in enumerate(factors)) / factors.sum()
        return mean(-np.log(own) * (1 - own) ** (focal_gamma if one == "focal" else 0))

    names = name.split("+")
    return sum(f * term(n) for f, n in zip(weights or (1,) * len(names), names, strict=True))


def reference(logits, label, weight=None, **fields):
    """Returns the loss and its complex-step gradient, both exact up to rounding."""
    weight = np.ones(label.shape) if weight is None else weight.astype(np.float64)
    fields = FIELDS | fields
    logits = logits.astype(np.complex128)
    gradient = np.zeros(logits.shape)
    for i in map(tuple, np.argwhere(np.broadcast_to(label[..., None] != 255, logits.shape))):
        step = np.zeros_like(logits)
        step[i] = 1e-30j
        gradient[i] = np.imag(value_in_numpy(logits + step, label, weight, **fields)) / 1e-30
    return float(np.real(value_in_numpy(logits, label, weight, **fields))), gradient


def assert_is(found, expected):
    value, gradient = found
    assert value.shape == () and value.dtype == jnp.float32
    # Log-softmax rounds relative to the logits, which are about 10.
    assert float(value) == pytest.approx(expected[0], rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(gradient, expected[1], rtol=2e-4, atol=1e-7)


# Hand-computed values.


def test_binary_cross_entropy_by_hand():
    logits = jnp.array([0.0, np.log(3.0), np.log(3.0), 5.0]).reshape(1, 2, 2, 1)
    label = jnp.array([1, 1, 0, 255], jnp.uint8).reshape(1, 2, 2)
    expected = (np.log(2) + np.log(4 / 3) + np.log(4)) / 3
    assert float(compiled("bce")(logits, label)[0]) == pytest.approx(expected, rel=1e-6)


PROBABILITIES = [[1 / 4, 1 / 2, 1 / 4], [4 / 5, 1 / 10, 1 / 10], [1 / 3, 1 / 3, 1 / 3]]
LOGITS = np.log(PROBABILITIES, dtype=np.float32).reshape(1, 1, 3, 3)
LABEL = np.array([[[1, 2, 255]]], np.uint8)
WEIGHT = np.array([[[0.5, 3.0, 7.0]]], np.float32)


def test_cross_entropy_by_hand():
    expected = (np.log(2) + np.log(10)) / 2
    assert float(compiled("cross_entropy")(LOGITS, LABEL)[0]) == pytest.approx(expected, rel=1e-6)


def test_the_weighted_mean_equals_pytorch_s():
    """torch.nn.CrossEntropyLoss(weight=...) divides by the sum of the pixels' weights."""
    plain, by_class = compiled("cross_entropy"), compiled("cross_entropy", class_weights=(9, 2, 4))
    one, two = np.log(2), np.log(10)
    assert float(by_class(LOGITS, LABEL)[0]) == pytest.approx((2 * one + 4 * two) / 6, rel=1e-6)
    expected = (0.5 * one + 3 * two) / 3.5
    assert float(plain(LOGITS, LABEL, WEIGHT)[0]) == pytest.approx(expected, rel=1e-6)
    expected = (2 * 0.5 * one + 4 * 3 * two) / 13
    assert float(by_class(LOGITS, LABEL, WEIGHT)[0]) == pytest.approx(expected, rel=1e-6)


def test_class_weights_of_one_logit_are_of_class_0_and_class_1_by_hand():
    logits = np.full((1, 1, 3, 1), np.log(3.0), np.float32)  # probability 3/4
    label = np.array([[[0, 0, 1]]], np.uint8)
    value = compiled("bce", class_weights=(0.5, 3.0))(logits, label)[0]
    expected = (0.5 * 2 * np.log(4) + 3 * np.log(4 / 3)) / 4
    assert float(value) == pytest.approx(expected, rel=1e-6)


def test_focal_by_hand():
    expected = ((1 / 2) ** 2 * np.log(2) + (9 / 10) ** 2 * np.log(10)) / 2
    assert float(compiled("focal")(LOGITS, LABEL)[0]) == pytest.approx(expected, rel=1e-6)
    logits = np.full((1, 1, 3, 1), np.log(3.0), np.float32)
    label = np.array([[[0, 1, 255]]], np.uint8)
    expected = ((3 / 4) ** 2 * np.log(4) + (1 / 4) ** 2 * np.log(4 / 3)) / 2
    assert float(compiled("focal")(logits, label)[0]) == pytest.approx(expected, rel=1e-6)


def test_dice_by_hand():
    logits = np.log([1, 3, 3, 99]).reshape(1, 2, 2, 1).astype(np.float32)  # 1/2, 3/4, 3/4
    label = np.array([[[1, 0], [1, 255]]], np.uint8)
    expected = 1 - (2 * (1 / 2 + 3 / 4) + 1) / (2 + 2 + 1)
    assert float(compiled("dice")(logits, label)[0]) == pytest.approx(expected, rel=1e-6)
    expected = 1 - (2 * (1 / 2 + 3 / 4) + 10) / (2 + 2 + 10)
    found = compiled("dice", dice_smooth=10.0)(logits, label)[0]
    assert float(found) == pytest.approx(expected, rel=1e-6)
    weight = np.array([[[4, 2], [0, 5]]], np.float32)
    expected = 1 - (2 * 4 / 2 + 1) / ((4 / 2 + 2 * 3 / 4) + 4 + 1)
    assert float(compiled("dice")(logits, label, weight)[0]) == pytest.approx(expected, rel=1e-6)


def test_dice_of_several_classes_is_their_mean_by_hand():
    sums = np.sum(PROBABILITIES[:2], axis=0)
    hits, labelled = np.array([0, 1 / 2, 1 / 10]), np.array([0, 1, 1])
    per_class = 1 - (2 * hits + 1) / (sums + labelled + 1)
    assert float(compiled("dice")(LOGITS, LABEL)[0]) == pytest.approx(per_class.mean(), rel=1e-6)
    found = compiled("dice", class_weights=(0, 1, 3))(LOGITS, LABEL)[0]
    assert float(found) == pytest.approx((per_class[1] + 3 * per_class[2]) / 4, rel=1e-6)


# Comparison with numpy.


@pytest.mark.parametrize(
    ("usual", "name", "k"),
    [
        *((False, *case) for case in CASES),
        *((True, *case) for case in (("bce", 1), ("dice", 2), ("focal", 4))),
    ],
)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    shape=st.sampled_from([(1, 1, 1), (2, 3, 4)]),
    ignored=st.sampled_from([0.0, 0.3, 0.9]),
    seed=st.integers(0, 10**6),
    weighted=st.booleans(),
)
def test_value_and_gradient_equal_numpy(name, k, usual, shape, ignored, seed, weighted):
    fields = {"name": name}
    if not usual:
        fields |= {"class_weights": some_class_weights(k)}
        fields |= {"weights": (0.25, 3.0)[: name.count("+") + 1]}
        fields |= {"dice_smooth": 1e-3, "focal_gamma": 0.5}
    logits, label, weight = batch(k, shape, ignored, seed)
    if not weighted:
        weight = np.ones_like(weight)
    found = compiled(**fields)(logits, label, weight)
    assert_is(found, reference(logits, label, weight, **fields))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_focal_with_gamma_0_is_cross_entropy(k):
    logits, label, weight = batch(k)
    class_weights = some_class_weights(k)
    name = "bce" if k == 1 else "cross_entropy"
    expected = compiled(name, class_weights=class_weights)(logits, label, weight)
    focal = compiled("focal", focal_gamma=0.0, class_weights=class_weights)
    value, gradient = focal(logits, label, weight)
    assert float(value) == float(expected[0])
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-6)


@pytest.mark.parametrize(("weights", "factors"), [((), (1, 1, 1)), ((0.5, 0, 2), (0.5, 0, 2))])
def test_a_sum_is_the_weighted_sum_of_its_terms(weights, factors):
    logits, label, weight = batch(1)
    fields = {"class_weights": (0.5, 2.0), "dice_smooth": 3.0, "focal_gamma": 1.5}
    parts = [compiled(name, **fields)(logits, label, weight) for name in ("dice", "bce", "focal")]
    expected = [
        sum(f * np.float64(part[i]) for f, part in zip(factors, parts, strict=True)) for i in (0, 1)
    ]
    assert_is(
        compiled("dice+bce+focal", weights=weights, **fields)(logits, label, weight), expected
    )


# Nothing counted.


@pytest.mark.parametrize(("name", "k"), [("bce", 1), ("cross_entropy", 2), ("focal", 4)])
def test_loss_and_gradient_are_zero_if_the_only_class_has_weight_0(name, k):
    logits, label, _ = batch(k)
    class_weights = (1.0, 0.0, 1.0, 1.0)[: max(k, 2)]
    value, gradient = compiled(name, class_weights=class_weights)(logits, np.ones_like(label))
    assert float(value) == 0
    np.testing.assert_array_equal(gradient, 0)


# Extreme logits.


@pytest.mark.parametrize(("name", "k"), [case for case in CASES if "+" not in case[0]])
@pytest.mark.parametrize("size", [100.0, 1e4])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("wanted", ["empty", "full"])
def test_extreme_logits(name, k, size, sign, wanted):
    """The last logit is far above (or below) the others; all labels are class 0 or the last."""
    classes = max(k, 2)
    logits = np.zeros((3, 4, 5, k), np.float32)
    logits[..., -1] = sign * size
    label = np.full((3, 4, 5), 0 if wanted == "empty" else classes - 1, np.uint8)
    weight = np.ones(label.shape, np.float32)
    right = (sign > 0) == (wanted == "full")
    # With 4 classes the 3 others are equally likely, so that class 0 is not certain.
    certain = k < 4 or sign > 0
    for gamma in (0.3, 2.0) if "focal" in name else (2.0,):
        value, gradient = compiled(name, focal_gamma=gamma)(logits, label, weight)
        assert np.all(np.isfinite(gradient))
        if name == "dice":
            if certain and right:
                assert float(value) == pytest.approx(0, abs=1e-6)
            elif certain:
                absent = 1 - 1 / (60 + 1)  # 60 pixels of one class against none, with smooth = 1
                assert float(value) == pytest.approx(absent * min(k, 2) / k)
        elif certain:
            expected = 0 if right else size
            assert float(value) == pytest.approx(expected, rel=0.02, abs=1e-6)
            assert np.any(gradient) == (not right)
        elif right:
            factor = (2 / 3) ** gamma if name == "focal" else 1
            assert float(value) == pytest.approx(factor * np.log(3), rel=1e-5)


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("smooth", [1.0, 1e-8])
def test_dice_of_an_empty_mask_is_finite_for_any_smoothing(k, smooth):
    logits = np.full((1, 4, 4, k), -100.0, np.float32)
    label = np.zeros((1, 4, 4), np.uint8)
    value, gradient = compiled("dice", dice_smooth=smooth)(logits, label)
    assert 0 <= float(value) <= 1
    assert np.all(np.isfinite(gradient))


# Single images and devices.


@each_case
def test_vmap_computes_the_loss_of_each_image(name, k):
    logits, label, _ = batch(k)
    label[1] = 255  # a padding image
    loss = build(**FIELDS | {"name": name})
    per_image = jax.jit(jax.vmap(lambda x, y: loss(x[None], y[None])))(logits, label)
    for i in (0, 2):
        expected = reference(logits[i], label[i], name=name)[0]
        assert float(per_image[i]) == pytest.approx(expected, rel=1e-5)
    assert float(per_image[1]) == 0


@pytest.mark.parametrize(
    ("name", "k"), [("bce", 1), ("dice", 1), ("focal", 2), ("cross_entropy+dice", 4)]
)
def test_four_devices_compute_the_global_batch_s_loss_and_gradient(name, k):
    logits, label, weight = batch(k, shape=(8, 3, 5))
    label[:4][np.random.default_rng(1).random((4, 3, 5)) < 0.7] = (
        255  # ignored pixels are distributed unevenly
    )
    label[6:] = 255
    fields = FIELDS | {"name": name, "class_weights": some_class_weights(k)}
    loss = build(**fields)

    @functools.partial(jax.pmap, axis_name=reductions.AXIS, in_axes=(None, 0, 0))
    def on_four(logits, label, weight):
        def local_loss(logits):
            own = logits[jax.lax.axis_index(reductions.AXIS)]
            return loss(own, label, reductions.total, weight)

        value, gradient = jax.value_and_grad(local_loss)(logits)
        return value, reductions.mean(gradient)

    parts = [x.reshape(4, 2, *x.shape[1:]) for x in (logits, label, weight)]
    expected = reference(logits, label, weight, **fields)
    for value, gradient in zip(*on_four(*parts), strict=True):
        assert_is((value, gradient.reshape(logits.shape)), expected)
    averaged = np.mean([value_in_numpy(*part, **fields) for part in zip(*parts, strict=True)])
    assert abs(averaged - expected[0]) > 1e-3  # a mean of the devices' losses would be wrong

    ignored = on_four(parts[0], np.full_like(parts[1], 255), parts[2])
    np.testing.assert_array_equal(ignored[0], 0)
    np.testing.assert_array_equal(ignored[1], 0)


def test_the_softmax_cross_entropy_has_no_gather():
    """For a gather, a TPU copies the logits, padded to 128 classes."""
    logits, target = jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 4, 4), jnp.int32)
    gradient = jax.grad(lambda x: pixel_cross_entropy(x, target).sum())
    assert "gather" not in str(jax.make_jaxpr(gradient)(logits))
