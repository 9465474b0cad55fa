"""RandAugment (Cubuk et al. 2019, arXiv 1909.13719) for images with labels.

It draws operations uniformly from a list and applies them at one magnitude, from 0 (no change,
except for autocontrast and equalize) to 10. The geometric ones are part of the example's single
warp, so that the label moves with the image. Magnitude 10 has the strengths of AutoAugment (Cubuk
et al. 2018, arXiv 1805.09501, table 6), such as translation by 150 of 331 pixels and posterizing
to 4 bits.
"""

import functools
from collections.abc import Callable

import cv2
import numpy as np

from unet_jax.data.augment import colour
from unet_jax.data.augment.colour import Colour
from unet_jax.data.augment.warp import Warp, rotate, shear

# Strengths at magnitude 10: degrees, shear, share of the window's side, change of a factor from 1.
DEGREES, SLOPE, TRANSLATION, ENHANCEMENT = 30, 0.3, 0.45, 0.9
HIGHEST = 10
LEVELS = 256  # grey levels of tables and histograms, for images of any type

SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13  # as in PIL


def draw(number: int, magnitude: float, size: int, rng: np.random.Generator) -> list[Warp | Colour]:
    """Draws `number` operations for a window of `size` pixels, each with a random sign.

    `magnitude` is in [0, 10]. Returns the operations in the order in which they apply.
    """
    parts = []
    for place in rng.integers(len(OPERATIONS), size=number):
        strength = magnitude / HIGHEST * (1 if rng.random() < 0.5 else -1)
        parts.append(list(OPERATIONS.values())[place](strength, size))
    return parts


def scale_values(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends with black, as PIL's Brightness does."""
    return image * factor


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Changes the saturation as PIL's Color does; returns images that are not RGB unchanged."""
    return colour.saturation(image, factor) if image.shape[-1] == 3 else image


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends with a smoothed image, as PIL's Sharpness does."""
    smooth = cv2.filter2D(image, -1, SMOOTH, borderType=cv2.BORDER_REFLECT).reshape(image.shape)
    return smooth + factor * (image - smooth)


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keeps the highest `bits` of 8 bits."""
    if bits == 8:
        return image
    kept = _codes(image) & (LEVELS - 2 ** (8 - bits))
    return kept.astype(np.float32) / (LEVELS - 1)


def solarize(image: np.ndarray, threshold: float) -> np.ndarray:
    """Inverts values from `threshold` on, a share of all levels."""
    image = np.clip(image, 0, 1)
    return np.where(image >= threshold * LEVELS / (LEVELS - 1), 1 - image, image)


def autocontrast(image: np.ndarray) -> np.ndarray:
    """Stretches each channel so that its lowest value is 0 and its highest 1."""
    image = np.clip(image, 0, 1)
    low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
    spread = high > low
    return (image - low * spread) / np.where(spread, high - low, 1)


def equalize(image: np.ndarray) -> np.ndarray:
    """Equalizes each channel's histogram over `LEVELS` levels."""
    codes = _codes(image)
    result = np.clip(image, 0, 1)
    for channel in range(image.shape[-1]):
        counts = np.bincount(codes[..., channel].ravel(), minlength=LEVELS)
        others = counts.sum() - counts[codes[..., channel].max()]
        if others:
            table = ((np.cumsum(counts) - counts) / others).astype(np.float32)
            result[..., channel] = table[codes[..., channel]]
    return result


def _codes(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0, 1) * (LEVELS - 1)).astype(np.uint8)


def _enhance(change: Callable, strength: float, size: int) -> Colour:
    return functools.partial(change, factor=1 + ENHANCEMENT * strength)


# Each maps a strength in [-1, 1] and the window's side in pixels to a transform.
OPERATIONS: dict[str, Callable[[float, int], Warp | Colour]] = {
    "identity": lambda strength, size: Warp(),
    "autocontrast": lambda strength, size: autocontrast,
    "equalize": lambda strength, size: equalize,
    "rotation": lambda strength, size: Warp(rotate(DEGREES * strength)),
    "shear_x": lambda strength, size: Warp(shear(SLOPE * strength, 0)),
    "shear_y": lambda strength, size: Warp(shear(0, SLOPE * strength)),
    "translate_x": lambda strength, size: Warp(shift=np.array([0, TRANSLATION * strength * size])),
    "translate_y": lambda strength, size: Warp(shift=np.array([TRANSLATION * strength * size, 0])),
    "brightness": functools.partial(_enhance, scale_values),
    "contrast": functools.partial(_enhance, colour.contrast),
    "color": functools.partial(_enhance, saturation),
    "sharpness": functools.partial(_enhance, sharpness),
    "posterize": lambda strength, size: functools.partial(
        posterize, bits=8 - round(4 * abs(strength))
    ),
    "solarize": lambda strength, size: functools.partial(solarize, threshold=1 - abs(strength)),
}
