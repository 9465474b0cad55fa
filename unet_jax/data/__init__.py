"""Data sets, and the input pipeline from files to batches of NumPy arrays. Does not import JAX."""

import contextlib
import pathlib
from collections.abc import Iterator

from ml_collections import ConfigDict

from unet_jax.core.errors import UserError
from unet_jax.core.faults import FULL
from unet_jax.core.fields import add_defaults
from unet_jax.core.garbage import garbage_collection
from unet_jax.data.dataset import Dataset
from unet_jax.data.download.mirror import local_path
from unet_jax.data.files.index import indexed
from unet_jax.data.sources.registry import DATASETS


def open_dataset(data: ConfigDict) -> Dataset:
    """Opens and checks a data set; writes to `data.root` only if `data.download` is set.

    Files that were checked before and have not changed since are not checked again; see
    `unet_jax.data.files.index`.

    Args:
      data: the section `data` of the config; the data set's own options may be missing. If `root`
        is in a bucket, its files are first copied to this host (`download.mirror`).

    Returns:
      The data set.

    Raises:
      UserError: `data.root` is not a folder or cannot be read, or its content is not valid.
    """
    root, source = local_path(data.root), DATASETS[data.name]
    config = add_defaults(ConfigDict({"data": data.copy_and_resolve_references()}), source.options)
    config.data.root = str(root)
    with opened(root, "data.root", "--config.data.root"):
        return source.open(config.data)


@contextlib.contextmanager
def opened(root: pathlib.Path, field: str, flag: str) -> Iterator[None]:
    """Context manager in which the files of a data set are checked, with the index of its folder.

    Args:
      root: the folder.
      field: what names it, for error messages.
      flag: the flag that names another one.

    Raises:
      UserError: `root` is not a folder or cannot be read.
    """
    try:
        if root.exists() and not root.is_dir():
            raise UserError(f"{field}={root}: is not a folder; name the one that has the data set")
        with garbage_collection(False), indexed(root):  # it creates an object for each file
            yield
    except OSError as error:
        if error.errno is None or error.errno in FULL:
            raise
        raise UserError(
            f"{field}={root}: {error.filename or root} cannot be used ({error.strerror}); fix "
            f"the path or its permissions, or name another folder with {flag}=..."
        ) from error
