"""The checkpoints of a run: the latest training states, and the best model.

`checkpoints/STEP` has the item `model` (the parameters and batch statistics that are evaluated),
the others of a training state, such as `optimizer`, and `config`; `best/STEP` has `model`, `config`
and the `metrics` that made it the best.

Of several in `best/` the one with the lowest loss is the best. There are two where a run has
evaluated at its end, outside of its schedule: a longer run must find the one before; and for a
moment, or after a kill, where the next has been saved and the one before not been deleted.

A checkpoint that does not come back as it was saved is never deleted: a writer sets it aside, under
`damaged/`. A reader looks again before it calls one damaged, since a run at work deletes what is
being read.
"""

import contextlib
import math
import pathlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import orbax.checkpoint as ocp

from unet_jax.core.errors import UserError
from unet_jax.core.faults import system_error
from unet_jax.core.streams import say
from unet_jax.runs import checkpoint_io as disk
from unet_jax.runs.checkpoint_io import Damaged, Tree, Unreadable

T = TypeVar("T")
DAMAGED = "damaged"
DELETED = ".deleted"  # what a checkpoint that is being deleted is called
LOOKS = (0.1, 0.5)  # seconds until a reader looks again, and again, at what is wrong


class Restored(NamedTuple):
    """A model and what was chosen with it."""

    step: int
    model: Tree
    thresholds: dict[str, float]  # chosen on validation, by metric: only the best has them


class Best(NamedTuple):
    """A checkpoint in `best/`."""

    step: int
    metrics: dict[str, Any]

    @property
    def loss(self) -> float:
        """Its validation loss; infinite where it has none, as a version before could leave it."""
        loss = self.metrics.get("loss")
        known = isinstance(loss, int | float) and math.isfinite(loss)
        return float(loss) if known else math.inf


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
        self._accused: set[pathlib.Path] = set()  # what a reader has found damaged
        self._superseded: list[int] = []  # in `best/`, until the next one is on disk
        self.bests: list[Best] = []  # in `best/`, the best first
        self._latest = self._open(folder / "checkpoints", keep)
        self._best = self._open(folder / "best", None)
        self.bests = self._read_bests()

    @property
    def best_metrics(self) -> dict[str, Any] | None:
        """What the best model was saved with."""
        return self.bests[0].metrics if self.bests else None

    def _open(self, folder: pathlib.Path, keep: int | None) -> ocp.CheckpointManager:
        """Opens a folder of checkpoints, without those of which orbax cannot even read about."""
        if not self._read_only:
            for path in folder.glob(f"*{DELETED}"):  # by a writer that was killed
                shutil.rmtree(path, ignore_errors=True)
        looks, listed = 0, None
        while True:
            found = disk.numbered(folder)
            try:
                return disk.open_manager(folder, keep, self._read_only)
            except Exception as error:
                if system_error(error) not in disk.MISSING:
                    raise  # no damage, but no permission or too many open files
                reason = f"{folder}: its checkpoints cannot be read ({disk.shorten(error)})"
            looks, listed = (looks + 1 if found == listed else 1), found
            if self._read_only and looks <= len(LOOKS):
                time.sleep(LOOKS[looks - 1])
                continue
            broken = disk.broken_metadata(folder)
            if not broken or self._read_only:
                places = ", ".join(map(str, broken or found))
                raise UserError(f"{reason}; move what is damaged of {places} away")
            for path in broken:
                say(f"{path}: damaged, and set aside as {self._move_aside(path)}")

    def save(self, step: int, items: dict[str, Tree]) -> None:
        """Saves a training state (`model` and others, numpy trees), once.

        The best model is on disk before it: a run that resumes from this state would not evaluate
        the earlier ones again.
        """
        self._delete_superseded()
        if step not in self._latest.all_steps():
            disk.write(self._latest, step, items, {"config": self.config})

    def save_best(
        self, step: int, model: Tree, metrics: dict[str, Any], keep_previous: bool = False
    ) -> None:
        """Saves a model that is better than those before, in their place.

        `metrics` has its validation `loss`, and the `thresholds` that were best for it. With
        `keep_previous` the best one before stays too, for when this one is deleted.
        """
        self._delete_superseded()
        if step in self._best.all_steps():
            self._latest.wait_until_finished()  # by which it would be found again after a kill
            self.delete_best([step])
            self._best.reload()
        kept = self.bests[: int(keep_previous)]
        values = {"config": self.config, "metrics": metrics}
        disk.write(self._best, step, {"model": model}, values)
        self._superseded = [best.step for best in self.bests[len(kept) :]]
        self.bests = [Best(step, metrics), *kept]

    def delete_best(self, steps: Sequence[int]) -> None:
        """Deletes models in `best/`; the best of those that are left is the best then."""
        self._best.wait_until_finished()
        for step in steps:
            path = self._place(self._best) / str(step)
            with contextlib.suppress(FileNotFoundError):  # somebody else was faster
                # Renamed first, so that nobody finds a part of it.
                shutil.rmtree(path.rename(path.with_name(path.name + DELETED)), ignore_errors=True)
        self.bests = [best for best in self.bests if best.step not in steps]

    def _delete_superseded(self) -> None:
        """Waits until the best model is on disk, and deletes those that it replaces."""
        self._best.wait_until_finished()
        steps, self._superseded = self._superseded, []
        if steps and (self._place(self._best) / str(self.bests[0].step)).exists():
            self.delete_best(steps)

    def latest_step(self) -> int | None:
        return self._latest.latest_step()

    def restore_latest(self, targets: dict[str, Tree]) -> tuple[int, dict[str, Tree]] | None:
        """Step and state of the newest checkpoint that is whole; None where there is none at all.

        `targets` give the items' structures and shapes. Raises a `UserError` where all are damaged.
        """
        steps = self._steps(self._latest)
        for step in reversed(steps):
            try:
                return step, disk.read(self._latest, step, targets)
            except Damaged as error:
                self._set_aside(error)
        if steps:
            raise UserError(
                f"{self.folder}: all checkpoints were damaged and are in {self.folder / DAMAGED}; "
                f"the same command now starts from the first step"
            )
        return None

    def restore_model(self, which: str, model: Tree) -> Restored:
        """A checkpoint's model with its thresholds: `best`, `last`, or a step's number.

        A run without validation has no best: there the last is the chosen one, and where the best
        is damaged too. Raises a `UserError` where the one asked for is damaged.
        """
        while True:
            try:
                return self._look_again(lambda: self._restore(which, model))
            except Damaged as error:
                if which != "best" or error.path.parent != self._place(self._best):
                    raise UserError(f"{error}; evaluate another --checkpoint") from error
                self._set_aside(error)

    def _restore(self, which: str, model: Tree) -> Restored:
        manager, step = self._find(which)
        if manager is self._latest:
            return Restored(step, disk.read(manager, step, {"model": model})["model"], {})
        found = disk.read(manager, step, {"model": model}, ("metrics",))
        metrics = self._check_metrics(step, found["metrics"])
        return Restored(step, found["model"], metrics.get("thresholds", {}))

    def model_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the model's arrays, by their paths; all checkpoints of a run share them."""
        for wait in (*LOOKS, None):
            for manager in (self._best, self._latest):
                for step in reversed(self._steps(manager)):
                    with contextlib.suppress(Exception):  # of a damaged file, orbax raises anything
                        return disk.shapes(manager, step)
            if wait and self._read_only:
                time.sleep(wait)
        raise UserError(f"{self.folder}: no checkpoint there that can be read; train first")

    def _look_again(self, read: Callable[[], T]) -> T:
        """What `read` returns; where it fails, a reader looks again at what is there then.

        Only what is still there and wrong at the third look is accused, or called unreadable.
        """
        looks: Counter[pathlib.Path] = Counter()
        while True:
            try:
                return read()
            except (Damaged, Unreadable) as error:
                looks[error.path] += 1
                last = looks[error.path] > len(LOOKS)
                if not self._read_only or (last and error.path.exists()) or looks.total() > 1000:
                    raise
                time.sleep(0 if last else LOOKS[looks[error.path] - 1])

    def _set_aside(self, error: Damaged) -> None:
        """Out of the way of a writer; a reader only says what is wrong."""
        if self._read_only:
            self._accused.add(error.path)
            say(f"{error}; the one before is taken")
            return
        target = self._move_aside(error.path)
        manager = self._best if error.path.parent == self._place(self._best) else self._latest
        manager.reload()
        if manager is self._best:
            self.bests = [best for best in self.bests if best.step != disk.step_of(error.path)]
        say(f"{error}; it is set aside as {target}, and the one before is taken")

    def _move_aside(self, source: pathlib.Path) -> pathlib.Path:
        target = self.folder / DAMAGED / f"{source.parent.name}-{source.name}"
        number = 1
        while target.exists():
            number += 1
            target = target.with_name(f"{source.parent.name}-{source.name}-{number}")
        target.parent.mkdir(exist_ok=True)
        return source.rename(target)

    def _read_bests(self) -> list[Best]:
        """All in `best/` whose metrics can be read, the best first; others are set aside."""

        def read() -> list[Best]:
            found = []
            for step in self._steps(self._best):
                metrics = disk.read(self._best, step, {}, ("metrics",))["metrics"]
                found.append(Best(step, self._check_metrics(step, metrics)))
            return sorted(found, key=lambda best: (best.loss, best.step))

        while True:
            try:
                return self._look_again(read)
            except Damaged as error:
                self._set_aside(error)

    def _check_metrics(self, step: int, metrics: Any) -> dict[str, Any]:
        """Raises `Damaged` unless they are what `save_best` was given; older ones have no loss."""
        if isinstance(metrics, dict) and isinstance(metrics.get("thresholds", {}), dict):
            return metrics
        raise Damaged(self._place(self._best) / str(step), "no metrics of a model")

    def _steps(self, manager: ocp.CheckpointManager) -> list[int]:
        """The steps of the checkpoints that are on disk, without those found damaged."""
        paths = disk.numbered(self._place(manager))
        return [disk.step_of(path) for path in paths if path not in self._accused]

    def _place(self, manager: ocp.CheckpointManager) -> pathlib.Path:
        return pathlib.Path(manager.directory)

    def _find(self, which: str) -> tuple[ocp.CheckpointManager, int]:
        if which == "best" and (bests := self._read_bests()):
            return self._best, bests[0].step
        latest, best = self._steps(self._latest), self._steps(self._best)
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
        self._delete_superseded()

    def close(self) -> None:
        self.wait()
        self._latest.close()
        self._best.close()
