"""Learning-rate schedules and optimizers, built from `config.optim`."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine", "step")
FROZEN_NORMS = ("none", "encoder", "all")


def build_schedule(optim: ConfigDict, num_epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """Builds the learning-rate schedule, a function of the step.

    A linear warm-up from 0, if any, comes first and is part of `num_epochs`. The schedule `step`
    counts its epochs from the end of the warm-up.

    Args:
      optim: `config.optim`.
      num_epochs: length of the training, epochs.
      steps_per_epoch: number of steps in an epoch.

    Returns:
      The schedule, from a step to a learning rate.
    """
    warmup_steps = round(optim.warmup_epochs * steps_per_epoch)
    peak = optim.learning_rate
    if optim.schedule == "cosine":
        decay_steps = max(num_epochs * steps_per_epoch - warmup_steps, 1)
        schedule = optax.cosine_decay_schedule(peak, decay_steps)
    elif optim.schedule == "step":
        every_steps = max(round(optim.step_epochs * steps_per_epoch), 1)
        schedule = functools.partial(_staircase, peak, optim.step_factor, every_steps)
    else:
        schedule = optax.constant_schedule(peak)
    if not warmup_steps:
        return schedule
    warmup = optax.linear_schedule(0.0, peak, warmup_steps)
    return optax.join_schedules([warmup, schedule], [warmup_steps])


def _staircase(peak: float, factor: float, every_steps: int, step: jax.Array) -> jax.Array:
    """Returns peak * factor^n after n reductions, which are counted in integers.

    `optax.exponential_decay` divides in float32. Compiled, its quotient is just below a whole
    number for some steps, so that its reduction comes a step late.
    """
    return peak * factor ** (step // every_steps)


def frozen_steps(optim: ConfigDict, steps_per_epoch: int) -> int:
    """Returns the number of the first steps in which the encoder is not trained.

    It is at least 1, unless `optim.frozen_epochs` is 0.
    """
    return max(round(optim.frozen_epochs * steps_per_epoch), 1) if optim.frozen_epochs else 0


def build(
    optim: ConfigDict,
    schedule: optax.Schedule,
    encoder: Sequence[str] = (),
    frozen_steps: int = 0,
) -> optax.GradientTransformation:
    """Builds the optimizer: gradient clipping, the update rule and weight decay.

    Weight decay is decoupled from the gradient for `adamw` and an L2 term of the gradient for
    `adam` and `sgd`, as in PyTorch. It does not apply to biases and normalisation parameters.

    In the first `frozen_steps` the encoder's parameters do not change, also not by weight decay,
    and the momentum or Adam's moments of the encoder begin with the step after. The gradients of
    the encoder that are given in these steps must be zero, so that clipping is by the norm over
    the parameters that are trained.

    Args:
      optim: `config.optim`.
      schedule: the learning rate, a function of the step.
      encoder: beginnings of the names of the encoder's modules; needed only if the options of the
        encoder differ from their defaults.
      frozen_steps: see `frozen_steps`.

    Raises:
      ValueError: the encoder has options of its own, but `encoder` is empty.
    """
    clipping = [optax.clip_by_global_norm(optim.clip_norm)] if optim.clip_norm else []
    rule, rate = _rule(optim), optax.scale_by_learning_rate(schedule)
    if optim.encoder_rate == 1 and not optim.frozen_epochs:
        # The state of this chain is that of the checkpoints of earlier versions.
        return optax.chain(*clipping, *rule, rate)
    if not encoder:
        raise ValueError("optim.encoder_rate and optim.frozen_epochs need the encoder's modules")
    names = tuple(encoder)

    def labels(params: dict) -> dict:
        return {name: "encoder" if name.startswith(names) else "others" for name in params}

    def is_unfrozen(step: jax.typing.ArrayLike, **_: Any) -> jax.Array:
        return jnp.greater_equal(step, frozen_steps)

    of_encoder = optax.chain(*rule, optax.scale(optim.encoder_rate))
    if frozen_steps:
        of_encoder = optax.conditionally_mask(of_encoder, is_unfrozen)
    # The schedule is outside, because it counts the frozen steps as well.
    parts = optax.partition({"encoder": of_encoder, "others": optax.chain(*rule)}, labels)
    return optax.chain(*clipping, parts, rate)


def _rule(optim: ConfigDict) -> list[optax.GradientTransformation]:
    """Returns the update rule with weight decay, before the learning rate."""
    decay = optax.add_decayed_weights(optim.weight_decay, _is_kernel)
    if optim.name == "sgd":
        return [decay, optax.trace(optim.momentum)]
    if optim.name == "adamw":
        return [optax.scale_by_adam(), decay]
    return [decay, optax.scale_by_adam()]


def _is_kernel(params: optax.Params) -> optax.Params:
    """Selects the leaves with more than one dimension: no biases and no normalisation scales."""
    return jax.tree.map(lambda x: x.ndim > 1, params)
