"""Configs of experiments: checking them, resolving automatic values, and reading saved ones."""

import functools
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from configs import base
from unet_jax import data, is_binary, models
from unet_jax.core.config import flatten
from unet_jax.core.errors import UserError
from unet_jax.core.fields import Field, add_defaults, check_field, expected, no_such_field, show
from unet_jax.core.files import run_path
from unet_jax.data.dataset import RGB, Dataset
from unet_jax.data.fit import Fit
from unet_jax.data.intensities import left_open, resolved
from unet_jax.data.labels.known import KnownClasses
from unet_jax.data.sources.labelled import open_labelled
from unet_jax.distributed import hosts
from unet_jax.learning import losses
from unet_jax.runs.checkpoints import Checkpoints
from unet_jax.runs.choices import CHOICES
from unet_jax.runs.folder import (
    check_ours,
    class_names,
    read_config,
    recorded_classes,
    recorded_fields,
)
from unet_jax.runs.options import SELECTORS, all_options, selected_options, selectors_of
from unet_jax.runs.pretrained import expected_input, unexpected_input

# Chooses the fields without a value, prints its choices, and returns the config.
Planner = Callable[[ConfigDict, Dataset], ConfigDict]


def check(config: ConfigDict, *, may_be_open: bool = False) -> None:
    """Checks all fields of a config, each by itself and in combination.

    `configs/base.py` defines the type and range of each field, and `CHOICES` the allowed texts. The
    selected data set, network and loss terms may have options of their own, which may be missing.

    Args:
      config: the config.
      may_be_open: whether fields may have no value (None), so that `open_data` chooses one. Then
        only the others are checked, each by itself.

    Raises:
      UserError: a field is unknown, missing or invalid; the message names the first such field.
    """
    fields = flatten(config)
    unset = open_fields(config)
    if unset and not may_be_open:
        raise UserError(
            f"{unset[0]}: has no value; only launch.py can choose one, so give "
            f"--config.{unset[0]}=..."
        )
    for name in SELECTORS:
        if name in fields and name not in unset:
            check_field(name, base_field(name), fields[name])
    known = {name: base_field(name) for name in base.FIELDS} | selected_options(fields)
    for name in fields:
        if name not in known:
            raise UserError(f"{name}: {_describe_unknown(name, known)}")
    for name, field in known.items():
        if name in fields:
            if name not in unset:
                check_field(name, field, fields[name])
        elif name in base.FIELDS:
            raise UserError(f"{name}: the config lacks this field; start from base.get_config()")
    if unset:
        return
    model = add_defaults(config.copy_and_resolve_references(), selected_options(fields)).model
    # Naming a platform keeps JAX from starting its devices, which is too early on many hosts.
    smallest = models.build(**model, platform="cpu").multiple
    if smallest > config.data.size:
        raise UserError(
            f"model.depth={config.model.depth} with data.size={config.data.size}: the network "
            f"needs windows of at least {smallest} pixels; lower model.depth or raise data.size"
        )
    if config.data.foreground and Fit.of(config.data).resizes:
        raise UserError(
            f"data.foreground={config.data.foreground}: needs training windows, but "
            f"data.fit=resize trains on whole images; set data.fit=crop, or data.foreground=0"
        )
    if config.batch_size % config.optim.accumulate:
        raise UserError(
            f"optim.accumulate={config.optim.accumulate}: does not divide "
            f"batch_size={config.batch_size}, the images per step; choose a divisor of it"
        )
    if config.optim.warmup_epochs >= config.num_epochs:
        raise UserError(
            f"optim.warmup_epochs={config.optim.warmup_epochs}: the run has only "
            f"{config.num_epochs} epochs; the learning rate would never reach its highest value"
        )
    if config.optim.frozen_norm != "none" and config.model.norm != "batch":
        raise UserError(
            f"optim.frozen_norm={config.optim.frozen_norm}: model.norm={config.model.norm} has no "
            f"running statistics; set optim.frozen_norm=none"
        )
    if config.model.classes and config.loss.name != "auto":
        losses.check(**config.loss, classes=config.model.classes)


def open_fields(config: ConfigDict) -> list[str]:
    """Returns the dotted names of the fields that have no value."""
    return [name for name, value in flatten(config).items() if value is None]


def base_field(name: str) -> Field:
    """Returns a field of `configs/base.py` with its choices from the registries."""
    return base.FIELDS[name]._replace(choices=tuple(CHOICES.get(name, ())))


def _describe_unknown(name: str, known: Collection[str]) -> str:
    if selectors := selectors_of(name):
        return (
            f"an option of {' and '.join(selectors)}, which this config does not select; remove it"
        )
    return no_such_field(name, [*known, *all_options()])


def resolve(
    config: ConfigDict,
    classes: Sequence[str],
    recorded_dtype: str | None = None,
    platform: str | None = None,
) -> ConfigDict:
    """Replaces the automatic values of a config, which depend on the data and the machine.

    Args:
      config: a checked config; it is not changed.
      classes: names of the data set's classes.
      recorded_dtype: the `model.dtype` of the folder's run if it has begun
        (`folder.recorded_fields`); it replaces `auto`.
      platform: the JAX platform whose dtype replaces `auto` if no dtype is recorded; by default
        the one in use.

    Returns:
      A copy with `model.classes` (the number of logits), `loss.name` and `model.dtype` resolved,
      and with the defaults of missing options.

    Raises:
      UserError: the number of logits, the loss or the weight map does not fit the data's classes.
    """
    config = config.copy_and_resolve_references()
    add_defaults(config, selected_options(flatten(config)))
    logits = 1 if is_binary(len(classes)) else len(classes)
    config.model.classes = config.model.classes or logits
    if config.loss.name == "auto":
        config.loss.name = losses.default_name(config.model.classes)
    if config.model.classes not in (logits, len(classes)):
        raise UserError(
            f"model.classes={config.model.classes}: {config.data.root} has {len(classes)} classes "
            f"({', '.join(classes)}); set it to {logits}, or to 0 to derive it from the data"
        )
    if config.model.dtype == "auto":
        config.model.dtype = models.resolve_dtype(recorded_dtype or "auto", platform)
        check_field("model.dtype", base_field("model.dtype"), config.model.dtype)
    losses.check(**config.loss, classes=config.model.classes)
    if config.data.border_weight and len(classes) != 2:
        raise UserError(
            f"data.border_weight={config.data.border_weight}: the weight map needs two classes, "
            f"background and cells, but {config.data.root} has {len(classes)}; set it to 0"
        )
    return config


def resolve_without_data(config: ConfigDict, platform: str | None = None) -> ConfigDict:
    """Resolves a checked config for a command that opens no data set; see `resolve`.

    What depends on the data becomes two classes, and intensities in the range of their type.
    """
    classes = [str(i) for i in range(max(config.model.classes, 2))]
    config = resolve(config, classes, platform=platform)
    if not config.data.limits:
        config.data.normalize = "range"
    return config


def resolve_intensities(
    config: ConfigDict, dataset: Dataset, recorded: Mapping[str, Any] | None = None
) -> tuple[ConfigDict, list[str]]:
    """Resolves `data.normalize` and its fields; see `unet_jax.data.intensities.resolved`.

    Args:
      config: a resolved config; it is not changed.
      dataset: its data set.
      recorded: fields of the folder's run if it has begun (`folder.recorded_fields`); they replace
        those that the config leaves open.

    Returns:
      A copy of the config, and lines that say what the values of the images become.
    """
    config = config.copy_and_resolve_references()
    if recorded:
        config.data.update(left_open(config.data, recorded))
    weights = expected_input(config)
    fields, more = resolved(config.data, dataset, weights)
    notes = [*unexpected_input(config, fields, weights, dataset.channels), *more]
    config.data.update(fields)
    return config, notes


def open_data(
    config: ConfigDict,
    folder: pathlib.Path,
    plan: Planner | None = None,
    *,
    evaluated: bool = False,
) -> tuple[ConfigDict, Dataset]:
    """Opens the data set of a config, and checks that the run's folder is for this experiment.

    The notes of the data set and of its normalization are printed. Only the first host reads the
    folder.

    Args:
      config: a checked config; it is not changed.
      folder: the run's folder, which need not exist.
      plan: chooses the fields that have no value, unless the folder's run recorded them.
      evaluated: see `folder.check_ours`.

    Returns:
      The resolved config (see `resolve` and `resolve_intensities`) and the data set.

    Raises:
      UserError: the data set cannot be read, the config does not fit it, or the folder has a run of
        another experiment.
    """
    config = config.copy_and_resolve_references()
    config.data.root = str(run_path(config.data.root))
    dataset = data.open_dataset(config.data)
    for note in dataset.notes:
        print(f"note         {note}")
    recorded = hosts.on_first(functools.partial(recorded_fields, folder))
    config = _with_values(config, dataset, folder, recorded, plan)
    config = resolve(config, dataset.classes, recorded.get("model.dtype"))
    check_colours(config.data.augment, dataset.channel_names)
    config, notes = resolve_intensities(config, dataset, recorded)
    for note in notes:
        print(f"note         {note}")
    hosts.on_first(functools.partial(check_ours, folder, config, evaluated=evaluated))
    return config, dataset


def _with_values(
    config: ConfigDict,
    dataset: Dataset,
    folder: pathlib.Path,
    recorded: Mapping[str, Any],
    plan: Planner | None,
) -> ConfigDict:
    """Gives values to the fields that have none: those that the run recorded, or a plan's."""
    unset = open_fields(config)
    if not unset:
        return config
    values = {name: recorded[name] for name in unset if name in recorded}
    minutes, planned = config.plan.minutes, recorded.get("plan.minutes")
    if plan and values and planned not in (None, minutes):
        why = f"the run in {folder} was planned for {planned:g}; use another --workdir"
        print(f"note         plan.minutes={minutes:g} has no effect: {why}")
    values = {name: tuple(x) if isinstance(x, list) else x for name, x in values.items()}
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.update_from_flattened_dict(values)
    if len(values) < len(unset):
        if plan is None:
            missing = ", ".join(name for name in unset if name not in values)
            raise UserError(
                f"{folder}: has no run from which to take {missing}; train it first, or give them"
            )
        config = plan(config, dataset)
    check(config)
    return config


def check_colours(names: Sequence[str], channels: Sequence[str]) -> None:
    """Checks that images have the colours that their augmentation changes.

    RandAugment leaves the saturation of grey images unchanged.

    Args:
      names: transforms, as `data.augment` lists them.
      channels: names of the images' channels.

    Raises:
      UserError: a transform of colours is for RGB images, but these have other channels.
    """
    count, is_rgb = len(channels), tuple(channels) == RGB
    fits = {"hue": is_rgb, "saturation": is_rgb, "randaugment": is_rgb or count == 1}
    for name in names:
        if not fits.get(name, True):
            shown = ", ".join(channels[:8]) + ", ..." * (count > 8)
            raise UserError(
                f"data.augment: {name} changes colours of RGB images, but these have {count} "
                f"channel{'s' * (count != 1)} ({shown}); leave it out"
            )


def open_labelled_data(
    config: ConfigDict, folder: pathlib.Path, root: pathlib.Path
) -> tuple[ConfigDict, Dataset]:
    """Opens a labelled folder for the evaluation of a run that was trained on other data.

    The notes of the data set are printed. Only the first host reads the run's folder.

    Args:
      config: the run's config; it is not changed.
      folder: the run's folder.
      root: the labelled folder.

    Returns:
      The resolved config (see `resolve`) and the data set; see `labelled.open_labelled`.

    Raises:
      UserError: the folder cannot be read or does not suit the run, or the run's folder has
        another experiment or no checkpoint.
    """
    (saved,) = read_configs([folder]).values()
    count = max(2, saved.model.classes)
    names = hosts.on_first(functools.partial(recorded_classes, folder))
    recorded = names is not None and len(names) == count
    classes = tuple(hosts.on_first(functools.partial(class_names, folder, count)))
    config = resolve(config, classes, saved.model.dtype)
    config.data.update(left_open(config.data, flatten(saved)))
    hosts.on_first(functools.partial(check_ours, folder, config, evaluated=True))
    channels = hosts.on_first(functools.partial(input_channels, folder, config))
    known = KnownClasses(classes, recorded, str(folder))
    dataset = open_labelled(config.data, root, known, channels)
    for note in dataset.notes:
        print(f"note         {note}")
    return config, dataset


def input_channels(folder: pathlib.Path, config: ConfigDict) -> int:
    """Returns the number of channels of a run's images, from the shapes of its variables."""
    checkpoints = Checkpoints(folder, config.checkpoint.keep, config.to_dict(), read_only=True)
    try:
        return models.build(**config.model).in_channels(checkpoints.model_shapes())
    finally:
        checkpoints.close()


def read_configs(folders: Sequence[str | pathlib.Path]) -> dict[pathlib.Path, ConfigDict]:
    """Reads and checks the configs of runs.

    Only the first host reads the files; it sends them to the others.

    Args:
      folders: the runs' folders; `~` is expanded.

    Returns:
      The configs by folder, with `data.download` off.

    Raises:
      UserError: a folder has no config, or its config is invalid.
    """
    configs = {}
    for folder in map(run_path, map(str, folders)):
        fields = hosts.on_first(functools.partial(read_config, folder))
        configs[folder] = saved_config(fields)
        check(configs[folder])
        # A saved config may name any data folder, into which evaluation must not download data.
        configs[folder].data.download = False
    return configs


def saved_config(fields: dict) -> ConfigDict:
    """Converts the flat fields of a run's `config.json` to a `ConfigDict`.

    Args:
      fields: values by dotted field name; missing fields get their defaults.

    Returns:
      The config, with the types of the defaults.

    Raises:
      UserError: a field is unknown, null or of another type, so that an incompatible version wrote
        the file.
    """
    known = base.FIELDS | selected_options(fields)
    config = add_defaults(ConfigDict(), known)
    if invalid := [k for k, value in fields.items() if k not in known or value is None]:
        raise UserError(
            f"the run's config.json was written by an incompatible version ({invalid[0][:99]!r} is "
            f"unknown or null)"
        )
    for name, value in fields.items():
        try:
            config.update_from_flattened_dict(
                {name: tuple(value) if isinstance(value, list) else value}
            )
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise UserError(
                f"the run's config.json was written by an incompatible version "
                f"({name}={show(value)}: must be {expected(known[name])})"
            ) from error
    return config
