"""Random transforms of training examples: image and label move together.

Each takes an example and a generator and returns a new example; numpy alone, since they run in
reader processes.
"""

from collections.abc import Callable

import numpy as np

from unet_jax import IGNORED
from unet_jax.data.dataset import Example

Transform = Callable[[Example, np.random.Generator], Example]


def flip(example: Example, rng: np.random.Generator) -> Example:
    """Mirrors rows and columns, each with probability 1/2."""
    steps = np.where(rng.random(2) < 0.5, -1, 1)
    return _each(example, lambda x: x[:: steps[0], :: steps[1]])


def mirror(example: Example, rng: np.random.Generator) -> Example:
    """Mirrors left and right with probability 1/2."""
    step = -1 if rng.random() < 0.5 else 1
    return _each(example, lambda x: x[:, ::step])


def quarter_turn(example: Example, rng: np.random.Generator) -> Example:
    """Turns by 0, 90, 180 or 270 degrees."""
    turns = int(rng.integers(4))
    return _each(example, lambda x: np.rot90(x, turns))


def crop(example: Example, rng: np.random.Generator, size: int) -> Example:
    """A random window of size x size pixels.

    A smaller image is first padded at the bottom and the right, see `pad`.
    """
    height, width = example["label"].shape
    example = pad(example, max(height, size), max(width, size))
    height, width = example["label"].shape
    top, left = rng.integers(height - size + 1), rng.integers(width - size + 1)
    return _each(example, lambda x: x[top : top + size, left : left + size])


def pad(example: Example, height: int, width: int) -> Example:
    """Extends image and label at the bottom and the right to height x width pixels.

    The image is mirrored, which gives a network the least unusual surroundings; the label
    there is `IGNORED`, the weight 0.
    """
    image, label = example["image"], example["label"]
    border = ((0, height - label.shape[0]), (0, width - label.shape[1]))
    if not np.any(border):
        return example
    padded = {
        **example,
        "image": np.pad(image, (*border, (0, 0)), mode="symmetric"),
        "label": np.pad(label, border, constant_values=IGNORED),
    }
    return padded | {"weight": np.pad(example["weight"], border)} if "weight" in example else padded


TRANSFORMS: dict[str, Transform] = {"flip": flip, "mirror": mirror, "quarter_turn": quarter_turn}


def _each(example: Example, transform: Callable[[np.ndarray], np.ndarray]) -> Example:
    """Applies one spatial transform to image, label and weight."""
    moved = ("image", "label", "weight")
    return {name: transform(x) if name in moved else x for name, x in example.items()}
