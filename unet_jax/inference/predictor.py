"""From integer images to probabilities: the network as evaluation and prediction apply it."""

import collections
import functools
import hashlib
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from unet_jax import models
from unet_jax.core.errors import UserError
from unet_jax.distributed import devices
from unet_jax.inference.ensemble import Network, check_alike, member, together
from unet_jax.inference.tiling import round_up
from unet_jax.models.unet import margin, valid_input_size
from unet_jax.runs.checkpoints import Checkpoints

IN_FLIGHT = 2  # batches that devices have before results are waited for
PIXELS = 512 * 512  # of an image; of larger ones fewer make a batch, so that memory is bounded


class Tile(Protocol):
    """Something to predict."""

    image: np.ndarray  # uint8 or uint16 [H, W, C]
    surrounded: bool  # whether the image brings the margin that its network sees


T = TypeVar("T", bound=Tile)


def decide(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Probabilities [H, W, K] -> class ids, uint8 [H, W].

    Of two classes, with one logit or with two: the second where its probability is above the
    threshold. Of more: the most probable one.
    """
    if probabilities.shape[-1] <= 2:
        return (probabilities[..., -1] > threshold).astype(np.uint8)
    return probabilities.argmax(-1).astype(np.uint8)


def restore(folder: pathlib.Path, config: ConfigDict, which: str) -> tuple[int, int, dict]:
    """Step, input channels and variables of a run's checkpoint (`best`, `last` or a step)."""
    checkpoints = Checkpoints(folder, config.checkpoint.keep, config.to_dict(), read_only=True)
    try:
        channels = models.input_channels(checkpoints.model_shapes())
        target = models.init(models.build(**config.model), channels, seed=config.seed)
        restored = checkpoints.restore_model(which, target)
    finally:
        checkpoints.close()
    return restored.step, channels, restored.model


def load(
    runs: Mapping[pathlib.Path, ConfigDict], which: str, mesh: Mesh, symmetries: bool = False
) -> tuple[list[int], "Predictor"]:
    """The steps and the network of runs' checkpoints (`best`, `last` or a step).

    `runs` are folders and their configs; see `evaluate` for several, and for `symmetries`. No data
    set is needed. Raises a `UserError` where there is no such checkpoint.
    """
    config, channels, steps, networks, variables = next(iter(runs.values())), [], [], [], []
    for run, its in runs.items():
        check_alike(config, its, run)
        networks.append(member(run, its, symmetries))
        for found, kept in zip(restore(run, its, which), (steps, channels, variables), strict=True):
            kept.append(found)
        if channels[-1] != channels[0]:
            raise UserError(
                f"--ensemble={run}: its images have {channels[-1]} channels, those of the first "
                f"run {channels[0]}; predict with each by itself"
            )
    return steps, Predictor(
        together(networks) if len(runs) > 1 else networks[0],
        variables if len(runs) > 1 else variables[0],
        channels=channels[0],
        # Unpadded networks are of one depth, as `check_alike` has it.
        depth=max(its.model.depth for its in runs.values()),
        padding=config.model.padding,
        batch_size=config.eval.batch_size,
        mesh=mesh,
    )


class Predictor:
    """A network on all devices, and what those who cut up images must know of it."""

    def __init__(
        self,
        network: Network,
        variables: Any,
        *,
        channels: int,
        depth: int,
        padding: str,
        batch_size: int,
        mesh: Mesh,
    ):
        self.channels, self.depth, self.multiple = channels, depth, 2**depth
        # Pixels around a tile that an unpadded network sees; a padded one is given none.
        self.margin = margin(depth) if padding == "valid" else 0
        self._mesh, self._most = mesh, batch_size
        self._compiled: set[tuple] = set()
        self._variables = devices.replicate(variables, mesh)

        def probabilities(variables: Any, images: jax.Array, surrounded: bool) -> jax.Array:
            return models.probabilities(network(variables, images, surrounded))

        self._steps = {
            surrounded: devices.compile_eval_step(
                functools.partial(probabilities, surrounded=surrounded), mesh
            )
            for surrounded in (False, True)
        }

    def weights_digest(self) -> str:
        """Sixteen hexadecimal digits that only the same weights share, of an ensemble all."""
        found = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path(self._variables):
            array = np.ascontiguousarray(leaf)
            found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
            found.update(array.tobytes())
        return found.hexdigest()[:16]

    def input_side(self, side: int) -> int:
        """How many pixels, from `margin` before it, give a tile of `side` probabilities."""
        return valid_input_size(side, self.depth) if self.margin else side

    def stream(self, tiles: Iterable[T]) -> Iterator[tuple[T, np.ndarray]]:
        """Each tile with its probabilities, float32 [H, W, K], in the same order.

        Neighbours of one shape and type share a batch. Devices compute while further tiles are
        read and those before are dealt with.
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
        """Images of this size in a full batch: any number that the devices divide."""
        count = max(1, self._most * min(PIXELS, height * width) // (height * width))
        return round_up(count, self._mesh.size)

    def _start(self, batch: list[T]) -> jax.Array:
        kind, size = _kind(batch[0]), self.batch_size(*batch[0].image.shape[:2])
        if len(batch) == size:
            self._compiled.add(kind)
        elif kind not in self._compiled:  # few images; else what fills up costs less than compiling
            size = round_up(len(batch), self._mesh.size)
        images = np.stack([tile.image for tile in batch])
        images = np.pad(images, ((0, size - len(batch)), (0, 0), (0, 0), (0, 0)))
        step = self._steps[batch[0].surrounded]
        return step(self._variables, devices.spread(images, self._mesh))

    def _finish(self, batch: list[T], outputs: jax.Array) -> Iterator[tuple[T, np.ndarray]]:
        yield from zip(batch, devices.join(outputs), strict=False)  # what filled up is left out


def _kind(tile: Tile) -> tuple[tuple[int, ...], np.dtype, bool]:
    return tile.image.shape, tile.image.dtype, tile.surrounded
