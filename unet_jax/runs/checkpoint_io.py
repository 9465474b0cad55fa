"""One folder of checkpoints on disk, by orbax: writing, reading, and telling damage.

All arrays are saved as host numpy, so that any number of devices can restore them. Each checkpoint
has `checksums` of its arrays and metrics, since neither orbax nor what is beneath it notices a
changed byte.
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

from unet_jax.core.errors import UserError
from unet_jax.core.faults import system_error
from unet_jax.core.files import read_json

Tree = Any
# Seconds for a save. Orbax counts them by the clock of the day: by 1200, its default, one that was
# set ahead in the middle of a save ended the run.
PATIENCE = 10**8
# Errors of reading that tell of damage: bad content, or files that are not there. Others (a network
# share that does not answer, too many open files, no permission) pass, and the files may be whole.
MISSING = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL)
METADATA = "_CHECKPOINT_METADATA"
ABOUT = (METADATA, "metrics/metrics")  # what orbax reads of all checkpoints at once


class Damaged(Exception):
    """The checkpoint at `path` does not come back as it was saved."""

    def __init__(self, path: pathlib.Path, reason: object):
        super().__init__(f"{path}: this checkpoint is damaged ({shorten(reason)})")
        self.path = path


class Unreadable(UserError):
    """The system cannot read now what is at `path`, which may well be whole."""

    def __init__(self, path: pathlib.Path, why: str):
        super().__init__(
            f"{path}: this checkpoint cannot be read now ({why}), which says nothing of what is in "
            f"it; try again, or, to go on from the one before, move it away"
        )
        self.path = path


def open_manager(folder: pathlib.Path, keep: int | None, read_only: bool) -> ocp.CheckpointManager:
    """The manager of a folder, which keeps the `keep` newest checkpoints (None: all).

    Raises anything where orbax cannot read the metadata of one of them.
    """
    arrays, values = ocp.StandardCheckpointHandler, ocp.JsonCheckpointHandler
    handlers = dict.fromkeys(("model", "optimizer", "trained"), arrays)
    handlers |= dict.fromkeys(("config", "checksums", "metrics"), values)
    if not read_only:
        folder.mkdir(parents=True, exist_ok=True)
    # Of many hosts the first one alone; orbax would wait for the others.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=0, active_processes={0}, barrier_sync_key_prefix="first"
    )
    return ocp.CheckpointManager(
        folder.absolute(),  # a relative path fails only later, in the background
        item_handlers={
            k: handler(multiprocessing_options=alone) for k, handler in handlers.items()
        },
        options=ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.LatestN(keep),
            cleanup_tmp_directories=not read_only,  # of a save that was killed
            create=False,
            read_only=read_only,
            multiprocessing_options=alone,
            async_options=ocp.AsyncOptions(PATIENCE, create_directories_asynchronously=False),
        ),
    )


def broken_metadata(folder: pathlib.Path) -> list[pathlib.Path]:
    """The checkpoints of a folder that keep orbax from opening it."""
    return [path for path in numbered(folder) if not all(_is_record(path / n) for n in ABOUT)]


def numbered(folder: pathlib.Path) -> list[pathlib.Path]:
    """The checkpoints of a folder that are on disk, by their steps.

    Two listings agree: while another process adds and deletes, one may miss both the old and the
    new.
    """
    listed = None
    while True:
        try:
            paths = [path for path in folder.iterdir() if path.name.isdecimal()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise Unreadable(folder, error.strerror or str(error)) from error
        # Not 007: orbax would look for it under the name 7.
        found = sorted((p for p in paths if p.name == str(step_of(p))), key=step_of)
        if found == listed:
            return found
        listed = found


def step_of(path: pathlib.Path) -> int:
    return int(path.name)


def write(
    manager: ocp.CheckpointManager,
    step: int,
    items: Mapping[str, Tree],
    values: Mapping[str, Any],
) -> None:
    """Starts to save arrays and JSON values; `values` are checked too, all but `config`."""
    checksums = {name: _checksum(tree) for name, tree in items.items()}
    checksums |= {k: _checksum_json(value) for k, value in values.items() if k != "config"}
    arguments: dict[str, Any] = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
    arguments |= {k: ocp.args.JsonSave(v) for k, v in {**values, "checksums": checksums}.items()}
    # Without `force` orbax leaves out a step below the newest one, and only returns False.
    if not manager.save(step, args=ocp.args.Composite(**arguments), force=True):
        raise RuntimeError(f"{manager.directory / str(step)}: orbax has not saved it")


def read(
    manager: ocp.CheckpointManager,
    step: int,
    targets: Mapping[str, Tree],
    values: Sequence[str] = (),
) -> dict[str, Any]:
    """The arrays that `targets` name, in their structures and shapes, and the JSON `values`.

    All are of one save. Raises `Damaged`, `Unreadable`, or a `UserError` where shapes differ.
    """
    path = pathlib.Path(manager.directory) / str(step)
    items: dict[str, Any] = {name: ocp.args.StandardRestore(t) for name, t in targets.items()}
    checked = ["checksums"] if _has_checksums(path) else []
    items |= dict.fromkeys((*values, *checked), ocp.args.JsonRestore())
    try:
        if "model" in targets:
            _check_fits(manager, step, targets["model"])
        restored = manager.restore(step, args=ocp.args.Composite(**items))
        found = {name: restored[name] for name in (*targets, *values)}
        expected = dict(restored["checksums"]) if checked else {}
    except UserError:
        raise
    except Exception as error:  # of a damaged file, orbax raises nearly anything
        raise _fault(path, error) from error
    for name in targets:
        if checked and expected.get(name) != _checksum(found[name]):
            raise _fault(path, f"the arrays of {name} have changed")
    for name in values:
        # Older checkpoints have no checksum of their metrics.
        if name in expected and expected[name] != _checksum_json(found[name]):
            raise _fault(path, f"the {name} have changed")
    return found


def shapes(manager: ocp.CheckpointManager, step: int) -> dict[str, tuple[int, ...]]:
    """The shapes of the model's arrays, by their paths. Raises anything where it is damaged."""
    return tree_shapes(manager.item_metadata(step)["model"].tree)


def tree_shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return {jax.tree_util.keystr(path): tuple(np.shape(leaf)) for path, leaf in leaves}


def shorten(reason: object) -> str:
    return " ".join(str(reason).split())[:200] or "unreadable"


def _fault(path: pathlib.Path, reason: Exception | str) -> Damaged | Unreadable:
    """What is wrong with a checkpoint: its content, or that the system cannot read it now."""
    code = system_error(reason) if isinstance(reason, Exception) else None
    if code in MISSING:
        code = _reading_error(path)  # orbax takes a folder that cannot be listed for an empty one
    if code not in MISSING or isinstance(reason, MemoryError):
        return Unreadable(path, os.strerror(code) if code else "out of memory")
    return Damaged(path, reason)


def _is_record(path: pathlib.Path) -> bool:
    """Whether a file, if it is there, holds a JSON object."""
    try:
        return not path.exists() or isinstance(read_json(path), dict)
    except UserError:
        return False


def _has_checksums(path: pathlib.Path) -> bool:
    """False for a checkpoint of an older version; not where they are merely missing now.

    The metadata name all items: of a checkpoint that is being deleted the checksums may go first,
    and what is left would be taken unchecked.
    """
    try:
        items = read_json(path / METADATA)["item_handlers"]
    except (UserError, KeyError, TypeError):
        return True
    return not isinstance(items, dict) or "checksums" in items


def _reading_error(path: pathlib.Path) -> int | None:
    """The number of the system's error where a file of `path` cannot be read."""

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
    """CRC-32 of all leaves' bytes, names and types, in order."""
    total = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        head = f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}"
        total = zlib.crc32(np.ascontiguousarray(array).data, zlib.crc32(head.encode(), total))
    return total


def _checksum_json(value: Any) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def _check_fits(manager: ocp.CheckpointManager, step: int, model: Tree) -> None:
    """Raises a `UserError` where shapes differ, which orbax itself lets pass."""
    saved, wanted = shapes(manager, step), tree_shapes(model)
    wrong = [
        f"{name}: {saved.get(name, 'absent')} there, {wanted.get(name, 'absent')} in the model"
        for name in sorted(saved.keys() | wanted.keys())
        if saved.get(name) != wanted.get(name)
    ]
    if wrong:
        shown = "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if wrong[3:] else "")
        raise UserError(
            f"{manager.directory / str(step)}: this checkpoint does not fit the model ({shown}); "
            f"use the config it was trained with"
        )
