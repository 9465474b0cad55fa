"""The config of an experiment: checked, completed from the data, and read from a run's folder."""

import functools
import pathlib
from collections.abc import Sequence

from ml_collections import ConfigDict

from configs import base
from unet_jax import data, models
from unet_jax.core.config import flatten
from unet_jax.core.errors import UserError
from unet_jax.core.fields import check_field, expected, no_such_field, show
from unet_jax.core.files import expand_utf8
from unet_jax.data.augment.transforms import FITS, TRANSFORMS
from unet_jax.data.augment.warp import OUTSIDES
from unet_jax.data.sources.voc import LISTS
from unet_jax.distributed import hosts
from unet_jax.learning import losses, optim
from unet_jax.models.blocks import NORMS
from unet_jax.models.unet import PADDINGS, UPSAMPLES
from unet_jax.runs.folder import read_config

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
    begun (`folder.recorded_dtype`), or else what `platform` (by default JAX's own) computes in.
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


def read_configs(folders: Sequence[str | pathlib.Path]) -> dict[pathlib.Path, ConfigDict]:
    """The checked configs of the runs in `folders`, which the first host reads."""
    configs = {}
    for folder in (pathlib.Path(expand_utf8(str(folder))) for folder in folders):
        fields = hosts.on_first(functools.partial(read_config, folder))
        configs[folder] = saved_config(fields)
        check(configs[folder])
        # It may name any folder: what is missing there is not for its readers to write.
        configs[folder].data.download = False
    return configs


def saved_config(fields: dict) -> ConfigDict:
    """A run's own config, in the types of `configs/base.py`."""
    config = base.get_config()
    if wrong := [k for k, value in fields.items() if k not in base.FIELDS or value is None]:
        raise UserError(
            f"the run's config.json is of another version ({wrong[0][:99]!r} is unknown or null)"
        )
    for name, value in fields.items():
        try:
            config.update_from_flattened_dict(
                {name: tuple(value) if isinstance(value, list) else value}
            )
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise UserError(
                f"the run's config.json is of another version ({name}={show(value)}: must be "
                f"{expected(base.FIELDS[name])})"
            ) from error
    return config
