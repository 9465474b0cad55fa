"""Random augmentation of training examples: image, label and weight are transformed together.

`data.augment` names the transforms and their order; `config.augment` has their ranges. A transform
is geometric (a `warp.Warp`) or photometric (a `colour.Colour`). All geometric transforms of an
example are composed into one warp; the photometric ones follow, in their order. This module does
not import jax, because it runs in reader processes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy  # loads a subpackage when it is first used: few configs need interpolate
from ml_collections import ConfigDict

from unet_jax.core.intensities import Intensities
from unet_jax.data.augment import colour, randaugment, warp
from unet_jax.data.augment.colour import TYPE_RANGE, Colour
from unet_jax.data.augment.warp import Warp
from unet_jax.data.augment.window import foreground_corner, uniform_corner
from unet_jax.data.dataset import Example
from unet_jax.data.fit import Fit
from unet_jax.data.resize import resize

FORCED = "forced"  # entry of an example: whether its window must contain foreground

Ranges = Mapping[str, Any]
Part = Warp | Colour
Transform = Callable[[Ranges, int, np.random.Generator], Part | list[Part]]


@dataclasses.dataclass(frozen=True)
class Augment:
    """Augments an example to `image` [size, size, C] and `label` [size, size]; see `build`.

    If the example has a true entry `FORCED`, the window contains foreground before it is warped
    (see `window.foreground_corner`), or is anywhere if the label has none. Flips and quarter turns
    map the window to itself; any other geometric transform may move that pixel out of it.
    """

    names: tuple[str, ...]
    ranges: dict[str, Any]
    fit: Fit
    intensities: Intensities = TYPE_RANGE

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        dtype, corner, size = example["image"].dtype, (0, 0), self.fit.size
        forced, example = example.get(FORCED), {k: v for k, v in example.items() if k != FORCED}
        if self.fit.resizes:
            example = resize(example, size, size)
        else:
            label = example["label"]
            corner = foreground_corner(label, size, rng) if forced else None
            corner = corner or uniform_corner(label.shape, size, rng)
        parts = []
        for name in self.names:
            drawn = TRANSFORMS[name](self.ranges, size, rng)
            parts += drawn if isinstance(drawn, list) else [drawn]
        warps = [part for part in parts if isinstance(part, Warp)]
        colours = [part for part in parts if not isinstance(part, Warp)]
        combined = functools.reduce(Warp.then, warps, Warp())
        black, _ = self.intensities.ends(dtype)
        example = warp.cut(example, combined, corner, size, self.ranges["outside"], black)
        image = colour.apply(example["image"], colours, dtype, self.intensities)
        return {**example, "image": image}


def build(
    names: Sequence[str], ranges: Ranges, *, fit: Fit, intensities: Intensities = TYPE_RANGE
) -> Augment:
    """Builds the augmentation that `config.data.augment` and `config.augment` describe.

    Args:
      names: transforms, keys of `TRANSFORMS`, in the order in which they are drawn.
      ranges: the fields of `config.augment`.
      fit: crop takes a window at a random position and warps it about its centre, so that a
        rotation shows the surrounding image; resize scales the whole image to the window.
      intensities: the range of stored values, to which photometric transforms refer.

    Returns:
      A function of an example and a random generator. It can be pickled.
    """
    return Augment(tuple(names), dict(ranges.items()), fit, intensities)


def of(config: ConfigDict) -> Augment:
    """Builds the augmentation of a resolved config."""
    return build(
        config.data.augment,
        config.augment,
        fit=Fit.of(config.data),
        intensities=Intensities.of(config.data),
    )


def flip(ranges: Ranges, size: int, rng: np.random.Generator) -> Warp:
    """Mirrors rows and columns, each with probability 1/2."""
    return Warp(np.diag(np.where(rng.random(2) < 0.5, -1.0, 1.0)))


def mirror(ranges: Ranges, size: int, rng: np.random.Generator) -> Warp:
    """Mirrors left and right with probability 1/2."""
    return Warp(np.diag([1.0, -1.0 if rng.random() < 0.5 else 1.0]))


def quarter_turn(ranges: Ranges, size: int, rng: np.random.Generator) -> Warp:
    """Rotates by 0, 90, 180 or 270 degrees, each with probability 1/4."""
    once = np.array([[0.0, 1.0], [-1.0, 0.0]])
    return Warp(np.linalg.matrix_power(once, int(rng.integers(4))))


def rotation(ranges: Ranges, size: int, rng: np.random.Generator) -> Warp:
    return Warp(warp.rotate(_symmetric(ranges["rotation_degrees"], rng)))


def shift(ranges: Ranges, size: int, rng: np.random.Generator) -> Warp:
    return Warp(shift=size * np.array([_symmetric(ranges["shift"], rng) for _ in range(2)]))


def scale(ranges: Ranges, size: int, rng: np.random.Generator) -> Warp:
    return Warp(np.eye(2) / _factor(ranges["scale"], rng))


def shear(ranges: Ranges, size: int, rng: np.random.Generator) -> Warp:
    """Shears along both axes, by independent amounts."""
    return Warp(warp.shear(_symmetric(ranges["shear"], rng), _symmetric(ranges["shear"], rng)))


def elastic(ranges: Ranges, size: int, rng: np.random.Generator) -> Warp:
    """Draws an elastic deformation: Ronneberger et al. 2015 (arXiv 1505.04597), section 3.1.

    The displacements are normally distributed on a coarse grid and interpolated bicubically.
    """
    points = int(ranges["elastic_grid"])
    coarse = rng.normal(0, ranges["elastic_pixels"], (2, points, points)).astype(np.float32)
    basis = cubic_basis(size, points)
    # `@` would use the BLAS threads, which compete with the reader processes for the cores.
    down = np.einsum("ip,cpq->ciq", basis, coarse)
    return Warp(displacement=np.einsum("ciq,jq->cij", down, basis))


@functools.lru_cache(maxsize=8)
def cubic_basis(size: int, points: int) -> np.ndarray:
    """Returns the matrix that interpolates a cubic spline at pixel centres: float32 [size, points].

    Its columns belong to `points` evenly spaced values, from one edge of the window to the other.
    """
    spline = scipy.interpolate.CubicSpline(np.linspace(-1, 1, points), np.eye(points))
    return spline((2 * np.arange(size) + 1) / size - 1).astype(np.float32)


def brightness(ranges: Ranges, size: int, rng: np.random.Generator) -> Colour:
    return functools.partial(colour.brighten, amount=_symmetric(ranges["brightness"], rng))


def contrast(ranges: Ranges, size: int, rng: np.random.Generator) -> Colour:
    return functools.partial(colour.contrast, factor=1 + _symmetric(ranges["contrast"], rng))


def gamma(ranges: Ranges, size: int, rng: np.random.Generator) -> Colour:
    return functools.partial(colour.gamma, exponent=_factor(ranges["gamma"], rng))


def hue(ranges: Ranges, size: int, rng: np.random.Generator) -> Colour:
    return functools.partial(colour.hue, turn=_symmetric(ranges["hue"], rng))


def saturation(ranges: Ranges, size: int, rng: np.random.Generator) -> Colour:
    return functools.partial(colour.saturation, factor=1 + _symmetric(ranges["saturation"], rng))


def blur(ranges: Ranges, size: int, rng: np.random.Generator) -> Colour:
    return functools.partial(colour.blur, sigma=rng.uniform(0, ranges["blur"]))


def noise(ranges: Ranges, size: int, rng: np.random.Generator) -> Colour:
    sigma = rng.uniform(0, ranges["noise"])
    return functools.partial(colour.noise, sigma=sigma, seed=int(rng.integers(2**63)))


def rand_augment(ranges: Ranges, size: int, rng: np.random.Generator) -> list[Part]:
    number, magnitude = ranges["randaugment_number"], ranges["randaugment_magnitude"]
    return randaugment.draw(number, magnitude, size, rng)


TRANSFORMS: dict[str, Transform] = {
    "flip": flip,
    "mirror": mirror,
    "quarter_turn": quarter_turn,
    "rotation": rotation,
    "shift": shift,
    "scale": scale,
    "shear": shear,
    "elastic": elastic,
    "brightness": brightness,
    "contrast": contrast,
    "gamma": gamma,
    "hue": hue,
    "saturation": saturation,
    "blur": blur,
    "noise": noise,
    "randaugment": rand_augment,
}


def _symmetric(most: float, rng: np.random.Generator) -> float:
    return rng.uniform(-most, most)


def _factor(most: float, rng: np.random.Generator) -> float:
    """Draws log-uniformly from [1 / (1 + most), 1 + most]."""
    return math.exp(_symmetric(math.log1p(most), rng))
