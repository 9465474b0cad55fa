"""The ISBI experiment at full size, on the real slices or on generated ones."""

import os
import pathlib
import tempfile
from typing import Any

import jax
import tifffile

from unet_jax.data.sources.phantom import FILE_NAMES, generate

SLICES = 30


def find_data(side: int) -> tuple[pathlib.Path, str]:
    """Returns the folder of the stacks, and what they are.

    Args:
      side: side of the slices to generate, in pixels, if the variable UNET_DATA names no folder
        with ISBI 2012.
    """
    real = pathlib.Path(os.environ.get("UNET_DATA", ""), "isbi")
    if os.environ.get("UNET_DATA") and all((real / name).exists() for name in FILE_NAMES):
        return real, "ISBI 2012"
    folder = pathlib.Path(tempfile.gettempdir(), f"stacks-{side}")
    if not all((folder / name).exists() for name in FILE_NAMES):
        folder.mkdir(exist_ok=True)
        for name, stack in zip(FILE_NAMES, generate(SLICES, side), strict=True):
            tifffile.imwrite(folder / name, stack, photometric="minisblack")
    return folder, f"generated stacks, {SLICES} slices of {side}x{side}, as configs/demo.py"


def overrides(settings: dict[str, Any], root: pathlib.Path) -> list[str]:
    """Returns the launcher's flags for the experiment.

    The batch is that of the config, or the next multiple of the number of devices.
    """
    devices = jax.local_device_count()
    fields = settings["fields"] | {
        "data.root": root,
        "batch_size": -(-settings["batch"] // devices) * devices,
    }
    return ["--config=configs/isbi.py", *(f"--config.{k}={v}" for k, v in fields.items())]
