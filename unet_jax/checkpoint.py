"""Checkpoints by orbax: the latest training states, and the best model.

`checkpoints/STEP` has the item `model` (the parameters and batch statistics that are evaluated),
the others of a training state, such as `optimizer`, and `config`; `best/STEP` has `model`, `config`
and the `metrics` that made it the best. All arrays are saved as host numpy, so that any number of
devices can restore them.
"""

import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from unet_jax.errors import UserError

Tree = Any


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
        self._latest = _manager(folder / "checkpoints", keep, read_only)
        self._best = _manager(folder / "best", 1, read_only)
        self.best_metrics = self._read_best_metrics()  # what `save_best` was last given

    def save(self, step: int, items: dict[str, Tree]) -> None:
        """Saves a training state (`model` and others, numpy trees), once."""
        if step in self._latest.all_steps():
            return
        arrays = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        config = ocp.args.JsonSave(self.config)
        self._latest.save(step, args=ocp.args.Composite(**arrays, config=config))

    def save_best(self, step: int, model: Tree, metrics: dict[str, Any]) -> None:
        """Saves the best model so far in the place of the one before.

        `metrics` has its validation `loss`, and the `thresholds` that were best for it.
        """
        self.best_metrics = metrics
        self._best.save(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardSave(model),
                config=ocp.args.JsonSave(self.config),
                metrics=ocp.args.JsonSave(metrics),
            ),
        )

    def latest_step(self) -> int | None:
        return self._latest.latest_step()

    def restore(self, step: int, targets: dict[str, Tree]) -> dict[str, Tree]:
        """The training state at `step`; `targets` give the items' structures and shapes."""
        _check_fits(self._latest, step, targets["model"])
        items = {name: ocp.args.StandardRestore(target) for name, target in targets.items()}
        restored = self._latest.restore(step, args=ocp.args.Composite(**items))
        return {name: restored[name] for name in targets}

    def restore_model(self, which: str, model: Tree) -> tuple[int, Tree]:
        """Step and model of a checkpoint: `best`, `last`, or a step's number.

        A run without validation has no best: there the last is the chosen one.
        """
        manager, step = self._find(which)
        _check_fits(manager, step, model)
        items = ocp.args.Composite(model=ocp.args.StandardRestore(model))
        return step, manager.restore(step, args=items)["model"]

    def chosen_thresholds(self, which: str) -> dict[str, float]:
        """The thresholds chosen on validation with a checkpoint: only the best has them."""
        manager, _ = self._find(which)
        best = self.best_metrics if manager is self._best else None
        return best["thresholds"] if best else {}

    def _read_best_metrics(self) -> dict[str, Any] | None:
        step = self._best.latest_step()
        if step is None:
            return None
        item = ocp.args.Composite(metrics=ocp.args.JsonRestore())
        return self._best.restore(step, args=item)["metrics"]

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
    handlers |= dict.fromkeys(("config", "metrics"), values)
    return ocp.CheckpointManager(
        folder.absolute(),  # a relative path fails only later, in the background
        item_handlers={item: handler() for item, handler in handlers.items()},
        options=ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.LatestN(keep),
            cleanup_tmp_directories=not read_only,  # of a save that was killed
            create=not read_only,
            read_only=read_only,
        ),
    )


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
