"""The optimizer with a learning rate, and a start, of the encoder's own."""

import jax
import numpy as np
import optax
import pytest
from optimizers import assert_close, fields, floats

from unet_jax.learning import optim

ENCODER = ("down_", "bottom")
PARAMS = {
    "down_0": {"kernel": floats([[2, -3], [1, 4]]), "bias": floats([5, -6])},
    "bottom": {"kernel": floats([[1, 2]])},
    "up_0": {"kernel": floats([[-2, 1]]), "bias": floats([3])},
    "head": {"kernel": floats([[0.5, 0.25]])},
}
NAMES = ("adamw", "sgd")


def gradient_of(params, step: int, frozen: bool):
    """The gradient of a quadratic that moves with the steps; a frozen encoder's is zero."""
    gradient = jax.tree.map(lambda p: p - np.float32(step), params)
    if frozen:
        for name in ("down_0", "bottom"):
            gradient[name] = jax.tree.map(np.zeros_like, gradient[name])
    return gradient


def run(config, params, steps, frozen_steps: int = 0, first: int = 0, state=None, rate=0.1):
    schedule = rate if callable(rate) else optax.constant_schedule(rate)
    optimizer = optim.build(config, schedule, ENCODER, frozen_steps)
    state = optimizer.init(params) if state is None else state
    update = jax.jit(optimizer.update)
    for step in range(first, first + steps):
        gradient = gradient_of(params, step, step < frozen_steps)
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def encoder_of(params):
    return {name: params[name] for name in ("down_0", "bottom")}


def others_of(params):
    return {name: params[name] for name in ("up_0", "head")}


@pytest.mark.parametrize("name", NAMES)
def test_the_encoder_s_rate_is_a_factor_of_the_learning_rate(name):
    options = {"name": name, "weight_decay": 0.1}
    slow, _ = run(fields(encoder_rate=0.25, **options), PARAMS, 4)
    of_encoder, _ = run(fields(**options), PARAMS, 4, rate=0.025)
    of_others, _ = run(fields(**options), PARAMS, 4)
    assert_close(encoder_of(slow), encoder_of(of_encoder))
    assert_close(others_of(slow), others_of(of_others))


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_encoder_keeps_every_bit_and_then_starts_anew(name):
    """Also without weight decay; the schedule counts all steps, Adam's moments only the later."""
    config = fields(name=name, weight_decay=0.1, frozen_epochs=1.0)
    schedule = optax.linear_schedule(0.1, 0.02, 4)
    frozen, state = run(config, PARAMS, 3, frozen_steps=3, rate=schedule)
    jax.tree.map(np.testing.assert_array_equal, encoder_of(frozen), encoder_of(PARAMS))
    plain = fields(name=name, weight_decay=0.1)
    trained, _ = run(plain, PARAMS, 3, rate=schedule)
    assert_close(others_of(frozen), others_of(trained))
    later, _ = run(config, frozen, 2, frozen_steps=3, first=3, state=state, rate=schedule)
    anew, _ = run(plain, frozen, 2, first=3, rate=lambda count: schedule(count + 3))
    assert_close(encoder_of(later), encoder_of(anew))


def test_clipping_is_by_the_norm_over_what_is_trained():
    config = fields(name="sgd", momentum=0.0, clip_norm=0.5, frozen_epochs=1.0)
    moved, _ = run(config, PARAMS, 1, frozen_steps=1, rate=1.0)
    change = jax.tree.map(lambda new, old: new - old, moved, PARAMS)
    assert float(optax.tree.norm(others_of(change))) == pytest.approx(0.5, rel=1e-5)
    assert float(optax.tree.norm(encoder_of(change))) == 0
    whole, _ = run(fields(name="sgd", momentum=0.0, clip_norm=0.5), PARAMS, 1, rate=1.0)
    split = fields(name="sgd", momentum=0.0, clip_norm=0.5, encoder_rate=2.0)
    faster, _ = run(split, PARAMS, 1, rate=1.0)
    assert_close(others_of(faster), others_of(whole))


def test_defaults_keep_the_state_of_earlier_checkpoints():
    config, schedule = fields(clip_norm=1.0), optax.constant_schedule(0.1)
    state = optim.build(config, schedule, ENCODER).init(PARAMS)
    before = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.add_decayed_weights(0.0, lambda params: jax.tree.map(lambda x: x.ndim > 1, params)),
        optax.scale_by_adam(),
        optax.scale_by_learning_rate(schedule),
    ).init(PARAMS)
    assert jax.tree.structure(state) == jax.tree.structure(before)


@pytest.mark.parametrize("option", [{"encoder_rate": 0.5}, {"frozen_epochs": 1.0}])
def test_options_of_the_encoder_need_its_names(option):
    with pytest.raises(ValueError, match="need the encoder's modules"):
        optim.build(fields(**option), optax.constant_schedule(0.1))


@pytest.mark.parametrize(("epochs", "steps"), [(0.0, 0), (0.01, 1), (0.5, 4), (2.0, 16)])
def test_frozen_epochs_are_steps(epochs, steps):
    assert optim.frozen_steps(fields(frozen_epochs=epochs), steps_per_epoch=8) == steps
