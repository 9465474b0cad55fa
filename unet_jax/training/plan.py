"""How long a run is, and when something is due in it."""

import dataclasses
from collections.abc import Iterable

from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many steps a run has, and at which of them something is due."""

    steps_per_epoch: int
    num_epochs: int

    @property
    def total_steps(self) -> int:
        return self.num_epochs * self.steps_per_epoch

    def is_regular(self, step: int, every_epochs: int) -> bool:
        """True at the end of every so many epochs: for runs of any number of epochs."""
        return step % (every_epochs * self.steps_per_epoch) == 0

    def is_due(self, step: int, every_epochs: int) -> bool:
        """True at the end of every so many epochs, and of the run."""
        return self.is_regular(step, every_epochs) or step == self.total_steps

    def former_ends(self, steps: Iterable[int], every_epochs: int) -> list[int]:
        """Those of the evaluated `steps` that were due only as the end of a shorter run.

        A run of this length would not have evaluated there. Where they are all that is left though
        a regular evaluation came before them, a version that kept one model alone has made them:
        they stay, or the best model so far would be lost.
        """
        steps = list(steps)
        ends = [step for step in steps if not self.is_due(step, every_epochs)]
        if len(ends) == len(steps) and any(s > every_epochs * self.steps_per_epoch for s in ends):
            return []
        return ends


def make_plan(config: ConfigDict, train_images: int) -> Plan:
    """An epoch is `data.crops_per_image` crops of each image, to the nearest whole batch."""
    crops = train_images * config.data.crops_per_image
    return Plan(max(1, round(crops / config.batch_size)), config.num_epochs)
