"""What a config means beyond its fields: checks, comparison, the form in files."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from configs import base
from unet_jax import data, models
from unet_jax.core.errors import UserError
from unet_jax.core.fields import check_field, no_such_field
from unet_jax.data.augment.transforms import FITS, TRANSFORMS
from unet_jax.data.augment.warp import OUTSIDES
from unet_jax.data.sources.voc import LISTS
from unet_jax.learning import losses, optim
from unet_jax.models.blocks import NORMS
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

# What a field of text may hold, or each text of a tuple, by the registries that know it.
CHOICES = {
    "data.name": data.DATASETS,
    "data.train_list": LISTS,
    "data.fit": FITS,
    "data.input_range": models.INPUT_RANGES,
    "data.augment": TRANSFORMS,
    "augment.outside": OUTSIDES,
    "model.name": models.MODELS,
    "model.padding": PADDINGS,
    "model.norm": NORMS,
    "model.upsample": UPSAMPLES,
    "model.dtype": ("auto", "float32", "bfloat16"),
    "optim.name": optim.OPTIMIZERS,
    "optim.schedule": optim.SCHEDULES,
}


def check(config: ConfigDict) -> None:
    """Raises a `UserError` that names the first field whose value makes no experiment.

    What each field may hold by itself stands beside it in `configs/base.py`, and in `CHOICES`.
    """
    fields = flatten(config)
    for name in fields:
        if name not in base.FIELDS:
            raise UserError(f"{name}: {no_such_field(name)}")
    for name in base.FIELDS:
        if name not in fields:
            raise UserError(f"{name}: the config lacks this field; begin with base.get_config()")
        check_field(name, fields[name], CHOICES.get(name))
    if 2**config.model.depth > config.data.size:
        raise UserError(
            f"model.depth={config.model.depth} with data.size={config.data.size}: so many "
            f"poolings need windows of at least {2**config.model.depth} pixels; lower model.depth "
            f"or raise data.size"
        )
    if config.optim.warmup_epochs >= config.num_epochs:
        raise UserError(
            f"optim.warmup_epochs={config.optim.warmup_epochs}: the run has only "
            f"{config.num_epochs} epochs; the learning rate would never reach its highest value"
        )
    if config.model.classes and config.loss.name != "auto":
        losses.check(**config.loss, classes=config.model.classes)


def resolve(
    config: ConfigDict,
    classes: Sequence[str],
    recorded_dtype: str | None = None,
    platform: str | None = None,
) -> ConfigDict:
    """The config with what it leaves to the data and to the machine filled in.

    A `model.dtype` of `auto` is the `recorded_dtype`, that of the folder's own run where it has
    begun (`workdir.recorded_dtype`), or else what `platform` (by default JAX's own) computes in.
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
    if config.model.dtype == "auto":
        config.model.dtype = models.resolve_dtype(recorded_dtype or "auto", platform)
        check_field("model.dtype", config.model.dtype, CHOICES["model.dtype"])
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
    """The fields in which two experiments differ, such as `model.width: 16 there, 32 here`.

    A `model.dtype` of `auto` is any: earlier versions did not record what it stood for.
    """
    there, here = result_fields(there), result_fields(here)
    if "auto" in (there["model.dtype"], here["model.dtype"]):
        there["model.dtype"] = here["model.dtype"]
    return [
        f"{field}: {there.get(field, 'absent')} there, {here.get(field, 'absent')} here"
        for field in sorted(there.keys() | here.keys())
        if there.get(field, "absent") != here.get(field, "absent")
    ]
