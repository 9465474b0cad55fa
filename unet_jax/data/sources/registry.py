"""The registries of data sets and of their preparations."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from unet_jax.core.fields import Field
from unet_jax.core.registry import Registry
from unet_jax.data.dataset import Dataset

# Opens and checks a data set; the argument is the section `data` of the config.
Open = Callable[[ConfigDict], Dataset]
# Converts the files of a data set once. The arguments are the folder of the data set, whether to
# download missing files, and the number of threads. Returns a line for each file that failed.
Prepare = Callable[[pathlib.Path, bool, int], list[str]]


@dataclasses.dataclass(frozen=True)
class Source:
    """A registered data set."""

    open: Open
    options: Mapping[str, Field]  # config fields of this data set only, by dotted name


# By `config.data.name`. Not every data set has a preparation.
DATASETS: Registry[Source] = Registry("unet_jax.data.sources")
PREPARATIONS: Registry[Prepare] = Registry("unet_jax.data.sources")


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
