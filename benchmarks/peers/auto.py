"""This project without hand tuning: `configs/folder.py:auto` on the images as a plain folder."""

import pathlib

from benchmarks.peers.peer import RUN, Setting
from benchmarks.peers.project import ProjectPeer
from unet_jax.runs.folder import read_config

SHOWN = "data.fit data.size model.width batch_size num_epochs loss.name data.augment".split()


class Auto(ProjectPeer):
    """This project's plan for a folder of images. The planning is part of its time."""

    name = "auto"
    title = "this project, planned (`folder.py:auto`)"

    def train(self, setting: Setting, folder: pathlib.Path, seed: int) -> None:
        flags = [
            "--config=configs/folder.py:auto",
            f"--config.data.root={setting.images}",
            f"--config.plan.minutes={setting.minutes}",
            f"--config.seed={seed}",
        ]
        self.finish(folder, self.run(flags, folder / RUN))

    def recipe(self, setting: Setting, folder: pathlib.Path) -> str:
        config = read_config(folder / RUN)
        chosen = ", ".join(f"`{name}={config[name]}`" for name in SHOWN)
        return f"`--config.plan.minutes={setting.minutes:g}` chose {chosen}"
