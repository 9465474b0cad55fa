"""Output files that appear under their names only when they are complete.

An output is written under a temporary path: on a disk beside the final one, which it then replaces;
for a bucket in a local temporary folder, from which it is uploaded.
"""

import contextlib
import errno
import functools
import hashlib
import os
import pathlib
import shutil
import stat
import tempfile
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from unet_jax.core.bucket import is_bucket, remove_tree, upload
from unet_jax.inference.predicted_image import PredictedImage


class OutputFile:
    """A file, or a folder of pictures, that is written while the images of a file are predicted.

    Args:
      path: the final path.
      is_folder: whether it is a folder.
    """

    def __init__(self, path: pathlib.Path, is_folder: bool = False):
        self.path, self.is_folder = path, is_folder

    @property
    def unfinished(self) -> pathlib.Path:
        """The temporary path.

        On a disk it is hidden and the same in each call, so that the next call replaces the file of
        a killed process. It is short even if the final name has the greatest length that the file
        system allows.
        """
        if is_bucket(self.path):
            digest = hashlib.sha256(str(self.path).encode()).hexdigest()
            return pathlib.Path(_uploads().name, digest)
        digest = hashlib.sha256(os.fsencode(self.path.name)).hexdigest()
        return self.path.with_name(f".{digest[:16]}.tmp")

    def exists(self) -> bool:
        """Returns whether it exists under its final path.

        Raises:
          OSError: a folder has the name of the file, or a file that of the folder.
        """
        if is_bucket(self.path):
            return self.path.is_dir() if self.is_folder else self.path.is_file()
        try:
            mode = self.path.stat().st_mode
        except FileNotFoundError:
            return False
        if stat.S_ISDIR(mode) != self.is_folder:
            code = errno.ENOTDIR if self.is_folder else errno.EISDIR
            raise OSError(code, os.strerror(code), str(self.path))
        return True

    def opened(self) -> contextlib.AbstractContextManager[None]:
        """Opens it under its temporary path; it is complete when the context ends.

        Raises:
          OSError: it cannot be written.
          UserError: the input file is damaged.
        """
        return contextlib.nullcontext()

    def remove_previous(self) -> None:
        """Removes from the final path what `publish` cannot replace.

        Raises:
          OSError: a folder there contains files other than these pictures.
        """

    def publish(self) -> None:
        """Moves it to its final path."""
        if is_bucket(self.path):
            upload(self.unfinished, self.path)
        else:
            os.replace(self.unfinished, self.path)

    def discard(self) -> None:
        """Deletes what is at the temporary path."""
        remove(self.unfinished)


class Extra(OutputFile):
    """An output besides the mask; subclasses override the steps that they need.

    Attributes:
      needs_mask: whether it needs the whole mask of an image.
      needs_pixels: whether it needs the pixels of an image, to draw them.
    """

    needs_mask: ClassVar[bool] = False
    needs_pixels: ClassVar[bool] = False

    def begin_image(self, size: tuple[int, int], georeference: Mapping[str, Any]) -> None:
        """Begins with the next image.

        Args:
          size: (height, width), pixels.
          georeference: keyword arguments of `TiffWriter.write` for georeference and resolution; {}
            unless the input is a TIFF.
        """

    def add_rows(self, top: int, band: np.ndarray, ids: np.ndarray) -> None:
        """Adds the next rows of the image.

        Args:
          top: index of the first.
          band: their probabilities, float32 [rows, W, K].
          ids: their class ids, uint8 [rows, W].
        """

    def end_image(self, image: PredictedImage) -> None:
        """Ends the image, all of whose rows have been added."""


def remove(path: pathlib.Path) -> None:
    """Deletes a file or a folder, if there is one."""
    if is_bucket(path):
        remove_tree(path)
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


@functools.cache
def _uploads() -> tempfile.TemporaryDirectory:
    """Returns the folder of files that are still to be uploaded; it is deleted at exit."""
    return tempfile.TemporaryDirectory(prefix="unet_jax-")
