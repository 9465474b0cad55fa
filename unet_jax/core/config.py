"""The fields of configs, compared: flat, digested, and where two differ."""

import hashlib
import json
from typing import Any

from ml_collections import ConfigDict

from configs import base

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
