"""The checkpoints of a run on any number of hosts."""

import pathlib
from typing import Any

from unet_jax import hosts
from unet_jax.checkpoint import Checkpoints, Tree


class SharedCheckpoints:
    """`Checkpoints` that the first host alone reads and writes, and tells the others of.

    No other host needs to reach the run's folder. All hosts make the same calls.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        keep: int,
        config: dict[str, Any],
        read_only: bool = False,
    ):
        self._own: Checkpoints | None = None
        self.best_metrics: dict[str, Any] | None

        def load() -> dict[str, Any] | None:
            self._own = Checkpoints(folder, keep, config, read_only)
            return self._own.best_metrics

        self.best_metrics = hosts.on_first(load)

    def save(self, step: int, items: dict[str, Tree]) -> None:
        if self._own:
            self._own.save(step, items)

    def save_best(self, step: int, model: Tree, metrics: dict[str, Any]) -> None:
        self.best_metrics = metrics
        if self._own:
            self._own.save_best(step, model, metrics)

    def restore_latest(self, targets: dict[str, Tree]) -> tuple[int, dict[str, Tree]] | None:
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

    def restore_model(self, which: str, model: Tree) -> tuple[int, Tree]:
        found = None

        def restore() -> int:
            nonlocal found
            assert self._own
            found = self._own.restore_model(which, model)
            return found[0]

        step = hosts.on_first(restore)
        return step, hosts.share(found[1] if found else model)

    def chosen_thresholds(self, which: str) -> dict[str, float]:
        def read() -> dict[str, float]:
            assert self._own
            return self._own.chosen_thresholds(which)

        return hosts.on_first(read)

    def wait(self) -> None:
        if self._own:
            self._own.wait()

    def close(self) -> None:
        if self._own:
            self._own.close()
