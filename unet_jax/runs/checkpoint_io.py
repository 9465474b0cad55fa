"""Reading and writing one folder of checkpoints with orbax, and detecting damaged ones.

All arrays are saved as numpy arrays on the host, so that any number of devices can restore them.
Each checkpoint has `checksums` of its arrays and metrics, because neither orbax nor the libraries
below it detect a changed byte.
"""

import errno
import json
import os
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from unet_jax.core.bucket import Unreachable, is_bucket, noted_if_slow
from unet_jax.core.errors import UserError
from unet_jax.core.faults import explain, system_error
from unet_jax.core.files import path_of, read_json
from unet_jax.runs import checkpoint_files as files

Tree = Any
# Time limit of a save, seconds. Orbax measures it with the system clock, so that setting the clock
# forward during a save ended a run with the default limit of 1200 s.
SAVE_SECONDS = 10**8
# A read that fails with one of these errors, or without one (invalid content), indicates damage.
# Other errors (a network share that does not respond, too many open files, no permission) may be
# temporary, and the files may be intact.
DAMAGE_ERRORS = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL)
# Orbax reads these files of every checkpoint when it opens a folder.
METADATA_FILES = (files.METADATA, "metrics/metrics")


class Damaged(Exception):
    """The content of the checkpoint at `path` differs from what was saved.

    Args:
      path: the checkpoint.
      reason: the error or text that describes the damage.
    """

    def __init__(self, path: pathlib.Path, reason: object):
        super().__init__(f"{path}: this checkpoint is damaged ({shorten(reason)})")
        self.path = path


class Unreadable(UserError):
    """A system error prevents reading the checkpoint at `path`, which may be intact.

    Args:
      path: the checkpoint, or the folder of checkpoints.
      reason: the system error in words.
    """

    def __init__(self, path: pathlib.Path, reason: str):
        super().__init__(
            f"{path}: this checkpoint cannot be read now ({reason}), but may be intact; try again, "
            f"or move it away to resume from the previous one"
        )
        self.path = path


def open_manager(folder: pathlib.Path, keep: int | None, read_only: bool) -> ocp.CheckpointManager:
    """Opens a folder of checkpoints.

    Args:
      folder: the folder; it is created unless `read_only`.
      keep: number of newest checkpoints to keep; None keeps all.
      read_only: whether nothing may be written or deleted.

    Returns:
      The orbax manager of the folder.

    Raises:
      Exception: orbax cannot read the metadata of a checkpoint; it raises various types.
    """
    arrays, values = ocp.StandardCheckpointHandler, ocp.JsonCheckpointHandler
    handlers = dict.fromkeys(("model", "optimizer", "trained"), arrays)
    handlers |= dict.fromkeys(("config", "checksums", "metrics"), values)
    if not read_only:
        folder.mkdir(parents=True, exist_ok=True)
    # Only the first host uses the checkpoints; by default orbax would wait for the others.
    first_host_only = ocp.options.MultiprocessingOptions(
        primary_host=0, active_processes={0}, barrier_sync_key_prefix="first"
    )
    return ocp.CheckpointManager(
        folder.absolute(),  # a relative path would fail later, during a background save
        item_handlers={
            k: handler(multiprocessing_options=first_host_only) for k, handler in handlers.items()
        },
        options=ocp.CheckpointManagerOptions(
            # In a bucket orbax could be killed while it deletes a checkpoint that seems complete.
            preservation_policy=checkpoint_managers.LatestN(None if is_bucket(folder) else keep),
            # Left by a killed save. In a bucket `remove_leftovers` deletes them: orbax would also
            # delete a checkpoint of which it cannot find out whether it is complete.
            cleanup_tmp_directories=not read_only and not is_bucket(folder),
            create=False,
            read_only=read_only,
            multiprocessing_options=first_host_only,
            async_options=ocp.AsyncOptions(SAVE_SECONDS, create_directories_asynchronously=False),
        ),
    )


def directory(manager: ocp.CheckpointManager) -> pathlib.Path:
    """Returns the folder of a manager."""
    return path_of(os.fspath(manager.directory))


def wait(manager: ocp.CheckpointManager) -> None:
    """Waits until all saves are complete."""
    with noted_if_slow(directory(manager)):
        manager.wait_until_finished()


def broken_metadata(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the checkpoints whose invalid metadata prevent orbax from opening the folder."""
    return [
        path
        for path in numbered(folder)
        if not all(_is_json_object(path / n) for n in METADATA_FILES)
    ]


def numbered(folder: pathlib.Path) -> list[pathlib.Path]:
    """Lists the checkpoints on disk, sorted by step.

    The folder is listed until two successive listings agree, because a single listing may miss
    both the old and the new checkpoint while another process adds and deletes them.

    Args:
      folder: the folder of checkpoints.

    Returns:
      The checkpoints' paths; none if the folder does not exist. In a bucket only complete ones.

    Raises:
      Unreadable: the folder cannot be listed.
    """
    previous = None
    while True:
        try:
            paths = [path for path in files.listed(folder) if path.name.isdecimal()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise Unreadable(folder, error.strerror or str(error)) from error
        # A name such as 007 is excluded, because orbax would look for step 7 under the name 7.
        current = sorted((p for p in paths if p.name == str(step_of(p))), key=step_of)
        if current == previous:
            return current
        previous = current


def step_of(path: pathlib.Path) -> int:
    """Returns the step of the checkpoint at `path`."""
    return int(path.name)


def write(
    manager: ocp.CheckpointManager,
    step: int,
    items: Mapping[str, Tree],
    values: Mapping[str, Any],
) -> None:
    """Starts to save a checkpoint in the background.

    Checksums of all items and of all values except `config` are saved with it.

    Args:
      manager: the manager of the folder.
      step: training step of the checkpoint.
      items: trees of numpy arrays, by name.
      values: JSON values, by name.

    Raises:
      RuntimeError: orbax did not save the checkpoint.
    """
    checksums = {name: _checksum(tree) for name, tree in items.items()}
    checksums |= {k: _checksum_json(value) for k, value in values.items() if k != "config"}
    arguments: dict[str, Any] = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
    arguments |= {k: ocp.args.JsonSave(v) for k, v in {**values, "checksums": checksums}.items()}
    # Without `force` orbax skips a step below the newest one, and only returns False.
    with noted_if_slow(directory(manager)):  # it waits for the previous save
        begun = manager.save(step, args=ocp.args.Composite(**arguments), force=True)
    if not begun:
        raise RuntimeError(f"{manager.directory / str(step)}: orbax did not save it")


def read(
    manager: ocp.CheckpointManager,
    step: int,
    targets: Mapping[str, Tree],
    values: Sequence[str] = (),
) -> dict[str, Any]:
    """Reads arrays and JSON values of one checkpoint and verifies their checksums.

    Args:
      manager: the manager of the folder.
      step: training step of the checkpoint.
      targets: trees with the structures and shapes of the arrays to read, by name.
      values: names of the JSON values to read.

    Returns:
      The arrays and values by name, all from the same save.

    Raises:
      Damaged: the content is invalid or has changed.
      Unreadable: the system cannot read the checkpoint now.
      UserError: the shapes of the model differ from the target's.
    """
    path = directory(manager) / str(step)
    items: dict[str, Any] = {name: ocp.args.StandardRestore(t) for name, t in targets.items()}
    checked = ["checksums"] if _has_checksums(path) else []
    items |= dict.fromkeys((*values, *checked), ocp.args.JsonRestore())
    try:
        if "model" in targets:
            _check_fits(manager, step, targets["model"])
        with noted_if_slow(path):
            restored = manager.restore(step, args=ocp.args.Composite(**items))
        found = {name: restored[name] for name in (*targets, *values)}
        expected = dict(restored["checksums"]) if checked else {}
    except UserError:
        raise
    except Exception as error:  # orbax raises various types for damaged files
        raise _fault(path, error) from error
    for name in targets:
        if checked and expected.get(name) != _checksum(found[name]):
            raise _fault(path, f"the arrays of {name} have changed")
    for name in values:
        # Checkpoints of earlier versions have no checksum of their metrics.
        if name in expected and expected[name] != _checksum_json(found[name]):
            raise _fault(path, f"the {name} have changed")
    return found


def shapes(manager: ocp.CheckpointManager, step: int) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a checkpoint's model arrays, by their paths in the tree.

    Raises:
      Damaged: the checkpoint is damaged.
      Unreadable: a system error prevents reading it.
    """
    try:
        return tree_shapes(manager.item_metadata(step)["model"].tree)
    except Exception as error:  # orbax raises various types
        raise _fault(directory(manager) / str(step), error) from error


def tree_shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a tree's leaves, by their paths in the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return {jax.tree_util.keystr(path): tuple(np.shape(leaf)) for path, leaf in leaves}


def shorten(reason: object) -> str:
    """Returns the text of an error on one line, in at most 200 characters."""
    return " ".join(str(reason).split())[:200] or "unreadable"


def _fault(path: pathlib.Path, reason: Exception | str) -> Damaged | Unreadable:
    """Returns `Damaged` for invalid content, `Unreadable` if a system error may be the cause."""
    if is_bucket(path):
        line = explain(reason, path) if isinstance(reason, Exception) else None
        return Unreadable(path, line) if line else Damaged(path, reason)
    code = system_error(reason) if isinstance(reason, Exception) else None
    if code in DAMAGE_ERRORS:
        code = _reading_error(path)  # orbax treats an unlistable folder as empty
    if code not in DAMAGE_ERRORS or isinstance(reason, MemoryError):
        return Unreadable(path, os.strerror(code) if code else "out of memory")
    return Damaged(path, reason)


def _is_json_object(path: pathlib.Path) -> bool:
    """Returns whether a file is missing or holds a JSON object."""
    try:
        return not path.exists() or isinstance(read_json(path), dict)
    except UserError as error:
        if isinstance(error, Unreachable) or system_error(error) not in DAMAGE_ERRORS:
            raise
        return False


def _has_checksums(path: pathlib.Path) -> bool:
    """Returns whether a checkpoint was saved with checksums, unlike those of earlier versions.

    The metadata list all items that were saved. A missing checksum file proves nothing, because
    another process that deletes the checkpoint may delete this file first. The remaining arrays
    would then be restored without verification.
    """
    try:
        items = read_json(path / files.METADATA)["item_handlers"]
    except (UserError, KeyError, TypeError):
        return True
    return not isinstance(items, dict) or "checksums" in items


def _reading_error(path: pathlib.Path) -> int | None:
    """Returns the errno of the first file under `path` that cannot be read, or None."""

    def fail(error: OSError) -> None:
        raise error

    try:
        for folder, _, names in os.walk(path, onerror=fail):
            for name in names:
                pathlib.Path(folder, name).read_bytes()
    except OSError as error:
        return error.errno
    return None


def _checksum(tree: Tree) -> int:
    """Returns the CRC-32 of the paths, dtypes, shapes and bytes of all leaves, in order."""
    total = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        head = f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}"
        total = zlib.crc32(np.ascontiguousarray(array).data, zlib.crc32(head.encode(), total))
    return total


def _checksum_json(value: Any) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def _check_fits(manager: ocp.CheckpointManager, step: int, model: Tree) -> None:
    """Raises `UserError` if shapes differ, which orbax itself does not check."""
    saved, expected = shapes(manager, step), tree_shapes(model)
    mismatches = [
        f"{name}: {saved.get(name, 'absent')} saved, {expected.get(name, 'absent')} in the model"
        for name in sorted(saved.keys() | expected.keys())
        if saved.get(name) != expected.get(name)
    ]
    if mismatches:
        details = "; ".join(mismatches[:3]) + (
            f"; and {len(mismatches) - 3} more" if mismatches[3:] else ""
        )
        raise UserError(
            f"{manager.directory / str(step)}: this checkpoint does not fit the model ({details}); "
            f"use the config it was trained with"
        )
