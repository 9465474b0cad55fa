"""Computes the probabilities of images on all devices, for evaluation and prediction."""

import collections
import functools
import itertools
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from unet_jax import is_binary, models
from unet_jax.core.errors import UserError
from unet_jax.distributed import devices
from unet_jax.inference.ensemble import Forward, check_alike, ensemble_network, run_network
from unet_jax.inference.tiling import round_up
from unet_jax.runs.checkpoints import Checkpoints
from unet_jax.runs.threshold import decided_threshold

IN_FLIGHT = 2  # batches queued on the devices before the first result is awaited
PIXELS = 512 * 512  # larger images get smaller batches, which bounds the memory


class Tile(Protocol):
    """An input to the network."""

    @property
    def image(self) -> np.ndarray:
        """Stored values [H, W, C]."""
        ...

    @property
    def surrounded(self) -> bool:
        """Whether `image` includes the margin of an unpadded network."""
        ...


T = TypeVar("T", bound=Tile)


def decide(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Returns the predicted class of each pixel.

    For two classes, with one logit or two, the second class is predicted where its probability is
    above the threshold. For more classes, the most probable class is predicted.

    Args:
      probabilities: float32 [H, W, K].
      threshold: probability in [0, 1]; unused if K > 2.

    Returns:
      Class ids, uint8 [H, W].
    """
    if is_binary(probabilities.shape[-1]):
        return (probabilities[..., -1] > threshold).astype(np.uint8)
    return probabilities.argmax(-1).astype(np.uint8)


class RestoredNetwork(NamedTuple):
    """The network of a checkpoint.

    Attributes:
      step: the checkpoint's step.
      channels: number of input channels.
      variables: `params` and, with batch normalisation, `batch_stats`, as numpy arrays; the EMA if
        the run keeps one.
    """

    step: int
    channels: int
    variables: dict


def restore(folder: pathlib.Path, config: ConfigDict, which: str) -> RestoredNetwork:
    """Restores a network from a run's checkpoint.

    Args:
      folder: folder of the run.
      config: the run's config.
      which: `best`, `last` or a step.

    Raises:
      UserError: the checkpoint does not exist or cannot be read.
    """
    return restore_decided(folder, config, which)[0]


def restore_decided(
    folder: pathlib.Path, config: ConfigDict, which: str
) -> tuple[RestoredNetwork, float]:
    """Returns a network as `restore` does, and the threshold between two classes that it has."""
    checkpoints = Checkpoints(folder, config.checkpoint.keep, config.to_dict(), read_only=True)
    try:
        network = models.build(**config.model)
        channels = network.in_channels(checkpoints.model_shapes())
        target = models.init(network, channels, seed=config.seed)
        restored = checkpoints.restore_model(which, target)
    finally:
        checkpoints.close()
    threshold = decided_threshold(config.eval.threshold, restored.decisive)
    return RestoredNetwork(restored.step, channels, restored.model), threshold


class Loaded(NamedTuple):
    """A run or an ensemble that is ready to predict.

    Attributes:
      steps: the step of each run's checkpoint.
      threshold: the threshold between two classes, of the first run.
      predictor: computes the probabilities.
    """

    steps: list[int]
    threshold: float
    predictor: "Predictor"


def load(
    runs: Mapping[pathlib.Path, ConfigDict], which: str, mesh: Mesh, symmetries: bool = False
) -> Loaded:
    """Loads the network of a run, or the ensemble of several runs, without the data set.

    Args:
      runs: folder and config of each run. An ensemble averages the probabilities.
      which: checkpoint of each run: `best`, `last` or a step.
      mesh: the devices.
      symmetries: whether to average over the training symmetries (TTA).

    Raises:
      UserError: a checkpoint does not exist, or the runs cannot be combined.
    """
    forward = forward_of(runs, symmetries)  # raises before anything is read
    decided = [restore_decided(run, config, which) for run, config in runs.items()]
    restored, (threshold, *_) = zip(*decided, strict=True)
    steps = [network.step for network in restored]
    return Loaded(steps, threshold, predictor_of(runs, forward, restored, mesh))


def forward_of(runs: Mapping[pathlib.Path, ConfigDict], symmetries: bool) -> Forward:
    """Returns the function of a run's network, or of the ensemble of several.

    Args:
      runs: folder and config of each run.
      symmetries: whether to average over the training symmetries (TTA).

    Raises:
      UserError: the runs cannot be combined, or one was trained without symmetries.
    """
    functions = []
    for run, config in runs.items():
        check_alike(next(iter(runs.values())), config, run)
        functions.append(run_network(run, config, symmetries))
    return ensemble_network(functions) if len(runs) > 1 else functions[0]


def predictor_of(
    runs: Mapping[pathlib.Path, ConfigDict],
    forward: Forward,
    restored: Sequence[RestoredNetwork],
    mesh: Mesh,
) -> "Predictor":
    """Returns the predictor of a run or an ensemble whose networks have been restored.

    Args:
      runs: folder and config of each run.
      forward: their function.
      restored: the network of each.
      mesh: the devices.

    Raises:
      UserError: the networks differ in the number of channels.
    """
    channels = restored[0].channels
    for run, network in zip(runs, restored, strict=True):
        if network.channels != channels:
            raise UserError(
                f"--ensemble={run}: its images have {network.channels} channels, those of the "
                f"first run {channels}; predict with each run alone"
            )
    variables = [network.variables for network in restored]
    return Predictor(
        forward,
        variables if len(runs) > 1 else variables[0],
        networks=[models.build(**config.model) for config in runs.values()],
        channels=channels,
        batch_size=next(iter(runs.values())).eval.batch_size,
        mesh=mesh,
    )


class Predictor:
    """A network or ensemble on all devices, with the properties that determine tiles of images.

    Args:
      forward: the function of the network or ensemble.
      variables: its variables, which are replicated on the devices.
      networks: the network, or those of the ensemble. If one is unpadded, all are, with equal
        margins and multiples (see `check_alike`).
      channels: number of input channels.
      batch_size: largest number of images in a batch, before rounding up to a multiple of the
        number of devices.
      mesh: the devices.

    Attributes:
      multiple: tile positions and sides are multiples of this, pixels.
      margin: see `Network.margin`; the largest of the networks, pixels.
      unpadded: whether a tile must include this margin.
    """

    def __init__(
        self,
        forward: Forward,
        variables: Any,
        *,
        networks: Sequence[models.Network],
        channels: int,
        batch_size: int,
        mesh: Mesh,
    ):
        self.channels = channels
        self.multiple = math.lcm(*(network.multiple for network in networks))
        self.margin = max(network.margin for network in networks)
        self.unpadded, self._networks = networks[0].unpadded, networks
        self._mesh, self._most = mesh, batch_size
        self._compiled: set[tuple] = set()
        self._placed: dict[int, tuple[Mesh, Any, dict[bool, Callable]]] = {}
        self._variables, self._forward = devices.replicate(variables, mesh), forward

    def weights_digest(self) -> str:
        """Returns a digest of all weights of the network or ensemble, 16 hexadecimal digits."""
        return models.weights_digest(self._variables)

    def input_side(self, side: int) -> int:
        """Returns the side of the input, pixels, that yields `side` pixels of probabilities.

        The input of an unpadded network starts `margin` pixels before the output.
        """
        return max(network.input_size(side) for network in self._networks)

    def stream(self, tiles: Iterable[T]) -> Iterator[tuple[T, np.ndarray]]:
        """Predicts tiles in their order.

        Consecutive tiles of equal shape and dtype share a batch. The devices compute while the
        next tiles are read and earlier results are processed.

        Args:
          tiles: the tiles.

        Yields:
          Each tile with its probabilities, float32 [H, W, K].
        """
        waiting: collections.deque[tuple[list[T], jax.Array]] = collections.deque()
        for (shape, _, _), alike in itertools.groupby(tiles, _kind):
            while batch := list(itertools.islice(alike, self.batch_size(*shape[:2]))):
                waiting.append((batch, self._start(batch)))
                if len(waiting) == IN_FLIGHT:
                    yield from self._finish(*waiting.popleft())
        while waiting:
            yield from self._finish(*waiting.popleft())

    def batch_size(self, height: int, width: int) -> int:
        """Returns the size of a full batch, a multiple of the number of devices.

        Args:
          height: height of an image, pixels.
          width: width of an image, pixels.
        """
        count = max(1, self._most * min(PIXELS, height * width) // (height * width))
        return round_up(count, self._mesh.size)

    def _start(self, batch: list[T]) -> jax.Array:
        kind, size = _kind(batch[0]), self.batch_size(*batch[0].image.shape[:2])
        if len(batch) == size:
            self._compiled.add(kind)
        elif kind not in self._compiled:
            # No full batch of this kind has been compiled, so a smaller one is. Otherwise padding
            # costs less than compiling again. An image alone needs one device, not padding on all.
            size = round_up(len(batch), self._mesh.size) if len(batch) > 1 else 1
        images = np.stack([tile.image for tile in batch])
        images = np.pad(images, ((0, size - len(batch)), (0, 0), (0, 0), (0, 0)))
        count = self._mesh.size if size > 1 else 1
        if count not in self._placed:
            self._placed[count] = self._place(count)
        mesh, variables, steps = self._placed[count]
        return steps[batch[0].surrounded](variables, devices.spread(images, mesh))

    def _place(self, count: int) -> tuple[Mesh, Any, dict[bool, Callable]]:
        """Returns the first devices, the variables on them, and the steps by `surrounded`."""
        mesh = devices.local_mesh(self._mesh.devices.flat[:count].tolist())

        def probabilities(variables: Any, images: jax.Array, surrounded: bool) -> jax.Array:
            return models.probabilities(self._forward(variables, images, surrounded))

        steps = {
            surrounded: devices.compile_eval_step(
                functools.partial(probabilities, surrounded=surrounded), mesh
            )
            for surrounded in (False, True)
        }
        return mesh, devices.replicate(self._variables, mesh), steps

    def _finish(self, batch: list[T], outputs: jax.Array) -> Iterator[tuple[T, np.ndarray]]:
        yield from zip(batch, devices.join(outputs), strict=False)  # drops the padding


def _kind(tile: Tile) -> tuple[tuple[int, ...], np.dtype, bool]:
    return tile.image.shape, tile.image.dtype, tile.surrounded
