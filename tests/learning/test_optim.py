"""Tests of schedules at chosen steps, and of optimizers against hand-computed updates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optimizers import assert_close, fields, floats

from unet_jax.learning import optim

# A kernel has more than one dimension; a bias and a norm's scale have one.
PARAMS = {
    "conv": {"kernel": floats([[2, -3], [1, 4]]), "bias": floats([5, -6])},
    "norm": {"scale": floats([7, 8]), "bias": floats([-2, 3])},
}
# Gradients: opposite in sign to the parameters and smaller than 0.1 x each kernel value.
GRADIENT = jax.tree.map(lambda p: np.float32(-0.01) * p, PARAMS)


def rates(steps, num_epochs: int = 10, steps_per_epoch: int = 4, **overrides) -> list[float]:
    schedule = optim.build_schedule(fields(**overrides), num_epochs, steps_per_epoch)
    return [np.asarray(schedule(step)).item() for step in steps]


def first_update(learning_rate: float = 0.25, **overrides):
    optimizer = optim.build(fields(**overrides), optax.constant_schedule(learning_rate))
    updates, _ = optimizer.update(GRADIENT, optimizer.init(PARAMS), PARAMS)
    return updates


def global_norm(tree) -> float:
    return float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree))))


def kernels_and_others(tree) -> tuple[list, list]:
    leaves = jax.tree.leaves(tree)
    return [x for x in leaves if x.ndim > 1], [x for x in leaves if x.ndim == 1]


def test_constant_schedule():
    assert rates([0, 1, 17, 1000]) == [0.5] * 4


def test_cosine_schedule_falls_from_the_peak_to_zero_at_the_last_epoch():
    values = rates([0, 10, 20, 30, 40, 50], schedule="cosine")
    expected = [0.25 * (1 + np.cos(np.pi * step / 40)) for step in (0, 10, 20, 30, 40, 40)]
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-7)


def test_step_schedule_is_a_staircase():
    values = rates([0, 11, 12, 23, 24, 35, 36], schedule="step")
    np.testing.assert_allclose(values, [0.5, 0.5, 0.05, 0.05, 0.005, 0.005, 0.0005], rtol=1e-5)


@pytest.mark.parametrize("steps_per_epoch", [1, 7, 41, 47, 83, 100])
def test_a_compiled_step_schedule_reduces_at_the_same_steps(steps_per_epoch):
    overrides = fields(schedule="step", step_epochs=1.0, step_factor=0.5, learning_rate=1.0)
    schedule = optim.build_schedule(overrides, 10, steps_per_epoch)
    steps = np.arange(1, 9) * steps_per_epoch
    at, before = (jax.jit(jax.vmap(schedule))(jnp.asarray(s)) for s in (steps, steps - 1))
    np.testing.assert_allclose(before, 0.5 ** np.arange(0, 8), rtol=1e-5)
    np.testing.assert_allclose(at, 0.5 ** np.arange(1, 9), rtol=1e-5)


def test_step_schedule_takes_fractions_of_epochs_and_at_least_one_step():
    values = rates([0, 1, 2, 3, 4], schedule="step", step_epochs=0.5, step_factor=0.5)
    np.testing.assert_allclose(values, [0.5, 0.5, 0.25, 0.25, 0.125], rtol=1e-6)
    values = rates([0, 1, 2], schedule="step", step_epochs=0.01, step_factor=0.5)
    np.testing.assert_allclose(values, [0.5, 0.25, 0.125], rtol=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_warm_up_is_linear_from_zero_to_the_peak(schedule):
    values = rates([0, 1, 2, 4, 6, 8], schedule=schedule, warmup_epochs=2.0)
    np.testing.assert_allclose(values, [0, 0.0625, 0.125, 0.25, 0.375, 0.5], rtol=1e-5)
    assert max(rates(range(60), schedule=schedule, warmup_epochs=2.0)) == pytest.approx(0.5)


def test_the_warm_up_is_part_of_num_epochs():
    values = rates([8, 24, 40], schedule="cosine", warmup_epochs=2.0)
    np.testing.assert_allclose(values, [0.5, 0.25, 0], rtol=1e-5, atol=1e-7)
    assert rates([9, 39], schedule="constant", warmup_epochs=2.0) == [0.5, 0.5]


def test_fractions_of_a_warm_up_epoch():
    values = rates([0, 1, 2, 3], warmup_epochs=0.5)
    np.testing.assert_allclose(values, [0, 0.25, 0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize("clip_norm", [0.01, 0.05])
def test_clipping_bounds_the_gradient_s_global_norm(clip_norm):
    norm = global_norm(GRADIENT)
    assert norm > clip_norm
    updates = first_update(1.0, name="sgd", momentum=0.0, clip_norm=clip_norm)
    assert global_norm(updates) == pytest.approx(clip_norm, rel=1e-5)
    assert_close(updates, jax.tree.map(lambda g: -g * clip_norm / norm, GRADIENT))


@pytest.mark.parametrize("clip_norm", [0.0, 10.0])
def test_no_clipping_below_the_norm_or_with_clip_norm_0(clip_norm):
    updates = first_update(1.0, name="sgd", momentum=0.0, clip_norm=clip_norm)
    assert_close(updates, jax.tree.map(np.negative, GRADIENT))


def test_clipping_applies_to_the_gradient_without_weight_decay():
    norm = global_norm(GRADIENT)
    updates = first_update(1.0, name="sgd", momentum=0.0, clip_norm=0.01, weight_decay=0.1)
    expected = jax.tree.map(
        lambda g, p: -(g * 0.01 / norm + (0.1 * p if p.ndim > 1 else 0)), GRADIENT, PARAMS
    )
    assert_close(updates, expected)


def decayed(p: np.ndarray) -> np.ndarray:
    """Returns 0.1 x the kernels, and 0 for biases and scales."""
    return np.float32(0.1) * p if p.ndim > 1 else np.zeros_like(p)


def adam_direction(g: np.ndarray) -> np.ndarray:
    """Returns Adam's first update direction: both bias corrections cancel."""
    return g / (np.abs(g) + 1e-8)


FIRST_STEPS = {
    "sgd": lambda g, p: g + decayed(p),
    "adam": lambda g, p: adam_direction(g + decayed(p)),
    "adamw": lambda g, p: adam_direction(g) + decayed(p),
}


@pytest.mark.parametrize("name", FIRST_STEPS)
def test_the_first_step_with_weight_decay_equals_the_formula(name):
    updates = first_update(name=name, weight_decay=0.1)
    expected = jax.tree.map(lambda g, p: -0.25 * FIRST_STEPS[name](g, p), GRADIENT, PARAMS)
    assert_close(updates, expected, rtol=1e-4)


@pytest.mark.parametrize("name", FIRST_STEPS)
def test_weight_decay_applies_only_to_kernels(name):
    with_decay = kernels_and_others(first_update(name=name, weight_decay=0.1))
    without = kernels_and_others(first_update(name=name))
    assert all(np.all(a != b) for a, b in zip(with_decay[0], without[0], strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(with_decay[1], without[1], strict=True))


def run(optimizer: optax.GradientTransformation, steps: int):
    """Returns the parameters after some steps on a quadratic that differs in each step."""
    params, state = PARAMS, optimizer.init(PARAMS)
    update = jax.jit(optimizer.update)
    for step in range(steps):
        gradient = jax.tree.map(lambda p, step=step: p - np.float32(step), params)
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_sgd_with_momentum_equals_numpy(weight_decay):
    schedule = optax.linear_schedule(0.1, 0.02, 4)
    config = fields(name="sgd", momentum=0.8, weight_decay=weight_decay)

    def by_hand(p: np.ndarray) -> np.ndarray:
        p, velocity = p.astype(np.float64), 0.0
        for step in range(6):
            gradient = p - step + (weight_decay * p if p.ndim > 1 else 0)
            velocity = 0.8 * velocity + gradient
            p = p - max(0.1 - 0.02 * step, 0.02) * velocity
        return p

    assert_close(run(optim.build(config, schedule), 6), jax.tree.map(by_hand, PARAMS), rtol=1e-4)


def test_adam_equals_optax():
    schedule = optax.linear_schedule(0.1, 0.02, 4)
    ours = run(optim.build(fields(name="adam"), schedule), 6)
    assert_close(ours, run(optax.adam(schedule), 6))


def test_adamw_equals_optax_with_a_mask():
    schedule = optax.linear_schedule(0.1, 0.02, 4)
    mask = {"conv": {"kernel": True, "bias": False}, "norm": {"scale": False, "bias": False}}
    ours = run(optim.build(fields(name="adamw", weight_decay=0.2), schedule), 6)
    assert_close(ours, run(optax.adamw(schedule, weight_decay=0.2, mask=mask), 6))
