"""Checkpoints of a run on one or several hosts."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from unet_jax.distributed import hosts
from unet_jax.runs.best import Best
from unet_jax.runs.checkpoints import Checkpoints, Restored, Tree

T = TypeVar("T")


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

        def load() -> list[list[Any]]:
            self._checkpoints = Checkpoints(folder, keep, config, read_only)
            return [list(best) for best in self._checkpoints.bests]

        self.bests = [Best(*fields) for fields in hosts.on_first(load)]  # the best first

    def _on_first(self, call: Callable[[Checkpoints], T]) -> T:
        """Calls `call` on the first host, and returns its result, of JSON types, on all hosts."""

        def call_there() -> T:
            assert self._checkpoints
            return call(self._checkpoints)

        return hosts.on_first(call_there)

    def _update_on_first(self, change: Callable[[Checkpoints], None]) -> None:
        """Calls `change` on the first host, then updates `bests` on all hosts."""

        def change_and_list(checkpoints: Checkpoints) -> list[list[Any]]:
            change(checkpoints)
            return [list(best) for best in checkpoints.bests]

        self.bests = [Best(*fields) for fields in self._on_first(change_and_list)]

    def save(self, step: int, items: dict[str, Tree]) -> None:
        """Saves a training state on the first host; see `Checkpoints.save`."""
        if self._checkpoints:
            self._checkpoints.save(step, items)

    def save_best(
        self, step: int, model: Tree, metrics: dict[str, Any], keep_previous: bool = False
    ) -> None:
        """Saves a new best model on the first host; see `Checkpoints.save_best`."""
        self._update_on_first(lambda own: own.save_best(step, model, metrics, keep_previous))

    def delete_best(self, steps: Sequence[int]) -> None:
        """Deletes models in `best/` on the first host; see `Checkpoints.delete_best`."""
        self._update_on_first(lambda own: own.delete_best(steps))

    def restore_latest(self, targets: dict[str, Tree]) -> tuple[int, dict[str, Tree]] | None:
        """Restores the newest training state to all hosts; see `Checkpoints.restore_latest`."""
        restored = None

        def restore(checkpoints: Checkpoints) -> int | None:
            nonlocal restored
            restored = checkpoints.restore_latest(targets)
            return restored[0] if restored else None

        step = self._on_first(restore)
        if step is None:
            return None
        return step, hosts.share(restored[1] if restored else targets)

    def restore_model(self, which: str, model: Tree) -> Restored:
        """Restores the model of a checkpoint to all hosts; see `Checkpoints.restore_model`."""
        restored = None

        def restore(checkpoints: Checkpoints) -> list[Any]:
            nonlocal restored
            restored = checkpoints.restore_model(which, model)
            return [restored.step, restored.thresholds, restored.decisive]

        step, thresholds, decisive = self._on_first(restore)
        shared = hosts.share(restored.model if restored else model)
        return Restored(step, shared, thresholds, decisive)

    def lost_best(self, until: int | None = None) -> int:
        """Returns the same on all hosts; see `Checkpoints.lost_best`."""
        return self._on_first(lambda own: own.lost_best(until))

    def is_best(self, step: int) -> bool:
        """Returns whether the model of a step is one that validation selected."""
        return any(best.step == step for best in self.bests)

    def notes_on_best(self, restored: int, metric: str) -> list[str]:
        """Returns a remark for the report if `restore_model("best", ...)` restored another model.

        Args:
          restored: the step of what it returned.
          metric: the metric that selects models, `eval.best`.
        """
        lost = self.lost_best()
        if lost not in (0, restored):
            used = "the best of the others" if self.is_best(restored) else "the last model"
            return [f"the best model, of step {lost}, was damaged; this is {used}"]
        if not self.bests and metric != "loss":
            return [f"no model has a defined {metric} on validation; this is the last model"]
        return []

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
