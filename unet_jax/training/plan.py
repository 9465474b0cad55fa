"""The length of a run, and the steps at which it validates and saves."""

import dataclasses
from collections.abc import Iterable

from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class Plan:
    """The number of steps of a run, and the steps at which periodic actions are due."""

    steps_per_epoch: int
    num_epochs: int

    @property
    def total_steps(self) -> int:
        return self.num_epochs * self.steps_per_epoch

    def is_regular(self, step: int, every_epochs: int) -> bool:
        """Returns whether `step` ends a period of `every_epochs`, for a run of any length."""
        return step % (every_epochs * self.steps_per_epoch) == 0

    def is_due(self, step: int, every_epochs: int) -> bool:
        """Returns whether `step` ends a period of `every_epochs` or the run."""
        return self.is_regular(step, every_epochs) or step == self.total_steps

    def ends_of_shorter_runs(self, steps: Iterable[int], every_epochs: int) -> list[int]:
        """Finds the evaluated steps that were due only because a shorter run ended there.

        A run of this length would not have evaluated at them. If only such steps are left although
        a regular evaluation came earlier, an older version wrote them, which kept a single best
        model. Deleting that model would lose the best one so far, so none is returned.

        Args:
          steps: the steps of the kept best models.
          every_epochs: period of the evaluations, epochs.

        Returns:
          The steps whose models should be deleted.
        """
        steps = list(steps)
        ends = [step for step in steps if not self.is_due(step, every_epochs)]
        if len(ends) == len(steps) and any(s > every_epochs * self.steps_per_epoch for s in ends):
            return []
        return ends


def make_plan(config: ConfigDict, train_images: int) -> Plan:
    """Plans a run of `num_epochs` epochs.

    An epoch has `data.crops_per_image` crops of each image, rounded to the nearest whole number of
    batches, at least one.
    """
    crops = train_images * config.data.crops_per_image
    return Plan(max(1, round(crops / config.batch_size)), config.num_epochs)
