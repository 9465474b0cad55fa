"""Checkpoints by orbax: the latest training states, and the best model.

`checkpoints/STEP` has the item `model` (the parameters and batch statistics that are evaluated),
the others of a training state, such as `optimizer`, and `config`; `best/STEP` has `model`, `config`
and the `metrics` that made it the best. All arrays are saved as host numpy, so that any number of
devices can restore them.

Each checkpoint also has `checksums` of its arrays and metrics, since neither orbax nor what is
beneath it notices a changed byte. One that does not come back as it was saved is never deleted: a
writer sets it aside, under `damaged/`.
"""

import contextlib
import errno
import json
import os
import pathlib
import zlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from unet_jax.errors import UserError
from unet_jax.faults import system_error
from unet_jax.files import read_json
from unet_jax.writer import say

Tree = Any
DAMAGED = "damaged"
# Seconds for a save. Orbax counts them by the clock of the day: by 1200, its default, one that was
# set ahead in the middle of a save ended the run.
PATIENCE = 10**8
# Errors of reading that tell of damage: bad content, or files that are not there. Others (a network
# share that does not answer, too many open files, no permission) pass, and the files may be whole.
MISSING = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL)
ABOUT = ("_CHECKPOINT_METADATA", "metrics/metrics")  # what orbax reads of all checkpoints at once


class Damaged(Exception):
    """A checkpoint does not come back as it was saved."""


class Checkpoints:
    """The checkpoints of one run. Saving goes on in the background until `wait`."""

    def __init__(
        self,
        folder: pathlib.Path,
        keep: int,
        config: dict[str, Any],
        read_only: bool = False,
    ):
        self.folder = folder
        self.config = config
        self._read_only = read_only
        self._latest = self._open(folder / "checkpoints", keep)
        self._best = self._open(folder / "best", 1)
        self.best_metrics = self._read_best_metrics()  # what `save_best` was last given

    def _open(self, folder: pathlib.Path, keep: int) -> ocp.CheckpointManager:
        """Opens a folder of checkpoints, without those of which orbax cannot even read about."""
        try:
            return _manager(folder, keep, self._read_only)
        except Exception as error:
            reason = f"{folder}: its checkpoints cannot be read ({_shorten(error)})"
        steps = [path for path in folder.glob("*") if path.name.isdecimal()]
        broken = [path for path in steps if not all(map(_is_record, ABOUT, [path] * len(ABOUT)))]
        if not broken or self._read_only:
            places = ", ".join(map(str, broken or steps))
            raise UserError(f"{reason}; move what is damaged of {places} away")
        for path in broken:
            say(f"{path}: damaged, and set aside as {self._move_aside(path)}")
        return self._open(folder, keep)

    def save(self, step: int, items: dict[str, Tree]) -> None:
        """Saves a training state (`model` and others, numpy trees), once."""
        if step in self._latest.all_steps():
            return
        self._latest.save(step, args=ocp.args.Composite(**self._arguments(items)))

    def save_best(self, step: int, model: Tree, metrics: dict[str, Any]) -> None:
        """Saves the best model so far in the place of the one before.

        `metrics` has its validation `loss`, and the `thresholds` that were best for it.
        """
        self.best_metrics = metrics
        arguments = self._arguments({"model": model}, metrics=metrics)
        self._best.save(step, args=ocp.args.Composite(**arguments))

    def _arguments(self, items: dict[str, Tree], **values: Any) -> dict[str, Any]:
        arrays = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        checksums = {name: _checksum(tree) for name, tree in items.items()}
        checksums |= {name: _checksum_json(value) for name, value in values.items()}
        values |= {"config": self.config, "checksums": checksums}
        return arrays | {name: ocp.args.JsonSave(value) for name, value in values.items()}

    def latest_step(self) -> int | None:
        return self._latest.latest_step()

    def restore_latest(self, targets: dict[str, Tree]) -> tuple[int, dict[str, Tree]] | None:
        """Step and state of the newest checkpoint that is whole; None where there is none at all.

        `targets` give the items' structures and shapes. Raises a `UserError` where all are damaged.
        """
        steps = sorted(self._latest.all_steps(), reverse=True)
        for step in steps:
            try:
                return step, _read(self._latest, step, targets)
            except Damaged as error:
                self._set_aside(self._latest, step, error)
        if steps:
            raise UserError(
                f"{self.folder}: all checkpoints were damaged and are in {self.folder / DAMAGED}; "
                f"the same command now starts from the first step"
            )
        return None

    def restore_model(self, which: str, model: Tree) -> tuple[int, Tree]:
        """Step and model of a checkpoint: `best`, `last`, or a step's number.

        A run without validation has no best: there the last is the chosen one, and where the best
        is damaged too. Raises a `UserError` where the one asked for is damaged.
        """
        manager, step = self._find(which)
        try:
            return step, _read(manager, step, {"model": model})["model"]
        except Damaged as error:
            if which != "best" or manager is self._latest:
                raise UserError(f"{error}; evaluate another --checkpoint") from error
            self._set_aside(manager, step, error)
            return self.restore_model("last", model)

    def model_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the model's arrays, by their paths; all checkpoints of a run share them."""
        for manager in (self._best, self._latest):
            for step in sorted(manager.all_steps(), reverse=True):
                with contextlib.suppress(Exception):  # of a damaged file, orbax raises anything
                    return _shapes(manager.item_metadata(step)["model"].tree)
        raise UserError(f"{self.folder}: no checkpoint there that can be read; train first")

    def _set_aside(self, manager: ocp.CheckpointManager, step: int, error: Exception) -> None:
        """Out of the way of a writer; a reader only says what is wrong."""
        if manager is self._best:
            self.best_metrics = None
        if self._read_only:
            say(f"{error}; the one before is taken")
            return
        target = self._move_aside(pathlib.Path(manager.directory) / str(step))
        manager.reload()
        say(f"{error}; it is set aside as {target}, and the one before is taken")

    def _move_aside(self, source: pathlib.Path) -> pathlib.Path:
        target = self.folder / DAMAGED / f"{source.parent.name}-{source.name}"
        number = 1
        while target.exists():
            number += 1
            target = target.with_name(f"{source.parent.name}-{source.name}-{number}")
        target.parent.mkdir(exist_ok=True)
        return source.rename(target)

    def chosen_thresholds(self, which: str) -> dict[str, float]:
        """The thresholds chosen on validation with a checkpoint: only the best has them."""
        manager, _ = self._find(which)
        best = self.best_metrics if manager is self._best else None
        return best["thresholds"] if best else {}

    def _read_best_metrics(self) -> dict[str, Any] | None:
        step = self._best.latest_step()
        if step is None:
            return None
        try:
            items = dict.fromkeys(
                ("metrics", *_checksums(self._best, step)), ocp.args.JsonRestore()
            )
            restored = self._best.restore(step, args=ocp.args.Composite(**items))
            metrics = restored["metrics"]
            if not {"loss", "thresholds"} <= metrics.keys():
                raise ValueError("no loss or no thresholds")
            found = _checksum_json(metrics)
            # Older checkpoints have no checksum of their metrics, or none at all.
            if "checksums" in items and restored["checksums"].get("metrics", found) != found:
                raise ValueError("the metrics have changed")
            return metrics
        except Exception as error:  # of a damaged file, orbax raises nearly anything
            self._set_aside(self._best, step, _damage(self._best, step, error))
            return None

    def _find(self, which: str) -> tuple[ocp.CheckpointManager, int]:
        latest, best = self._latest.all_steps(), self._best.all_steps()
        if which == "best" and best:
            return self._best, max(best)
        if which in ("best", "last") and latest:
            return self._latest, max(latest)
        if which.isdecimal() and int(which) in latest:
            return self._latest, int(which)
        if which.isdecimal() and int(which) in best:
            return self._best, int(which)
        steps = sorted({*latest, *best})
        raise UserError(
            f"{self.folder}: no checkpoint {which!r}; there are "
            f"{', '.join(map(str, steps)) or 'none yet: train first'}"
        )

    def wait(self) -> None:
        """Returns when all that was saved is on disk."""
        self._latest.wait_until_finished()
        self._best.wait_until_finished()

    def close(self) -> None:
        self.wait()
        self._latest.close()
        self._best.close()


def _manager(folder: pathlib.Path, keep: int, read_only: bool) -> ocp.CheckpointManager:
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


def _read(manager: ocp.CheckpointManager, step: int, targets: dict[str, Tree]) -> dict[str, Tree]:
    """The items that `targets` name; raises `Damaged`, or a `UserError` where shapes differ."""
    items: dict[str, Any] = {
        name: ocp.args.StandardRestore(target) for name, target in targets.items()
    }
    checked = _checksums(manager, step)
    items |= dict.fromkeys(checked, ocp.args.JsonRestore())
    try:
        _check_fits(manager, step, targets["model"])
        restored = manager.restore(step, args=ocp.args.Composite(**items))
        found = {name: restored[name] for name in targets}
        expected = dict(restored["checksums"]) if checked else {}
    except UserError:
        raise
    except Exception as error:  # of a damaged file, orbax raises nearly anything
        raise _damage(manager, step, error) from error
    for name, tree in found.items():
        if checked and expected.get(name) != _checksum(tree):
            raise _damage(manager, step, f"the arrays of {name} have changed")
    return found


def _damage(manager: ocp.CheckpointManager, step: int, reason: Exception | str) -> Damaged:
    """Raises a `UserError` where it is the system that cannot read now what may well be whole."""
    path = pathlib.Path(manager.directory) / str(step)
    code = system_error(reason) if isinstance(reason, Exception) else None
    if code in MISSING:
        code = _reading_error(path)  # orbax takes a folder that cannot be listed for an empty one
    if code not in MISSING or isinstance(reason, MemoryError):
        why = os.strerror(code) if code else "out of memory"
        raise UserError(
            f"{path}: this checkpoint cannot be read now ({why}), which says nothing of what is in "
            f"it; try again, or, to go on from the one before, move it away"
        )
    shown = _shorten(str(reason))
    return Damaged(f"{path}: this checkpoint is damaged ({shown})")


def _shorten(reason: object) -> str:
    return " ".join(str(reason).split())[:200] or "unreadable"


def _is_record(name: str, folder: pathlib.Path) -> bool:
    """Whether a file, if it is there, holds a JSON object."""
    try:
        return not (folder / name).exists() or isinstance(read_json(folder / name), dict)
    except UserError:
        return False


def _checksums(manager: ocp.CheckpointManager, step: int) -> list[str]:
    """The item that has them, where there is one: older checkpoints have none."""
    there = (pathlib.Path(manager.directory) / str(step) / "checksums").exists()
    return ["checksums"] if there else []


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
    saved = _shapes(manager.item_metadata(step)["model"].tree)
    wanted = _shapes(model)
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


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return {jax.tree_util.keystr(path): tuple(np.shape(leaf)) for path, leaf in leaves}
