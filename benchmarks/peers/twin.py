"""The PyTorch twin of this project's config, for as many epochs as the time allows."""

import pathlib

from benchmarks.peers.peer import RUN, Setting, execute
from benchmarks.peers.project import PacedPeer, overridden
from benchmarks.pytorch.train_twin import REQUIRED
from unet_jax.core.config import flatten


class Twin(PacedPeer):
    """The twin. What it does not support, such as the EMA of the weights, is left out."""

    name = "twin"
    title = "the PyTorch twin of this project"
    command = ("-m", "benchmarks.pytorch.train_twin")

    def flags(self, setting: Setting) -> list[str]:
        fields = flatten(setting.config)
        left_out = {
            name: required
            for name, required in REQUIRED.items()
            if name in fields and _plain(fields[name]) != required
        }
        return overridden(setting.arguments, left_out)

    def augments_test(self, folder: pathlib.Path) -> bool:
        return False

    def predict(
        self, setting: Setting, folder: pathlib.Path, split: str, tta: bool, into: pathlib.Path
    ) -> None:
        arguments = ["-m", "benchmarks.peers.twin_predict", f"--run={folder / RUN}"]
        execute([*arguments, f"--split={split}", f"--into={into}"], folder / "predict.log")


def _plain(value: object) -> object:
    """Returns a flattened field's value with the type that it has in the config."""
    return tuple(value) if isinstance(value, list) else value
