"""The Python API: a finished run as an object. `unet_jax` exports what users of it need.

Importing this module imports jax, which `import unet_jax` does not.
"""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from unet_jax import models
from unet_jax.core.bucket import is_bucket
from unet_jax.core.compilation import keep_compiled
from unet_jax.core.config import flatten
from unet_jax.core.errors import UserError
from unet_jax.core.faults import explained
from unet_jax.core.fields import add_defaults
from unet_jax.core.files import expand, read_json
from unet_jax.data.download.mirror import local_path
from unet_jax.distributed import devices
from unet_jax.evaluation import evaluate as evaluation
from unet_jax.inference.images import Prediction, predict_array, predict_file
from unet_jax.inference.predictor import (
    Predictor,
    RestoredNetwork,
    forward_of,
    predictor_of,
    restore_decided,
)
from unet_jax.interchange.registry import find_exporter
from unet_jax.models.network import Network
from unet_jax.runs.experiment import check, open_labelled_data, read_configs
from unet_jax.runs.folder import class_names
from unet_jax.runs.options import selected_options
from unet_jax.training.capacity import check_fits


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A run with the network of one checkpoint; `load_run` returns it.

    Attributes:
      folder: the run's folder.
      checkpoint: the checkpoint, as given to `load_run`.
      step: its step.
      channels: number of channels of the run's images, C.
      classes: names of the classes.
      config: the run's config.
      model: the network, a Flax module: float32 [N, H, W, C], the stored values mapped to the
        network's input, to logits, float32 [N, H, W, K].
      variables: its variables, as numpy arrays: `params` and, with batch normalisation,
        `batch_stats`. If the run keeps an EMA of the weights, they are the EMA.
    """

    folder: pathlib.Path
    checkpoint: str
    step: int
    channels: int
    classes: tuple[str, ...]
    config: ConfigDict = dataclasses.field(repr=False)
    model: Network = dataclasses.field(repr=False)
    variables: dict[str, Any] = dataclasses.field(repr=False)
    _predictors: dict[bool, Predictor] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def report(self) -> dict[str, Any] | None:
        """The content of the run's `report.json`; None if it has none yet.

        Raises:
          UserError: the file cannot be read.
        """
        path = self.folder / "report.json"
        with explained(self.folder):
            return read_json(path) if path.exists() else None

    def predict(
        self, image: np.ndarray | str | os.PathLike[str], *, tta: bool = False, tile: int = 1024
    ) -> Prediction:
        """Segments an image, a batch of images, or the image or stack of a file.

        The result is that of `--mode=predict` for the same file on as many devices, bit for bit.

        Args:
          image: an image [H, W] or [H, W, C], or a batch [N, H, W, C], of the values and the type
            that the run's image files have; or the path of a file. Images of one channel are
            repeated to three channels if the run's images have three.
          tta: whether to average over the training symmetries (test-time augmentation).
          tile: side of the tiles that larger images are split into, pixels.

        Returns:
          Mask and probabilities, of an image or, for a batch or a stack, of N images.

        Raises:
          UserError: the image or an argument does not suit the run, or the file cannot be read.
        """
        if tile < 1:
            raise UserError(f"tile={tile}: must be at least 1 pixel")
        predictor = self._predictor(tta)
        if isinstance(image, str | os.PathLike):
            path = pathlib.Path(expand(os.fspath(image)))
            return predict_file(predictor, self.config, path, tile)
        try:
            array = np.asarray(image)
        except ValueError as error:
            raise UserError(f"image: cannot be converted to an array ({error})") from error
        return predict_array(predictor, self.config, array, tile)

    def evaluate(
        self, folder: str | os.PathLike[str], *, tta: bool = False, write: bool = False
    ) -> dict[str, Any]:
        """Evaluates the run on a folder with `images/` and `masks/`.

        It is `--mode=eval --data=FOLDER`.

        Args:
          folder: the labelled folder.
          tta: whether to average over the training symmetries (test-time augmentation).
          write: whether to write the report to the run's folder, as the command does: its JSON,
            Markdown and HTML forms and its figures.

        Returns:
          The report, as in its JSON file.

        Raises:
          UserError: the folder cannot be read or does not suit the run, or the run's checkpoint has
            changed since it was loaded.
        """
        with explained(self.folder), _without_logs():
            root = local_path(os.fspath(folder))
            (stated,) = read_configs([self.folder]).values()
            config, dataset = open_labelled_data(stated, self.folder, root)
            (split,) = dataset.sha256
            mesh = devices.local_mesh()
            check_fits(config, dataset, mesh, training=False)
            return evaluation.evaluate(
                {self.folder: config},
                dataset,
                mesh,
                split=split,
                checkpoint=self.checkpoint,
                symmetries=tta,
                other_data=True,
                step=self.step,
                write=write,
            )

    def export(self, output: str | os.PathLike[str], *, format: str = "onnx", **about: Any) -> str:
        """Exports the network; it is `--mode=export`.

        Args:
          output: the folder to write.
          format: the exchange format, see docs/export.md.
          about: what some formats state, named as the flags: `author` and `cite`, lists of texts,
            and `license`.

        Returns:
          One line: what was written and how to use it.

        Raises:
          UserError: there is no such format, it does not use one of `about`, a package is missing,
            or the folder cannot be written or has other files.
        """
        exporter = find_exporter(format, about)
        target = pathlib.Path(expand(os.fspath(output)))
        with explained(target):
            return exporter(
                self.folder, self.config, checkpoint=self.checkpoint, output=target, **about
            )

    def _predictor(self, tta: bool) -> Predictor:
        if tta not in self._predictors:
            runs = {self.folder: self.config}
            network = RestoredNetwork(self.step, self.channels, self.variables)
            self._predictors[tta] = predictor_of(
                runs, forward_of(runs, tta), [network], devices.local_mesh()
            )
        return self._predictors[tta]


def load_run(folder: str | os.PathLike[str], checkpoint: str | int = "best") -> Run:
    """Loads a run's network from a checkpoint; the data set is not needed.

    As the commands do, it splits a CPU into devices that share a batch, unless JAX has already
    started its devices, and enables JAX's compilation cache.

    Args:
      folder: the run's folder.
      checkpoint: `best`, `last` or a step.

    Raises:
      UserError: the folder is not that of a run, or has no such checkpoint.
    """
    ((path, config),) = read_configs([os.fspath(folder)]).items()
    path = path if is_bucket(path) else path.absolute()  # it stays that of the run after a chdir
    with contextlib.suppress(RuntimeError):  # JAX has started its devices
        devices.use_cores(config.eval.batch_size)
    keep_compiled()
    devices.local_mesh()  # raises an error if the platform is missing
    with explained(path), _without_logs():
        (step, channels, variables), threshold = restore_decided(path, config, str(checkpoint))
        config = config.copy_and_resolve_references()
        config.eval.threshold = threshold
        classes = tuple(class_names(path, config.model.classes))
    model = models.build(**config.model)
    return Run(path, str(checkpoint), step, channels, classes, config, model, variables)


@contextlib.contextmanager
def _without_logs() -> Iterator[None]:
    """Context manager that silences orbax, which warns of reading and logs exceptions it raises."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def build_model(config: ConfigDict) -> Network:
    """Builds the network of a config, a Flax module.

    Args:
      config: the config of a run, or of an experiment (`configs/*.py`) with `model.classes` set:
        1 logit for two classes, otherwise the number of classes.

    Raises:
      UserError: a field is invalid, or `model.classes` is not set.
    """
    check(config)
    if not config.model.classes:
        raise UserError(
            "model.classes=0: depends on the data; set it to the number of classes, or to 1 for two"
        )
    config = config.copy_and_resolve_references()
    return models.build(**add_defaults(config, selected_options(flatten(config))).model)
