"""What the peers share that leave a run's folder: this project's two, and its PyTorch twin."""

import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers import pace
from benchmarks.peers.exchange import write_training
from benchmarks.peers.peer import RUN, Peer, Setting, execute, nothing_compiled
from unet_jax.core.files import read_json, write_json
from unet_jax.inference.ensemble import NONE, training_symmetries
from unet_jax.reporting.launching import LAUNCHER
from unet_jax.runs.folder import read_config
from unet_jax.runs.log import read_history

PACE, TIMED = "pace.json", "timed"
AIM = 0.96  # of the time: these trainings cannot stop by the clock, and their pace varies


def overridden(arguments: Sequence[str], fields: Mapping[str, Any]) -> list[str]:
    """Returns arguments in which these fields, by dotted name, have these values."""
    flags = {f"--config.{name}": value for name, value in fields.items()}
    kept = [argument for argument in arguments if argument.partition("=")[0] not in flags]
    return [*kept, *(f"{flag}={value}" for flag, value in flags.items())]


class ProjectPeer(Peer):
    """A peer whose trainings leave a run's folder, in the subfolder `run` of peer and seed."""

    command: Sequence[str] = (str(LAUNCHER),)

    def own_dice(self, folder: pathlib.Path) -> float | None:
        return read_json(folder / RUN / "report.json")["aggregate"]["dice"]["mean"]

    def augments_test(self, folder: pathlib.Path) -> bool:
        return training_symmetries(read_config(folder / RUN)["data.augment"]) != NONE

    def threshold(self, folder: pathlib.Path) -> float:
        return read_json(folder / RUN / "report.json")["threshold"]

    def run(self, flags: Sequence[str], run: pathlib.Path) -> float:
        """Trains into a new folder; returns when the process was started."""
        shutil.rmtree(run, ignore_errors=True)
        arguments = [*self.command, *flags, f"--workdir={run}"]
        with nothing_compiled() as variables:
            return execute(arguments, run.with_name("train.log"), environment=variables)

    def finish(self, folder: pathlib.Path, started: float) -> None:
        """Writes `training.json` from the run's folder."""
        report = read_json(folder / RUN / "report.json")
        steps, ended = pace.end_of(read_history(folder / RUN), folder)
        facts = {name: report[name] for name in ("parameters", "versions")}
        write_training(folder, started, ended, steps=steps, **facts)

    def predict(
        self, setting: Setting, folder: pathlib.Path, split: str, tta: bool, into: pathlib.Path
    ) -> None:
        flags = [
            "--mode=predict",
            f"--workdir={folder / RUN}",
            f"--input={setting.images_of(split)}",
            f"--output={into}",
            "--probabilities",
        ]
        execute([str(LAUNCHER), *flags, *(["--tta"] if tta else [])], folder / "predict.log")


class PacedPeer(ProjectPeer):
    """A peer that trains the setting's config for the epochs that its measured pace allows."""

    def flags(self, setting: Setting) -> list[str]:
        """Returns the flags of the config, as far as the peer supports it."""
        return list(setting.arguments)

    def prepare(self, setting: Setting) -> None:
        shared, images = setting.shared(self.name), len(setting.dataset.splits["train"])
        if (shared / PACE).exists():
            return
        flags = overridden(self.flags(setting), pace.timed_fields(setting.config, images))
        started = self.run(flags, shared / TIMED)
        found = pace.measure(read_history(shared / TIMED), started)
        seconds = 60 * setting.minutes * AIM
        fields = pace.scaled_fields(setting.config, found, seconds, images)
        shutil.rmtree(shared / TIMED)
        write_json(shared / PACE, {**found._asdict(), "fields": fields})

    def train(self, setting: Setting, folder: pathlib.Path, seed: int) -> None:
        fields = read_json(setting.shared(self.name) / PACE)["fields"]
        flags = overridden(self.flags(setting), {**fields, "seed": seed})
        self.finish(folder, self.run(flags, folder / RUN))

    def recipe(self, setting: Setting, folder: pathlib.Path) -> str:
        found = read_json(setting.shared(self.name) / PACE)
        flags = overridden(self.flags(setting), found["fields"])
        return (
            f"`{' '.join(flags)}`; measured before: {found['step']:.3g} s "
            f"a step, {found['validation']:.3g} s a validation, {found['start']:.3g} s at the start"
        )
