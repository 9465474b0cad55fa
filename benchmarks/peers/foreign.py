"""Base class of the peers whose packages clash with this project's."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import ClassVar

from benchmarks.peers.peer import RUN, Environment, Peer, Setting, execute


class ForeignPeer(Peer):
    """A peer that trains and predicts in an environment of its own.

    Attributes:
      environment: name of the environment; `requirements-NAME.txt` has its packages.
      module: the module that does each stage there.
    """

    environment: ClassVar[str]
    module: ClassVar[str]

    def install(self, setting: Setting) -> None:
        self._environment(setting).make()

    def train(self, setting: Setting, folder: pathlib.Path, seed: int) -> None:
        clock = [f"--seconds={60 * setting.minutes}", "--started={started}", f"--seed={seed}"]
        self.run(setting, folder, "train", clock)

    def predict(
        self, setting: Setting, folder: pathlib.Path, split: str, tta: bool, into: pathlib.Path
    ) -> None:
        flags = [f"--split={split}", f"--into={into}", *(["--tta"] if tta else [])]
        self.run(setting, folder, "predict", flags)

    def variables(self, setting: Setting, folder: pathlib.Path) -> Mapping[str, str]:
        """Returns the variables to set for a stage."""
        return {}

    def run(self, setting: Setting, folder: pathlib.Path, stage: str, flags: Sequence[str]) -> None:
        """Runs a stage, `prepare`, `train` or `predict`."""
        (folder / RUN).mkdir(parents=True, exist_ok=True)
        arguments = ["-m", self.module, stage, f"--images={setting.images}", f"--folder={folder}"]
        arguments += [f"--shared={setting.shared(self.name).absolute()}", *flags]
        python, variables = self._environment(setting).python, self.variables(setting, folder)
        execute(arguments, folder / f"{stage}.log", python, variables)

    def _environment(self, setting: Setting) -> Environment:
        requirements = pathlib.Path(__file__).with_name(f"requirements-{self.environment}.txt")
        return Environment(setting.environments / self.environment, requirements)
