"""How images of any size become inputs of the network: `data.fit` and `data.size`."""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
from ml_collections import ConfigDict

from unet_jax.data.dataset import Example
from unet_jax.data.resize import pad, resize

FITS = ("crop", "resize")
SHAPES = 4  # the most shapes to which whole images are padded
FEW_SIZES = 64  # with more distinct sizes, they are rounded up before shapes are merged
Size = tuple[int, int]  # (height, width), pixels


@dataclasses.dataclass(frozen=True)
class Fit:
    """How images become inputs of the network.

    Attributes:
      name: crop trains on windows and evaluates whole images; resize resizes every image.
      size: side of the square window, or of the resized image, pixels.
    """

    name: str
    size: int

    @classmethod
    def of(cls, data: ConfigDict) -> Self:
        """Returns what the section `data` of a config says."""
        return cls(data.fit, data.size)

    @property
    def resizes(self) -> bool:
        """Whether every image is resized, so that the network sees other pixels than the file's."""
        return self.name == "resize"

    def shapes(self, sizes: Sequence[Size]) -> dict[Size, Size]:
        """Maps each image size to the (height, width) of the network's input in evaluation."""
        if self.resizes:
            return dict.fromkeys(sizes, (self.size, self.size))
        return padded_shapes(tuple(sizes))

    def to_shape(self, example: Example, height: int, width: int) -> Example:
        """Resizes or pads an example to height x width pixels."""
        return resize(example, height, width) if self.resizes else pad(example, height, width)

    def without_padding(self, prediction: np.ndarray, size: Size) -> np.ndarray:
        """Returns the part of a prediction that lies inside its image.

        Args:
          prediction: an array [H, W, ...] for an example that `to_shape` returned.
          size: (height, width) of the image, pixels.
        """
        return prediction if self.resizes else prediction[: size[0], : size[1]]


@functools.lru_cache(maxsize=8)
def padded_shapes(
    sizes: tuple[tuple[int, int], ...], most: int = SHAPES
) -> dict[tuple[int, int], tuple[int, int]]:
    """Maps each image size to one of at most `most` padded shapes that hold it.

    A network is compiled once for each shape, and every padded pixel costs computation. Greedy
    merging starts with the sizes themselves and repeatedly merges the two shapes whose merging
    adds the fewest pixels.

    Args:
      sizes: (height, width) of each image, pixels.
      most: largest number of shapes.

    Returns:
      (height, width) of the shape for each size.
    """
    step, shape_of = 1, {size: size for size in sizes}
    while len(set(shape_of.values())) > FEW_SIZES:
        step *= 2
        shape_of = {(h, w): (h + -h % step, w + -w % step) for h, w in sizes}
    counts = collections.Counter(shape_of[size] for size in sizes)
    while len(counts) > most:
        padding = functools.partial(_merged_padding, counts)
        pair = min(itertools.combinations(counts, 2), key=padding)
        height, width = map(max, *pair)
        shape_of = {k: (height, width) if v in pair else v for k, v in shape_of.items()}
        counts = collections.Counter(shape_of[size] for size in sizes)
    return shape_of


def _merged_padding(
    counts: Mapping[tuple[int, int], int], pair: tuple[tuple[int, int], ...]
) -> int:
    """Returns the pixels of padding that a common shape would add."""
    height, width = map(max, *pair)
    return sum(counts[h, w] * (height * width - h * w) for h, w in pair)
