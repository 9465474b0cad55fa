"""Checkpoints of a run: the latest training states and the best model.

`checkpoints/STEP` has the items `model` (the parameters and batch statistics that are evaluated),
`config`, and the rest of the training state, such as `optimizer`. `best/STEP` has `model`, `config`
and the validation `metrics` of that model.

If `best/` holds several checkpoints, the one with the lowest loss, or the best value of the metric
`eval.best`, is the best. It holds two if a run validated at its end, outside its schedule, because
a run that is extended must find the previous best. It also holds two for a moment, or after a kill,
when a new best model has been saved and the previous one has not been deleted yet.

A damaged checkpoint is never deleted: a writer moves it to `damaged/`. A reader retries before it
reports damage, because a run in progress may be deleting the checkpoint.
"""

import pathlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import orbax.checkpoint as ocp

from unet_jax.core.bucket import is_bucket
from unet_jax.core.errors import UserError
from unet_jax.core.faults import explain, system_error
from unet_jax.core.streams import say
from unet_jax.runs import checkpoint_files as files
from unet_jax.runs import checkpoint_io as disk
from unet_jax.runs.best import SELECTED, Best
from unet_jax.runs.checkpoint_io import Damaged, Tree, Unreadable

T = TypeVar("T")
DAMAGED = "damaged"
RETRY_SECONDS = (0.1, 0.5)  # seconds before a reader's first and second retry


class Restored(NamedTuple):
    """A restored model with its step and the thresholds that validation chose, by metric."""

    step: int
    model: Tree
    thresholds: dict[str, float]  # the model's own; only in best/
    decisive: dict[str, float]  # those that apply to it: its own if `best`, or the best model's


class Checkpoints:
    """The checkpoints of one run, which are saved in the background; `wait` waits for the saves.

    Args:
      folder: the run's folder.
      keep: number of newest training states to keep.
      config: the run's config, saved with each checkpoint.
      read_only: whether this is a reader, which never changes the folder.

    Attributes:
      bests: the checkpoints in `best/`, the best first.

    Raises:
      UserError: the checkpoints cannot be listed or opened, even after damaged ones are set aside.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        keep: int,
        config: dict[str, Any],
        read_only: bool = False,
    ):
        self.folder = folder
        self.config = config
        self._keep, self._read_only = keep, read_only
        self._found_damaged: set[pathlib.Path] = set()  # by a reader, which cannot move them
        self._superseded: list[int] = []  # steps in `best/` to delete after the next save
        self.bests: list[Best] = []
        self._latest = self._open(folder / "checkpoints", keep)
        self._best = self._open(folder / "best", None)
        self.bests = self._read_bests()

    @property
    def best_metrics(self) -> dict[str, Any] | None:
        """Metrics with which the best model was saved, or None if there is no best model."""
        return self.bests[0].metrics if self.bests else None

    def _open(self, folder: pathlib.Path, keep: int | None) -> ocp.CheckpointManager:
        """Opens a folder of checkpoints; a writer first sets aside those with invalid metadata."""
        if not self._read_only:
            files.remove_leftovers(folder)
        attempts, previous = 0, None
        while True:
            paths = disk.numbered(folder)
            try:
                return disk.open_manager(folder, keep, self._read_only)
            except Exception as error:
                unreachable = is_bucket(folder) and explain(error, folder)
                if unreachable or system_error(error) not in disk.DAMAGE_ERRORS:
                    raise  # not damage, but e.g. no permission or too many open files
                reason = f"{folder}: its checkpoints cannot be read ({disk.shorten(error)})"
            attempts, previous = (attempts + 1 if paths == previous else 1), paths
            if self._read_only and attempts <= len(RETRY_SECONDS):
                time.sleep(RETRY_SECONDS[attempts - 1])
                continue
            broken = disk.broken_metadata(folder)
            if not broken or self._read_only:
                names = ", ".join(map(str, broken or paths))
                raise UserError(f"{reason}; move the damaged ones among {names} away")
            for path in broken:
                say(f"{path}: damaged; moved to {self._move_aside(path)}")

    def save(self, step: int, items: dict[str, Tree]) -> None:
        """Saves a training state, unless its step is already saved.

        First waits until the best model is on disk, because a run that resumes from this state
        does not repeat the earlier validations.

        Args:
          step: training step.
          items: trees of numpy arrays by name: `model` and the rest of the training state.
        """
        self._delete_superseded()
        if step not in self._latest.all_steps():
            disk.write(self._latest, step, items, {"config": self.config})
            self._delete_oldest()

    def save_best(
        self, step: int, model: Tree, metrics: dict[str, Any], keep_previous: bool = False
    ) -> None:
        """Saves a new best model, which replaces the previous ones once it is on disk.

        Args:
          step: training step.
          model: tree of numpy arrays.
          metrics: its validation metrics, among them `loss` and its best `thresholds`.
          keep_previous: whether the previous best model is kept, in case this one is deleted.
        """
        self._delete_superseded()
        if step in self._best.all_steps():
            # If the run is killed before the new model is saved, it resumes from a training state
            # and validates this step again. That state must therefore be on disk first.
            disk.wait(self._latest)
            self.delete_best([step])
            self._best.reload()
        kept = self.bests[: int(keep_previous)]
        values = {"config": self.config, "metrics": metrics}
        disk.write(self._best, step, {"model": model}, values)
        self._superseded = [best.step for best in self.bests[len(kept) :]]
        self.bests = [Best(step, metrics), *kept]

    def delete_best(self, steps: Sequence[int]) -> None:
        """Deletes models in `best/`; the best remaining model becomes the best.

        Args:
          steps: training steps of the models.
        """
        disk.wait(self._best)
        for step in steps:
            files.delete(self._directory(self._best) / str(step))
        self.bests = [best for best in self.bests if best.step not in steps]

    def _delete_superseded(self) -> None:
        """Waits until the best model is on disk, then deletes the models that it replaces."""
        disk.wait(self._best)
        steps, self._superseded = self._superseded, []
        if steps and files.exists(self._directory(self._best) / str(self.bests[0].step)):
            self.delete_best(steps)

    def _delete_oldest(self) -> None:
        """Deletes all but the newest training states in a bucket; on a disk orbax does that."""
        if is_bucket(self.folder):
            for step in self._steps(self._latest)[: -self._keep]:
                files.delete(self._directory(self._latest) / str(step))

    def latest_step(self) -> int | None:
        """Returns the step of the newest training state, or None."""
        return self._latest.latest_step()

    def restore_latest(self, targets: dict[str, Tree]) -> tuple[int, dict[str, Tree]] | None:
        """Restores the newest intact training state; a writer sets damaged ones aside.

        Args:
          targets: trees with the structures and shapes of the items, by name.

        Returns:
          The step and the items, or None if there is no checkpoint.

        Raises:
          UserError: all checkpoints are damaged, or one cannot be read or has other shapes.
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
                f"rerunning the command starts from the first step"
            )
        return None

    def restore_model(self, which: str, model: Tree) -> Restored:
        """Restores the model of a checkpoint with its thresholds.

        Args:
          which: `best`, `last`, or a step. `best` falls back to the last checkpoint if the run has
            no validation or the best model is damaged.
          model: tree with the structure and shapes of the model.

        Returns:
          The model with its step and thresholds.

        Raises:
          UserError: the checkpoint does not exist, is damaged or cannot be read.
        """
        while True:
            try:
                return self._retry(lambda: self._restore(which, model))
            except Damaged as error:
                if which != "best" or error.path.parent != self._directory(self._best):
                    raise UserError(f"{error}; evaluate another --checkpoint") from error
                self._set_aside(error)

    def _restore(self, which: str, model: Tree) -> Restored:
        manager, step = self._find(which)
        if manager is self._latest:
            found, own = disk.read(manager, step, {"model": model}), {}
        else:
            found = disk.read(manager, step, {"model": model}, ("metrics",))
            own = self._check_metrics(step, found["metrics"]).get("thresholds", {})
        if which == "best":
            return Restored(step, found["model"], own, own)
        bests = self._read_bests()
        decisive = bests[0].metrics.get("thresholds", {}) if bests else {}
        return Restored(step, found["model"], own, decisive)

    def lost_best(self, until: int | None = None) -> int:
        """Returns the step of the last best model that was found damaged, or 0.

        Args:
          until: the last step to consider; None considers all.
        """
        moved = (path.name.split("-")[1] for path in (self.folder / DAMAGED).glob("best-*"))
        found = [path.name for path in self._found_damaged if path.parent.name == "best"]
        steps = [int(name) for name in (*moved, *found) if name.isdecimal()]
        return max((step for step in steps if until is None or step <= until), default=0)

    def model_shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of the model's arrays by path, equal in all checkpoints of a run.

        Raises:
          UserError: no checkpoint can be read.
        """

        def read() -> dict[str, tuple[int, ...]]:
            damaged = []
            for manager in (self._best, self._latest):
                for step in reversed(self._steps(manager)):
                    try:
                        return disk.shapes(manager, step)
                    except Damaged as error:
                        damaged.append(error)
            raise damaged[0] if damaged else Damaged(self.folder, "no checkpoint")

        try:
            return self._retry(read)
        except Damaged as error:
            raise UserError(f"{self.folder}: has no readable checkpoint; train first") from error

    def _retry(self, read: Callable[[], T]) -> T:
        """Calls `read`; a reader retries it if a checkpoint appears damaged or unreadable.

        A reader reports a checkpoint only if it still exists and fails at the third attempt.
        """
        attempts: Counter[pathlib.Path] = Counter()
        while True:
            try:
                return read()
            except (Damaged, Unreadable) as error:
                attempts[error.path] += 1
                last = attempts[error.path] > len(RETRY_SECONDS)
                if not self._read_only or (last and error.path.exists()) or attempts.total() > 1000:
                    raise
                time.sleep(0 if last else RETRY_SECONDS[attempts[error.path] - 1])

    def _set_aside(self, error: Damaged) -> None:
        """Moves a damaged checkpoint to `damaged/`; a reader only reports and ignores it."""
        if self._read_only:
            self._found_damaged.add(error.path)
            say(f"{error}; using the previous one")
            return
        target = self._move_aside(error.path)
        manager = self._best if error.path.parent == self._directory(self._best) else self._latest
        manager.reload()
        if manager is self._best:
            self.bests = [best for best in self.bests if best.step != disk.step_of(error.path)]
        say(f"{error}; moved to {target}, using the previous one")

    def _move_aside(self, source: pathlib.Path) -> pathlib.Path:
        return files.move(source, self.folder / DAMAGED)

    def _read_bests(self) -> list[Best]:
        """Returns the checkpoints in `best/`, the best first; sets damaged ones aside."""

        def read() -> list[Best]:
            found = []
            for step in self._steps(self._best):
                metrics = disk.read(self._best, step, {}, ("metrics",))["metrics"]
                found.append(Best(step, self._check_metrics(step, metrics)))
            return sorted(found, key=lambda best: (best.order, best.step))

        while True:
            try:
                return self._retry(read)
            except Damaged as error:
                self._set_aside(error)

    def _check_metrics(self, step: int, metrics: Any) -> dict[str, Any]:
        """Returns metrics that `save_best` may have written; raises `Damaged` for any others.

        Metrics without a loss are valid, because earlier versions wrote them.
        """
        known = isinstance(metrics, dict)
        if known and all(isinstance(metrics.get(k, {}), dict) for k in ("thresholds", SELECTED)):
            return metrics
        raise Damaged(self._directory(self._best) / str(step), "invalid metrics")

    def _steps(self, manager: ocp.CheckpointManager) -> list[int]:
        """Returns the steps of the checkpoints on disk, without those found damaged."""
        paths = disk.numbered(self._directory(manager))
        return [disk.step_of(path) for path in paths if path not in self._found_damaged]

    def _directory(self, manager: ocp.CheckpointManager) -> pathlib.Path:
        return disk.directory(manager)

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
            f"{self.folder}: no checkpoint {which!r}; available: "
            f"{', '.join(map(str, steps)) or 'none, train first'}"
        )

    def wait(self) -> None:
        """Waits until all saves are on disk."""
        disk.wait(self._latest)
        self._delete_superseded()
        if not self._read_only:
            self._delete_oldest()

    def abandon(self) -> None:
        """Makes `close` delete nothing, because another process may write the run."""
        self._read_only, self._superseded = True, []

    def close(self) -> None:
        """Waits until all saves are on disk and closes the orbax managers."""
        self.wait()
        self._latest.close()
        self._best.close()
