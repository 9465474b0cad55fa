"""Tests of the number of epochs that fit into a time."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.peers import pace
from configs import base
from unet_jax.core.errors import UserError
from unet_jax.training.plan import make_plan


def timed_history(start: float, step: float, validation: float, compiled: float, steps: int):
    """The records of a run that validates twice, with `compiled` seconds in the first time."""
    now, history = 1000.0 + start, []
    for number in range(1, steps + 1):
        history.append({"step": number, "split": "train", "time": now})
        if validation and number in (steps // 2, steps):
            now += validation + (compiled if number < steps else 0)
            history.append({"step": number, "split": "validation", "time": now})
        now += step
    return history


@pytest.mark.parametrize("validation", [0.0, 3.0])
def test_the_pace_is_that_of_the_parts(validation):
    compiled = 5.0 if validation else 0.0
    found = pace.measure(timed_history(20.0, 0.5, validation, compiled, 40), 1000.0)
    assert found.start == pytest.approx(20 + compiled)
    assert found.step == pytest.approx(0.5)
    assert found.validation == pytest.approx(validation)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seconds=st.floats(30, 7200),
    step=st.floats(0.05, 3),
    validation=st.floats(0, 20),
    every=st.integers(1, 10),
    epochs=st.integers(1, 300),
    images=st.integers(4, 60),
)
def test_the_epochs_fill_the_time(seconds, step, validation, every, epochs, images):
    config = base.get_config()
    config.num_epochs, config.eval.every_epochs, config.optim.warmup_epochs = epochs, every, 2.0
    found = pace.Pace(10.0, step, validation)
    per_epoch = make_plan(config, images).steps_per_epoch * step

    def cost(fields):
        validations = math.ceil(fields["num_epochs"] / fields["eval.every_epochs"])
        return 10 + fields["num_epochs"] * per_epoch + validations * validation

    try:
        fields = pace.scaled_fields(config, found, seconds, images)
    except UserError as error:
        assert "too short for an epoch" in str(error)
        assert 10 + per_epoch + validation > seconds
        return
    assert cost(fields) <= seconds + 1e-6
    ratio = fields["num_epochs"] / epochs
    assert fields["optim.warmup_epochs"] == pytest.approx(2 * ratio)
    # One more epoch, with the validations that it would have, takes too long.
    more = fields["num_epochs"] + 1
    next_every = max(1, round(every * more / epochs))
    assert cost({"num_epochs": more, "eval.every_epochs": next_every}) > seconds
