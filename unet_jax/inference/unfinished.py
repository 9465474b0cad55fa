"""Output files that appear under their names only when they are complete.

An output is written under a temporary path: on a disk beside the final one, which it then replaces;
for a bucket in a local temporary folder, from which it is uploaded.
"""

import errno
import functools
import hashlib
import os
import pathlib
import shutil
import stat
import tempfile

from unet_jax.core.bucket import is_bucket, remove_tree, upload


def unfinished(path: pathlib.Path) -> pathlib.Path:
    """Returns the temporary path of an output.

    On a disk it is hidden and the same in each call, so that the next call replaces the file of a
    killed process. It is short even if the final name has the greatest length that the file system
    allows.
    """
    if is_bucket(path):
        return pathlib.Path(_uploads().name, hashlib.sha256(str(path).encode()).hexdigest())
    return path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}.tmp")


@functools.cache
def _uploads() -> tempfile.TemporaryDirectory:
    """Returns the folder of files that are still to be uploaded; it is deleted at exit."""
    return tempfile.TemporaryDirectory(prefix="unet_jax-")


def publish(path: pathlib.Path) -> None:
    """Moves a file or a folder from its temporary path to the final one, `path`."""
    if is_bucket(path):
        upload(unfinished(path), path)
    else:
        os.replace(unfinished(path), path)


def exists(path: pathlib.Path, is_folder: bool) -> bool:
    """Returns whether an output exists.

    Args:
      path: the final path.
      is_folder: whether it is a folder.

    Raises:
      OSError: a folder has the name of an output file, or a file that of an output folder.
    """
    if is_bucket(path):
        return path.is_dir() if is_folder else path.is_file()
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode) != is_folder:
        code = errno.ENOTDIR if is_folder else errno.EISDIR
        raise OSError(code, os.strerror(code), str(path))
    return True


def remove(path: pathlib.Path) -> None:
    """Deletes a file or a folder, if there is one."""
    if is_bucket(path):
        remove_tree(path)
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
