"""Lists, deletes and moves whole checkpoints, on a disk or in a bucket.

A reader never finds a partial checkpoint. On a disk a checkpoint is complete as long as it has its
name: it is renamed after its last file is written, and before its first one is deleted. In a
bucket, where nothing can be renamed, it is complete as long as it has the object `COMMIT`.
"""

import contextlib
import pathlib
import shutil

from unet_jax.core.bucket import Unreachable, copy_tree, is_bucket, list_objects, remove_tree
from unet_jax.core.errors import UserError
from unet_jax.core.files import read_json

METADATA = "_CHECKPOINT_METADATA"  # orbax's description of a checkpoint
COMMIT = "commit_success.txt"  # orbax writes it into a checkpoint as the last file
DELETED = ".deleted"  # suffix of a checkpoint that is being deleted


def listed(folder: pathlib.Path) -> list[pathlib.Path]:
    """Lists the complete checkpoints in a folder, and on a disk whatever else is there.

    Raises:
      FileNotFoundError: the folder does not exist; in a bucket it is then empty.
      OSError, Unreachable: it cannot be listed.
    """
    if not is_bucket(folder):
        return [*folder.iterdir()]
    names = (name.split("/") for name in list_objects(folder))
    return [folder / parts[0] for parts in names if parts[1:] == [COMMIT]]


def remove_leftovers(folder: pathlib.Path) -> None:
    """Deletes what a killed writer left: checkpoints that were being deleted.

    In a bucket also those that were being saved; on a disk orbax does that. A checkpoint that lacks
    only `COMMIT` gets it: either the writer was killed before this last object, or the checkpoint
    is a copy of a local one, into which earlier versions of orbax wrote none.
    """
    if not is_bucket(folder):
        for path in folder.glob(f"*{DELETED}"):
            shutil.rmtree(path, ignore_errors=True)
        return
    found = {folder / name.split("/")[0] for name in list_objects(folder)}
    for path in sorted(found.difference(listed(folder))):
        if _was_complete(path):
            items = {name.split("/")[0] for name in list_objects(path) if "/" in name}
            for place in (*(path / item for item in sorted(items)), path):
                (place / COMMIT).write_text(f"Checkpoint commit was successful to {place}")
        else:
            delete(path)


def _was_complete(path: pathlib.Path) -> bool:
    """Returns whether orbax recorded the time at which it completed a checkpoint."""
    try:
        metadata = read_json(path / METADATA)
    except Unreachable:
        raise
    except UserError:
        return False
    return isinstance(metadata, dict) and bool(metadata.get("commit_timestamp_nsecs"))


def exists(path: pathlib.Path) -> bool:
    """Returns whether there is a complete checkpoint at `path`."""
    return (path / COMMIT if is_bucket(path) else path).exists()


def delete(path: pathlib.Path) -> None:
    """Deletes a checkpoint, unless another process has deleted it."""
    if is_bucket(path):
        # Whatever is deleted first: afterwards nothing says that the checkpoint is complete.
        remove_tree(path, first=(COMMIT, METADATA))
        return
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path.rename(path.with_name(path.name + DELETED)), ignore_errors=True)


def move(source: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Moves a checkpoint into a folder, under a new name made of its own and its folder's.

    Args:
      source: the checkpoint, such as RUN/best/7.
      folder: the other folder, which is created if needed.

    Returns:
      The new path, such as FOLDER/best-7 or, if that exists, FOLDER/best-7-2.
    """
    target = folder / f"{source.parent.name}-{source.name}"
    number = 1
    while target.exists():
        number += 1
        target = target.with_name(f"{source.parent.name}-{source.name}-{number}")
    target.parent.mkdir(exist_ok=True)
    if not is_bucket(source):
        return source.rename(target)
    copy_tree(source, target, last=COMMIT)
    delete(source)
    return target
