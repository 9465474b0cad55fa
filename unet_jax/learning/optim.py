"""Learning-rate schedules and optimizers, built from `config.optim`."""

import functools

import jax
import optax
from ml_collections import ConfigDict

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine", "step")


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


def build(optim: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Builds the optimizer: gradient clipping, the update rule and weight decay.

    Weight decay is decoupled from the gradient for `adamw` and an L2 term of the gradient for
    `adam` and `sgd`, as in PyTorch. It does not apply to biases and normalisation parameters.

    Args:
      optim: `config.optim`.
      schedule: the learning rate, a function of the step.
    """
    decay = optax.add_decayed_weights(optim.weight_decay, _is_kernel)
    parts = []
    if optim.clip_norm:
        parts.append(optax.clip_by_global_norm(optim.clip_norm))
    if optim.name == "sgd":
        parts += [decay, optax.trace(optim.momentum)]
    elif optim.name == "adamw":
        parts += [optax.scale_by_adam(), decay]
    else:
        parts += [decay, optax.scale_by_adam()]
    return optax.chain(*parts, optax.scale_by_learning_rate(schedule))


def _is_kernel(params: optax.Params) -> optax.Params:
    """Selects the leaves with more than one dimension: no biases and no normalisation scales."""
    return jax.tree.map(lambda x: x.ndim > 1, params)
