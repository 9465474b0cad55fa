"""The exchange formats that `--mode=export --format=NAME` writes.

A format is a module of this package with a function that is registered under its name:

    @EXPORTERS.register("npz")
    def export_run(folder, config, *, checkpoint, output): ...
"""

import pathlib
from collections.abc import Collection
from inspect import signature
from typing import Protocol

from ml_collections import ConfigDict

from unet_jax.core.errors import UserError
from unet_jax.core.registry import Registry


class Exporter(Protocol):
    """A function that exports the network of a checkpoint.

    It may have further keyword parameters, which are named as flags of `launch.py` (`modes.ABOUT`).
    """

    def __call__(
        self, folder: pathlib.Path, config: ConfigDict, *, checkpoint: str, output: pathlib.Path
    ) -> str:
        """Writes the network to a folder.

        Args:
          folder: folder of the run.
          config: the run's config.
          checkpoint: `best`, `last` or a step.
          output: the output folder, which is created if needed.

        Returns:
          One line for the user: what was written and how to use it.

        Raises:
          UserError: the network cannot be exported, or `output` cannot be written or has other
            files.
        """
        ...


EXPORTERS: Registry[Exporter] = Registry("unet_jax.interchange")


def find_exporter(name: str, about: Collection[str]) -> Exporter:
    """Returns the exporter of a format.

    Args:
      name: the format.
      about: names of the further keyword arguments that it is to use.

    Raises:
      UserError: there is no such format, or it does not use one of `about`.
    """
    if name not in EXPORTERS:
        known = ", ".join(sorted(EXPORTERS))
        raise UserError(f"--format={name}: unknown format; there are {known}")
    used = signature(EXPORTERS[name]).parameters
    for flag in about:
        if flag not in used:
            raise UserError(f"--{flag}: --format={name} does not use it; leave it out")
    return EXPORTERS[name]
