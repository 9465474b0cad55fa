"""What a config means beyond its fields: checks, comparison, the form in files."""

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from configs import base
from unet_jax import IGNORED, data, losses, models, optim
from unet_jax.data import randaugment
from unet_jax.data.augment import FITS, TRANSFORMS
from unet_jax.data.warp import OUTSIDES
from unet_jax.errors import UserError
from unet_jax.models.layers import NORMS
from unet_jax.models.unet import PADDINGS, UPSAMPLES

# Fields that change no result: where things lie, how fast they go, what is written about them.
FREE_FIELDS = {
    "name",
    "data.root",
    "data.download",
    "data.workers",
    "eval.batch_size",
    "log.every_steps",
    "checkpoint.every_epochs",
    "checkpoint.keep",
}

# A strength of 0 changes nothing.
HIGHEST = {
    "augment.rotation_degrees": 180,
    "augment.shift": 1,
    "augment.scale": 3,
    "augment.shear": 0.9,  # at 1 along both axes nothing but a line would be left
    "augment.elastic_pixels": 1000,
    "augment.brightness": 1,
    "augment.contrast": 1,
    "augment.gamma": 9,
    "augment.hue": 0.5,
    "augment.saturation": 1,
    "augment.blur": 100,
    "augment.noise": 1,
    "augment.randaugment_number": 100,
    "augment.randaugment_magnitude": randaugment.HIGHEST,
}


def check(config: ConfigDict) -> None:
    """Raises a `UserError` that names the first field whose value makes no experiment."""
    choices = {
        "data.name": data.DATASETS,
        "data.fit": FITS,
        "data.input_range": models.INPUT_RANGES,
        "augment.outside": OUTSIDES,
        "model.name": models.MODELS,
        "model.padding": PADDINGS,
        "model.norm": NORMS,
        "model.upsample": UPSAMPLES,
        "model.dtype": ("auto", "float32", "bfloat16"),
        "optim.name": optim.OPTIMIZERS,
        "optim.schedule": optim.SCHEDULES,
    }
    fields = flatten(config)
    for field, allowed in choices.items():
        _check_choice(field, fields[field], allowed)
    for name in config.data.augment:
        _check_choice("data.augment", name, TRANSFORMS)
    for field, value in fields.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{field}={value}: must be a finite number")
    at_least_one = (
        "batch_size num_epochs data.size data.crops_per_image model.width "
        "model.depth eval.every_epochs eval.batch_size log.every_steps checkpoint.every_epochs "
        "checkpoint.keep"
    ).split()
    for field in at_least_one:
        if fields[field] < 1:
            raise UserError(f"{field}={fields[field]}: must be at least 1")
    not_negative = (
        "seed data.border_weight data.workers model.classes optim.warmup_epochs optim.momentum "
        "optim.weight_decay optim.clip_norm"
    ).split()
    for field in not_negative:
        if fields[field] < 0:
            raise UserError(f"{field}={fields[field]}: must not be negative")
    above_zero = "data.border_sigma optim.learning_rate optim.step_epochs optim.step_factor"
    for field in above_zero.split():
        if not fields[field] > 0:
            raise UserError(f"{field}={fields[field]}: must be above 0")
    for field, highest in HIGHEST.items():
        if not 0 <= fields[field] <= highest:
            raise UserError(f"{field}={fields[field]}: must be in [0, {highest}]")
    if config.augment.elastic_grid < 2:
        raise UserError(f"augment.elastic_grid={config.augment.elastic_grid}: must be at least 2")
    if not 0 <= config.model.dropout < 1:
        raise UserError(f"model.dropout={config.model.dropout}: must be in [0, 1)")
    if not 0 <= config.optim.ema_decay < 1:
        raise UserError(f"optim.ema_decay={config.optim.ema_decay}: must be in [0, 1)")
    if config.model.classes >= IGNORED:
        raise UserError(f"model.classes={config.model.classes}: must be below {IGNORED}")
    if config.optim.warmup_epochs >= config.num_epochs:
        raise UserError(
            f"optim.warmup_epochs={config.optim.warmup_epochs}: the run has only "
            f"{config.num_epochs} epochs; the learning rate would never reach its highest value"
        )
    if not 0 < config.eval.threshold < 1:
        raise UserError(f"eval.threshold={config.eval.threshold}: must be between 0 and 1")
    if config.model.classes and config.loss.name != "auto":
        losses.check(**config.loss, classes=config.model.classes)


def resolve(config: ConfigDict, classes: Sequence[str]) -> ConfigDict:
    """The config with what it leaves to the data filled in.

    Raises a `UserError` where the number of logits or the weight map does not fit the data's
    classes.
    """
    config = config.copy_and_resolve_references()
    logits = 1 if len(classes) == 2 else len(classes)
    config.model.classes = config.model.classes or logits
    if config.loss.name == "auto":
        config.loss.name = "bce" if config.model.classes == 1 else "cross_entropy"
    if config.model.classes not in (logits, len(classes)):
        raise UserError(
            f"model.classes={config.model.classes}: {config.data.root} has {len(classes)} classes "
            f"({', '.join(classes)}); set it to {logits}, or to 0 to take what the data have"
        )
    losses.check(**config.loss, classes=config.model.classes)
    if config.data.border_weight and len(classes) != 2:
        raise UserError(
            f"data.border_weight={config.data.border_weight}: the weight map is of two classes, "
            f"background and cells, but {config.data.root} has {len(classes)}; set it to 0"
        )
    return config


def flatten(fields: Any) -> dict[str, Any]:
    """Nested fields -> {"model.width": 16, ...}, in sorted order, tuples as lists."""
    if isinstance(fields, ConfigDict):
        fields = fields.to_dict()
    flat = {}
    for key, value in sorted(fields.items()):
        if isinstance(value, dict):
            flat.update({f"{key}.{inner}": v for inner, v in flatten(value).items()})
        else:
            flat[key] = list(value) if isinstance(value, tuple) else value
    return flat


def result_fields(config: Any) -> dict[str, Any]:
    """The fields that change results.

    A field that is absent has what `configs/base.py` says: that is what held before the field was
    made, so that older runs can be evaluated and go on. The number of epochs counts only where the
    learning rate depends on it: elsewhere a longer run starts as the shorter one did.
    """
    fields = flatten(base.get_config()) | flatten(config)
    fields = {k: v for k, v in fields.items() if k not in FREE_FIELDS}
    if fields["optim.schedule"] != "cosine":
        del fields["num_epochs"]
    return dict(sorted(fields.items()))


def digest(config: Any) -> str:
    """Twelve hexadecimal digits that two configs share if they give the same results."""
    return hashlib.sha256(json.dumps(result_fields(config)).encode()).hexdigest()[:12]


def differences(there: Any, here: Any) -> list[str]:
    """The fields in which two experiments differ, such as `model.width: 16 there, 32 here`."""
    there, here = result_fields(there), result_fields(here)
    return [
        f"{field}: {there.get(field, 'absent')} there, {here.get(field, 'absent')} here"
        for field in sorted(there.keys() | here.keys())
        if there.get(field, "absent") != here.get(field, "absent")
    ]


def _check_choice(field: str, value: Any, allowed: Any) -> None:
    if not isinstance(value, str) or value not in allowed:  # a saved config may hold anything
        raise UserError(f"{field}={value!r}: unknown; choose one of {', '.join(allowed)}")
