"""Predictions of an array in tiles, as those of a page of a file."""

import pathlib

import jax
import numpy as np
from made_files import noise
from made_runs import random_variables, small_config
from ml_collections import ConfigDict

from unet_jax import models
from unet_jax.core.intensities import Intensities
from unet_jax.distributed import devices
from unet_jax.inference.cut import Cut
from unet_jax.inference.ensemble import single_network
from unet_jax.inference.predict import Job, Tile
from unet_jax.inference.predictor import Predictor


class Held:
    """A page in memory."""

    def __init__(self, pixels: np.ndarray):
        self._pixels, self.size = pixels, pixels.shape[:2]

    def rows(self, start: int, stop: int) -> np.ndarray:
        return self._pixels[start:stop]


def random_predictor(config: ConfigDict) -> Predictor:
    """A network of one channel with random variables, whose logits are a few."""
    model, variables = models.build(**config.model), random_variables(config, 1)
    # Logits in the hundreds would turn the rounding of float32 into visible probabilities.
    logits = np.asarray(jax.jit(model.apply)(variables, noise((1, 96, 96, 1)) / np.float32(255)))
    for name, head in variables["params"].items():
        if name.startswith(model.head_modules):
            head["bias"] = (head["bias"] - logits.mean()) * 3 / logits.std()
            head["kernel"] = head["kernel"] * 3 / logits.std()
    return Predictor(
        single_network(model, Intensities()),
        variables,
        networks=[model],
        channels=1,
        batch_size=4,
        mesh=devices.local_mesh(),
    )


def in_tiles(
    predictor: Predictor, image: np.ndarray, side: int, overlap: int | None = None
) -> np.ndarray:
    cut = Cut(small_config(), predictor, side, [image.shape[:2]])
    cut.overlap = cut.overlap if overlap is None else overlap
    job = Job(pathlib.Path("a"), [image.shape[:2]], outputs=None)
    tiles = [Tile(job, *tile) for tile in cut.tiles(Held(image))]
    results = (probabilities for _, probabilities in predictor.stream(tiles))
    return np.concatenate([band.copy() for band in cut.join(image.shape[:2], results)])
