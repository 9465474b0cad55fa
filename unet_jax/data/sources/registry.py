"""The registries of data sets and of their preparations."""

import argparse
import dataclasses
from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from unet_jax.core.fields import Field
from unet_jax.core.registry import Registry
from unet_jax.data.dataset import Dataset

# Opens and checks a data set; the argument is the section `data` of the config.
Open = Callable[[ConfigDict], Dataset]


@dataclasses.dataclass(frozen=True)
class Source:
    """A registered data set."""

    open: Open
    options: Mapping[str, Field]  # config fields of this data set only, by dotted name


@dataclasses.dataclass(frozen=True)
class Preparation:
    """A registered preparation, which converts files once, before a data set can be opened.

    The docstring of its module is the help of the command.
    """

    add_arguments: Callable[[argparse.ArgumentParser], None]  # defines its command line
    run: Callable[[argparse.Namespace], list[str]]  # returns a line for each file that failed


# By `config.data.name`. Not every data set has a preparation.
DATASETS: Registry[Source] = Registry("unet_jax.data.sources")
PREPARATIONS: Registry[Preparation] = Registry("unet_jax.data.sources")


def register(name: str, options: Mapping[str, Field] | None = None) -> Callable[[Open], Open]:
    """Returns a decorator that registers the function that opens a data set.

    Args:
      name: the data set's name, a value of `config.data.name`.
      options: config fields of this data set only, by dotted name (`data.NAME`). A config that
        selects the data set may set them; in any other config they are an error.

    Raises:
      ValueError: another data set has this name.
    """

    def add(open_dataset: Open) -> Open:
        DATASETS.register(name)(Source(open_dataset, options or {}))
        return open_dataset

    return add
