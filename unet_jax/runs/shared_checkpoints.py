"""Checkpoints of a run on one or several hosts."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from unet_jax.distributed import hosts
from unet_jax.runs.best import Best
from unet_jax.runs.checkpoints import Checkpoints, Restored, Tree


class SharedCheckpoints:
    """`Checkpoints` that only the first host reads and writes; it sends the results to the others.

    The other hosts need no access to the run's folder. All hosts must make the same calls in the
    same order. The arguments and methods are those of `Checkpoints`.

    Attributes:
      bests: the checkpoints in `best/` on all hosts, the best first.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        keep: int,
        config: dict[str, Any],
        read_only: bool = False,
    ):
        self._checkpoints: Checkpoints | None = None
        self.bests: list[Best]  # the best first

        def load() -> None:
            self._checkpoints = Checkpoints(folder, keep, config, read_only)

        self._update_on_first(load)

    def _update_on_first(self, change: Callable[[], None]) -> None:
        """Calls `change` on the first host, then updates `bests` on all hosts."""

        def change_and_list() -> list[list[Any]]:
            change()
            assert self._checkpoints
            return [list(best) for best in self._checkpoints.bests]

        self.bests = [Best(*fields) for fields in hosts.on_first(change_and_list)]

    def save(self, step: int, items: dict[str, Tree]) -> None:
        """Saves a training state on the first host; see `Checkpoints.save`."""
        if self._checkpoints:
            self._checkpoints.save(step, items)

    def save_best(
        self, step: int, model: Tree, metrics: dict[str, Any], keep_previous: bool = False
    ) -> None:
        """Saves a new best model on the first host; see `Checkpoints.save_best`."""

        def save() -> None:
            assert self._checkpoints
            self._checkpoints.save_best(step, model, metrics, keep_previous)

        self._update_on_first(save)

    def delete_best(self, steps: Sequence[int]) -> None:
        """Deletes models in `best/` on the first host; see `Checkpoints.delete_best`."""

        def delete() -> None:
            assert self._checkpoints
            self._checkpoints.delete_best(steps)

        self._update_on_first(delete)

    def restore_latest(self, targets: dict[str, Tree]) -> tuple[int, dict[str, Tree]] | None:
        """Restores the newest training state to all hosts; see `Checkpoints.restore_latest`."""
        restored = None

        def restore() -> int | None:
            nonlocal restored
            assert self._checkpoints
            restored = self._checkpoints.restore_latest(targets)
            return restored[0] if restored else None

        step = hosts.on_first(restore)
        if step is None:
            return None
        return step, hosts.share(restored[1] if restored else targets)

    def restore_model(self, which: str, model: Tree) -> Restored:
        """Restores the model of a checkpoint to all hosts; see `Checkpoints.restore_model`."""
        restored = None

        def restore() -> list[Any]:
            nonlocal restored
            assert self._checkpoints
            restored = self._checkpoints.restore_model(which, model)
            return [restored.step, restored.thresholds, restored.decisive]

        step, thresholds, decisive = hosts.on_first(restore)
        shared = hosts.share(restored.model if restored else model)
        return Restored(step, shared, thresholds, decisive)

    def lost_best(self, until: int | None = None) -> int:
        """Returns the same on all hosts; see `Checkpoints.lost_best`."""

        def find() -> int:
            assert self._checkpoints
            return self._checkpoints.lost_best(until)

        return hosts.on_first(find)

    def notes_on_best(self, restored: int) -> list[str]:
        """Returns a remark for the report if a best model was damaged, so that another is used.

        Args:
          restored: the step of what `restore_model("best", ...)` returned.
        """
        lost = self.lost_best()
        if lost in (0, restored):
            return []
        others = any(best.step == restored for best in self.bests)
        used = "the best of the others" if others else "the last model"
        return [f"the best model, of step {lost}, was damaged; this is {used}"]

    def wait(self) -> None:
        """Waits on the first host until all saves are on disk."""
        if self._checkpoints:
            self._checkpoints.wait()

    def abandon(self) -> None:
        """Makes `close` delete nothing; see `Checkpoints.abandon`."""
        if self._checkpoints:
            self._checkpoints.abandon()

    def close(self) -> None:
        """Waits for all saves and closes the checkpoints on the first host."""
        if self._checkpoints:
            self._checkpoints.close()
