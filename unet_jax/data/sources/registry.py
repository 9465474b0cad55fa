"""The registry of the data sets."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from configs.base import Field
from unet_jax.core.registry import Registry
from unet_jax.data.dataset import Dataset


@dataclasses.dataclass(frozen=True)
class Source:
    """A registered data set."""

    open: Callable[[ConfigDict], Dataset]  # opens and checks it, from the section `data`
    options: Mapping[str, Field]  # config fields of this data set alone, by dotted name


# The data sets, by `config.data.name`.
DATASETS: Registry[Source] = Registry("unet_jax.data.sources")

# One-time preparations by name of the data set, `prepare(root, download, workers)`. `root` is the
# folder of the data set, `download` allows to fetch what is missing, and `workers` is the number of
# threads. They return one line for each file that could not be prepared.
PREPARATIONS: Registry[Callable[[pathlib.Path, bool, int], list[str]]] = Registry(
    "unet_jax.data.sources"
)

Open = Callable[[ConfigDict], Dataset]


def register(name: str, options: Mapping[str, Field] | None = None) -> Callable[[Open], Open]:
    """Returns a decorator that registers the function that opens a data set.

    Args:
      name: the data set's name, a value of `config.data.name`.
      options: config fields of this data set alone, by dotted name (`data.NAME`). A config that
        selects the data set may set them; in any other config they are an error.

    Raises:
      ValueError: another data set has this name.
    """

    def add(open_dataset: Open) -> Open:
        DATASETS.register(name)(Source(open_dataset, options or {}))
        return open_dataset

    return add
