"""Image files for tests, and the one-line errors about them."""

import pathlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from unet_jax.core.errors import UserError


def noise(shape, dtype=np.uint8, seed: int = 0, below: int = 0) -> np.ndarray:
    """Random values below `below`, or of the whole type."""
    below = below or np.iinfo(dtype).max + 1
    return np.random.default_rng(seed).integers(0, below, shape, dtype=dtype)


def save(path: pathlib.Path, pixels: np.ndarray, palette=None, **options) -> pathlib.Path:
    """Writes an image, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(np.asarray(palette, np.uint8).tobytes())
    image.save(path, **options)
    return path


def refused(function: Callable, argument, *parts) -> str:
    """The message of the `UserError` that the call raises: one line that has all the parts.

    The argument, if it is a path, is one of them.
    """
    parts = (*parts, argument) if isinstance(argument, pathlib.Path) else parts
    with pytest.raises(UserError) as error:
        function(argument)
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message
    return message
