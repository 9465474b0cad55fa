"""Options: config fields that a data set, a network or a loss term declares for itself."""

from collections.abc import Iterator, Mapping
from typing import Any

from configs import base
from unet_jax import data, models
from unet_jax.core.fields import Field
from unet_jax.learning.registry import LOSSES

# Options of the folder data set, of which earlier versions recorded none or only the first.
LISTS = {"data.train_list", "data.validation_list", "data.test_list"}
# The fields of a config that select an entry of a registry or, joined by '+', several. An entry may
# have `options`.
SELECTORS: dict[str, Mapping[str, Any]] = {
    "data.name": data.DATASETS,
    "model.name": models.NETWORKS,
    "loss.name": LOSSES,
}


def selected_options(fields: Mapping[str, Any]) -> dict[str, Field]:
    """Returns the options of the data set, the network and the loss terms that a config selects.

    Args:
      fields: the config's values by dotted name; unknown names of entries are ignored.

    Returns:
      The options by dotted name.
    """
    found: dict[str, Field] = {}
    for selector, name, options in _all_options():
        if name in str(fields.get(selector, base.FIELDS[selector].default)).split("+"):
            found |= options
    return found


def all_options() -> dict[str, Field]:
    """Returns the options of all data sets, networks and loss terms by dotted name."""
    return {name: field for *_, options in _all_options() for name, field in options.items()}


def selectors_of(option: str) -> list[str]:
    """Returns what selects an option, such as ["data.name=voc"]; empty if there is no such one."""
    return [f"{selector}={name}" for selector, name, has in _all_options() if option in has]


def complete(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Brings the fields of a saved config up to date.

    Options that are missing, because the run is older than they are, get their defaults. Options
    of other entries, which earlier versions recorded in every config, are dropped.

    Args:
      fields: values by dotted name.

    Returns:
      A copy, sorted by name.
    """
    options = selected_options(fields)
    kept = {name: x for name, x in fields.items() if name in options or not selectors_of(name)}
    if LISTS <= options.keys() and not LISTS <= fields.keys():
        # What earlier versions recorded in every config was an option of VOC.
        kept.pop("data.train_list", None)
    return dict(sorted(({name: field.default for name, field in options.items()} | kept).items()))


def _all_options() -> Iterator[tuple[str, str, Mapping[str, Field]]]:
    """Yields selector, name and options of each entry that has options."""
    for selector, registry in SELECTORS.items():
        for name, entry in registry.items():
            if options := getattr(entry, "options", {}):
                yield selector, name, options
