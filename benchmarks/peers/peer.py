"""The interface of a peer: what it prepares, trains and predicts, each in a process of its own."""

import abc
import contextlib
import dataclasses
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from ml_collections import ConfigDict

from benchmarks.peers.exchange import OWN, SPLITS, TRAINING
from unet_jax.core.errors import EXIT_INTERRUPTED, UserError
from unet_jax.core.files import read_json
from unet_jax.core.stop import Interrupted
from unet_jax.data.dataset import Dataset
from unet_jax.reporting.launching import launch

RUN = "run"  # folder of a peer's own files, in that of peer and seed


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the peers of a comparison share."""

    arguments: tuple[str, ...]  # --config and its overrides
    config: ConfigDict  # resolved
    dataset: Dataset
    out: pathlib.Path
    minutes: float
    environments: pathlib.Path  # a folder with an environment for each peer that needs one

    @property
    def images(self) -> pathlib.Path:
        """The images as a plain folder."""
        return self.out / "images"

    def images_of(self, split: str) -> pathlib.Path:
        """Returns the folder of a split's images."""
        return self.images / SPLITS[split] / "images"

    def shared(self, name: str) -> pathlib.Path:
        """Returns the folder of what all seeds of a peer share."""
        return self.out / name

    def folder(self, name: str, seed: int) -> pathlib.Path:
        """Returns the folder of a peer and a seed."""
        return self.out / f"{name}-seed{seed}"


class Peer(abc.ABC):
    """Trains and predicts with one code base. All stages write files; see `exchange`.

    Attributes:
      name: its name on the command line and of its folders.
      title: its name on the page.
    """

    name: ClassVar[str]
    title: ClassVar[str]

    def install(self, setting: Setting) -> None:
        """Makes the environment of the peer; raises a `UserError` if that is impossible."""
        return None

    def prepare(self, setting: Setting) -> None:
        """Does what the seeds share and the clock does not count, such as measuring its pace."""
        return None

    @abc.abstractmethod
    def train(self, setting: Setting, folder: pathlib.Path, seed: int) -> None:
        """Trains for the minutes of the setting.

        It leaves `training.json` in the folder of this peer and seed, and `metrics.jsonl` in its
        subfolder `run`. The clock starts with the process; it stops with the last update or
        validation.
        """

    @abc.abstractmethod
    def predict(
        self, setting: Setting, folder: pathlib.Path, split: str, tta: bool, into: pathlib.Path
    ) -> None:
        """Predicts a split, with its test-time augmentation if `tta`.

        It leaves `probabilities/NAME.tif` in the folder `into`: the probability of class 1 of each
        image, float32 [H, W] of its own size.
        """

    @abc.abstractmethod
    def recipe(self, setting: Setting, folder: pathlib.Path) -> str:
        """Returns a sentence on what was trained, for the page."""

    def augments_test(self, folder: pathlib.Path) -> bool:
        """Returns whether this training has a test-time augmentation of its own."""
        return False

    def threshold(self, folder: pathlib.Path) -> float:
        """Returns the probability above which the peer says class 1."""
        return 0.5

    def own_dice(self, folder: pathlib.Path) -> float | None:
        """Returns the mean Dice of the test images by the peer's own code, without `tta`."""
        own = folder / OWN
        return read_json(own)["dice"] if own.exists() else None


def predictions(folder: pathlib.Path, split: str, tta: bool) -> pathlib.Path:
    """Returns the folder of a split's predictions."""
    return folder / "predictions" / (f"{split}-tta" if tta else split)


def execute(
    arguments: Sequence[str],
    log: pathlib.Path,
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
) -> float:
    """Runs Python in a process of its own; returns when it was started, as of `time.time()`.

    `{started}` in an argument is replaced by that time.

    Args:
      arguments: of Python.
      log: the file to which its output is appended.
      python: the interpreter.
      environment: variables to set for it.

    Raises:
      Interrupted: a signal stopped this command, and with it the process.
      UserError: the process failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.time()
    filled = [argument.replace("{started}", repr(started)) for argument in arguments]
    code = launch(filled, log, python, environment)
    if code == EXIT_INTERRUPTED:
        raise Interrupted
    if code:
        raise UserError(f"failed with exit code {code}; see {log}")
    return started


@contextlib.contextmanager
def nothing_compiled() -> Iterator[dict[str, str]]:
    """Context manager with variables for a process that finds no program compiled before."""
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        yield {
            "JAX_COMPILATION_CACHE_DIR": f"{folder}/jax",
            "TORCHINDUCTOR_CACHE_DIR": f"{folder}/torch",
        }


class Environment:
    """A virtual environment for a peer whose packages clash with this project's.

    Args:
      folder: where it is, or will be made.
      requirements: the file of what to install.
    """

    def __init__(self, folder: pathlib.Path, requirements: pathlib.Path):
        self._folder, self._requirements = folder.absolute(), requirements
        self._complete = self._folder / "installed.txt"

    @property
    def python(self) -> str:
        return str(self._folder / "bin" / "python")

    def make(self) -> None:
        """Installs the requirements, unless an earlier call has.

        Raises:
          Interrupted: a signal stopped this command.
          UserError: they cannot be installed; the message has pip's reason.
        """
        if self._complete.exists() and self._complete.read_text() == self._requirements.read_text():
            return
        log = self._folder.with_name(f"{self._folder.name}.log")
        print(f"installing {self._requirements.name} into {self._folder}", flush=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        try:
            if not pathlib.Path(self.python).exists():
                execute(["-m", "venv", str(self._folder)], log)
            execute(["-m", "pip", "install", "-r", str(self._requirements)], log, self.python)
        except UserError as error:
            lines = log.read_text().splitlines()
            reasons = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
            raise UserError(f"cannot be installed ({' '.join(reasons[:1])}); see {log}") from error
        shutil.copyfile(self._requirements, self._complete)


def training_of(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the content of `training.json`."""
    return read_json(folder / TRAINING)
