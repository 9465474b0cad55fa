"""Comparison of configs: flat fields, the digest and the differences of two configs."""

import hashlib
import json
from collections.abc import Container
from typing import Any

from ml_collections import ConfigDict

from configs import base

# These fields change no result but its rounding: they set locations, speed, memory, and what is
# logged and saved. With dropout, `cpu_devices` changes which units are dropped, too.
FREE_FIELDS = {
    "name",
    "cpu_devices",
    "plan.minutes",
    "data.root",
    "data.download",
    "data.workers",
    "model.remat",
    "eval.batch_size",
    "eval.metrics",
    "log.every_steps",
    "checkpoint.every_epochs",
    "checkpoint.keep",
}
# These define metrics. They change what is trained only if such a metric selects the model.
METRIC_FIELDS = {"eval.nsd_pixels", "eval.objects", "eval.min_object_pixels"}
# An evaluation may change these: they change the scores of a finished run, but not the run.
SCORE_FIELDS = METRIC_FIELDS | {"eval.threshold"}
# Fields that earlier versions recorded in every config, with their defaults. They count as present,
# so that the digests of existing runs do not change.
FORMER_FIELDS = {"data.train_list": "train"}
# Fields that earlier versions lack. At their defaults they do not enter the digest, so that those
# of existing runs do not change.
LATER_FIELDS = METRIC_FIELDS | {
    "data.foreground",
    "data.normalize",
    "data.limits",
    "data.mean",
    "data.std",
    "data.dtype",
    "eval.best",
    "eval.tune",
    "loss.label_smoothing",
    "loss.tversky_alpha",
    "loss.tversky_beta",
    "loss.focal_tversky_gamma",
    "loss.cldice_iterations",
    "loss.boundary_weight",
    "loss.boundary_pixels",
    "model.deep_supervision",
    "optim.accumulate",
    "optim.encoder_rate",
    "optim.frozen_epochs",
    "optim.frozen_norm",
}
# The same for options that a data set declares later, with their defaults.
LATER_OPTIONS = {"data.object_border": 0, "data.validation_share": 0.0}


def flatten(fields: Any) -> dict[str, Any]:
    """Flattens nested fields to dotted names.

    Args:
      fields: a `ConfigDict` or a nested dict.

    Returns:
      Values by dotted name, such as {"model.width": 16}, sorted by name; tuples become lists.
    """
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
    """Returns the fields that change results.

    A missing field gets its default from `configs/base.py` or `FORMER_FIELDS`. The default of a new
    field keeps the earlier behaviour, so that older runs can be evaluated and resumed. `num_epochs`
    is included only if the learning rate depends on it. With any other schedule a longer run starts
    exactly as a shorter one, which can therefore be resumed with more epochs. The same holds for
    `optim.patience`, which is never included: a run that stopped early resumes with more patience.

    Args:
      config: a `ConfigDict` or a dict, nested or flat.

    Returns:
      Values by dotted name, sorted by name.
    """
    fields = flatten(base.get_config()) | FORMER_FIELDS | flatten(config)
    fields = {k: v for k, v in fields.items() if k not in FREE_FIELDS}
    del fields["optim.patience"]
    if fields["optim.schedule"] != "cosine":
        del fields["num_epochs"]
    return dict(sorted(fields.items()))


def digest(config: Any) -> str:
    """Returns the first 12 hexadecimal digits of the SHA-256 of the fields that change results."""
    defaults = flatten(base.get_config())
    later = {name: defaults[name] for name in LATER_FIELDS} | LATER_OPTIONS
    fields = {
        name: value
        for name, value in result_fields(config).items()
        if name not in later or value != later[name]
    }
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:12]


def differences(saved: Any, config: Any, ignored: Container[str] = ()) -> list[str]:
    """Lists the fields that change results and differ between two configs.

    A `model.dtype` of `auto` equals any dtype, because earlier versions did not record the dtype
    that it was resolved to.

    Args:
      saved: the config of a saved run, nested or flat.
      config: the config to compare it with, nested or flat.
      ignored: fields that may differ.

    Returns:
      One text per differing field, such as `model.width: 16 in the run, 32 in the config`.
    """
    saved, config = result_fields(saved), result_fields(config)
    if "auto" in (saved["model.dtype"], config["model.dtype"]):
        saved["model.dtype"] = config["model.dtype"]
    return [
        f"{field}: {saved.get(field, 'absent')} in the run, "
        f"{config.get(field, 'absent')} in the config"
        for field in sorted(saved.keys() | config.keys())
        if field not in ignored and saved.get(field, "absent") != config.get(field, "absent")
    ]
