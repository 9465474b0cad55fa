"""How many epochs a run of this project, or of its twin, can train in a given time.

A short run of the same command is timed: its start, a step and a validation. The number of epochs
of the training follows, and the fields that count epochs are scaled with it.
"""

import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from unet_jax.core.errors import UserError
from unet_jax.training.plan import make_plan

LEAST_STEPS = 40  # of the timed run
UNTIMED = 3  # first steps, in which caches fill
PAUSE = 5.0  # times the median: a longer step is one in which the machine did something else
SCALED = ("optim.step_epochs", "optim.warmup_epochs", "optim.frozen_epochs")


class Pace(NamedTuple):
    """What a run's parts take, seconds."""

    start: float  # from the command to the end of the first step, and other compilations
    step: float
    validation: float  # 0 without validation images


def timed_epochs(config: ConfigDict, train_images: int) -> int:
    """Returns the length of the timed run, an even number of epochs."""
    per_epoch = make_plan(config, train_images).steps_per_epoch
    return 2 * math.ceil(LEAST_STEPS / (2 * per_epoch))


def timed_fields(config: ConfigDict, train_images: int) -> dict[str, Any]:
    """Returns the fields of the timed run: it logs each step, and validates twice."""
    epochs = timed_epochs(config, train_images)
    fields = {"num_epochs": epochs, "log.every_steps": 1, "optim.patience": 0}
    fields |= dict.fromkeys(("eval.every_epochs", "checkpoint.every_epochs"), epochs // 2)
    return fields | _scaled(config, epochs / config.num_epochs)


def measure(history: Sequence[Mapping[str, Any]], started: float) -> Pace:
    """Computes the pace from the records of the timed run.

    Args:
      history: the records of `metrics.jsonl`.
      started: when its process was started, as of `time.time()`.
    """
    ends = {line["step"]: line["time"] for line in history if line["split"] == "train"}
    validated = {line["step"]: line["time"] for line in history if line["split"] == "validation"}
    gaps = {step: ends[step + 1] - ends[step] for step in ends if step + 1 in ends}
    plain = [gap for number, gap in gaps.items() if number > UNTIMED and number not in validated]
    longest = PAUSE * statistics.median(plain)
    step = statistics.mean(gap for gap in plain if gap <= longest)
    # The last validation compiles nothing; what the first takes beyond it is part of the start.
    last = validated[max(ends)] - ends[max(ends)] if max(ends) in validated else 0.0
    compiled = sum(max(0.0, gaps[s] - step - last) for s in validated if s in gaps)
    return Pace(ends[min(ends)] - started + compiled, step, last)


def scaled_fields(
    config: ConfigDict, pace: Pace, seconds: float, train_images: int
) -> dict[str, Any]:
    """Returns the fields of a config that trains for about this time, by dotted name.

    The number of validations stays as it is, as far as possible.

    Args:
      config: the config.
      pace: its pace.
      seconds: the time.
      train_images: number of its training images.

    Raises:
      UserError: the time is too short for an epoch.
    """
    per_epoch = make_plan(config, train_images).steps_per_epoch
    most = int((seconds - pace.start) / (per_epoch * pace.step))
    for epochs in range(most, 0, -1):
        ratio = epochs / config.num_epochs
        every = max(1, round(config.eval.every_epochs * ratio))
        validations = math.ceil(epochs / every) * pace.validation
        if pace.start + epochs * per_epoch * pace.step + validations <= seconds:
            break
    else:
        raise UserError(
            f"{seconds:.0f} s: too short for an epoch, which takes {per_epoch * pace.step:.0f} s "
            f"after a start of {pace.start:.0f} s; give more --minutes"
        )
    fields = {"num_epochs": epochs, "eval.every_epochs": every}
    fields["checkpoint.every_epochs"] = max(1, round(config.checkpoint.every_epochs * ratio))
    return fields | _scaled(config, ratio)


def _scaled(config: ConfigDict, ratio: float) -> dict[str, float]:
    """Returns the fields that count epochs, multiplied, by dotted name."""
    values = {name: config[name.split(".")[0]][name.split(".")[1]] for name in SCALED}
    return {name: value * ratio for name, value in values.items() if value}


def end_of(history: Sequence[Mapping[str, Any]], where: pathlib.Path) -> tuple[int, float]:
    """Returns the last step of a run, and when it or its validation ended."""
    lines = [line for line in history if line["split"] in ("train", "validation")]
    if not lines:
        raise UserError(f"{where}: no step was logged; give more --minutes")
    return max(line["step"] for line in lines), max(line["time"] for line in lines)
