"""Checkpoints of a run on one or several hosts."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from unet_jax.distributed import hosts
from unet_jax.runs.checkpoints import Best, Checkpoints, Restored, Tree


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
        self._own: Checkpoints | None = None
        self.bests: list[Best]  # the best first

        def load() -> None:
            self._own = Checkpoints(folder, keep, config, read_only)

        self._on_first_and_tell(load)

    def _on_first_and_tell(self, change: Callable[[], None]) -> None:
        """Calls `change` on the first host, then updates `bests` on all hosts."""

        def changed() -> list[list[Any]]:
            change()
            assert self._own
            return [list(best) for best in self._own.bests]

        self.bests = [Best(*fields) for fields in hosts.on_first(changed)]

    def save(self, step: int, items: dict[str, Tree]) -> None:
        """Saves a training state on the first host; see `Checkpoints.save`."""
        if self._own:
            self._own.save(step, items)

    def save_best(
        self, step: int, model: Tree, metrics: dict[str, Any], keep_previous: bool = False
    ) -> None:
        """Saves a new best model on the first host; see `Checkpoints.save_best`."""

        def save() -> None:
            assert self._own
            self._own.save_best(step, model, metrics, keep_previous)

        self._on_first_and_tell(save)

    def delete_best(self, steps: Sequence[int]) -> None:
        """Deletes models in `best/` on the first host; see `Checkpoints.delete_best`."""

        def delete() -> None:
            assert self._own
            self._own.delete_best(steps)

        self._on_first_and_tell(delete)

    def restore_latest(self, targets: dict[str, Tree]) -> tuple[int, dict[str, Tree]] | None:
        """Restores the newest training state to all hosts; see `Checkpoints.restore_latest`."""
        found = None

        def restore() -> int | None:
            nonlocal found
            assert self._own
            found = self._own.restore_latest(targets)
            return found[0] if found else None

        step = hosts.on_first(restore)
        if step is None:
            return None
        return step, hosts.share(found[1] if found else targets)

    def restore_model(self, which: str, model: Tree) -> Restored:
        """Restores the model of a checkpoint to all hosts; see `Checkpoints.restore_model`."""
        found = None

        def restore() -> list[Any]:
            nonlocal found
            assert self._own
            found = self._own.restore_model(which, model)
            return [found.step, found.thresholds]

        step, thresholds = hosts.on_first(restore)
        return Restored(step, hosts.share(found.model if found else model), thresholds)

    def wait(self) -> None:
        """Waits on the first host until all saves are on disk."""
        if self._own:
            self._own.wait()

    def close(self) -> None:
        """Waits for all saves and closes the checkpoints on the first host."""
        if self._own:
            self._own.close()
