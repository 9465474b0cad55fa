"""Data sets and the way from their files to batches of numpy arrays. No jax in here."""

import pathlib

from ml_collections import ConfigDict

from unet_jax.core.errors import UserError
from unet_jax.core.faults import FULL
from unet_jax.data.dataset import Dataset
from unet_jax.data.sources import carvana, drive, folder, isbi, ph2, voc

# Each opens and checks the data set that `config.data` describes.
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
    """Opens and checks the data set that `config.data` describes.

    Raises a `UserError` where `data.root` is something else than a folder or cannot be read, or
    where the data set finds a fault in it. Writes there only if `data.download` is set.
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
