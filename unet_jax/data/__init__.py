"""Data sets, and the input pipeline from files to batches of NumPy arrays. Does not import JAX."""

import pathlib

from ml_collections import ConfigDict

from unet_jax.core.errors import UserError
from unet_jax.core.faults import FULL
from unet_jax.data.dataset import Dataset
from unet_jax.data.sources import carvana, drive, folder, isbi, ph2, voc

# Functions that open and check a data set, by `config.data.name`.
DATASETS = {
    "isbi": isbi.open_isbi,
    "phantom": isbi.open_phantom,
    "drive": drive.open_drive,
    "carvana": carvana.open_carvana,
    "voc": voc.open_voc,
    "ph2": ph2.open_ph2,
    "folder": folder.open_folder,
}


def open_dataset(data: ConfigDict) -> Dataset:
    """Opens and checks a data set; writes to `data.root` only if `data.download` is set.

    Args:
      data: the section `data` of the config.

    Returns:
      The data set.

    Raises:
      UserError: `data.root` is not a folder or cannot be read, or its content is not valid.
    """
    root = pathlib.Path(data.root)
    try:
        if root.exists() and not root.is_dir():
            raise UserError(
                f"data.root={root}: is not a folder; name the one that holds the data set"
            )
        return DATASETS[data.name](data)
    except OSError as error:
        if error.errno is None or error.errno in FULL:
            raise
        raise UserError(
            f"data.root={root}: {error.filename or root} cannot be used ({error.strerror}); see "
            f"to it, or name another folder with --config.data.root=..."
        ) from error
