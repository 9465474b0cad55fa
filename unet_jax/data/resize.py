"""Changing the number of pixels, by interpolation (smooth for images and probabilities, nearest
for labels) or by padding.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from unet_jax import IGNORED
from unet_jax.data.dataset import Example


def resize(example: Example, height: int, width: int) -> Example:
    """Image, label and weight of an example at height x width pixels; proportions may change."""
    image, label = example["image"], example["label"]
    if label.shape == (height, width):
        return example
    smooth, nearest = resize_image(image, height, width), resize_label(label, height, width)
    example = {**example, "image": smooth, "label": nearest}
    if "weight" in example:
        example["weight"] = resize_smooth(example["weight"][..., None], height, width)[..., 0]
    return example


def pad(example: Example, height: int, width: int) -> Example:
    """Extends an example at the bottom and the right to height x width pixels.

    The image is mirrored, which gives a network the least unusual surroundings; the label
    there is `IGNORED`, the weight 0.
    """
    image, label = example["image"], example["label"]
    border = ((0, height - label.shape[0]), (0, width - label.shape[1]))
    if not np.any(border):
        return example
    example = {
        **example,
        "image": pad_image(image, height, width),
        "label": np.pad(label, border, constant_values=IGNORED),
    }
    if "weight" in example:
        example["weight"] = np.pad(example["weight"], border)
    return example


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Integer [H, W, C] -> [height, width, C] of the same type, rounded."""
    return round_to(resize_smooth(image, height, width), image.dtype)


def round_to(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """To the nearest integers, as an unsigned integer type."""
    return np.clip(np.rint(values), 0, np.iinfo(dtype).max).astype(dtype)


def pad_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """[H, W, C] -> [height, width, C], mirrored at the bottom and the right."""
    border = ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0))
    return np.pad(image, border, mode="symmetric")


def resize_label(label: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [H, W] -> [height, width], the nearest pixel's."""
    nearest = Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(nearest)


def resize_smooth(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """[H, W, C] -> float32 [height, width, C], bilinear; antialiased where it shrinks."""
    if array.shape[:2] == (height, width):
        return array.astype(np.float32)
    channels = np.moveaxis(array.astype(np.float32), -1, 0)
    resized = [
        Image.fromarray(channel).resize((width, height), Image.Resampling.BILINEAR)
        for channel in channels
    ]
    return np.stack([np.asarray(channel) for channel in resized], axis=-1)


def resize_from_bands(
    bands: Iterable[np.ndarray], size: tuple[int, int], height: int, width: int
) -> np.ndarray:
    """`resize_smooth` of an image of `size` that comes in bands of rows [rows, W, C].

    Equal but for rounding. In memory are a band and the result.
    """
    result, top, first = np.empty(0), 0, 0
    for band in bands:
        across = resize_smooth(band, len(band), width)
        if not result.size:
            result = np.zeros((height, width, band.shape[2]))
        bottom = top + len(band)
        for row in range(first, height):
            begin, weights = _taps(row, size[0], height)
            if begin >= bottom:
                break
            part = slice(max(top - begin, 0), bottom - begin)
            start = max(begin - top, 0)
            rows = across[start : start + len(weights[part])]
            result[row] += np.tensordot(weights[part], rows, 1)
            first += begin + len(weights) <= bottom
        top = bottom
    return result.astype(np.float32)


def resize_in_bands(array: np.ndarray, height: int, width: int, rows: int) -> Iterator[np.ndarray]:
    """`resize_smooth` in bands of `rows` rows, float32 [rows, width, C]. Equal but for rounding."""
    for top in range(0, height, rows):
        count = min(rows, height - top)
        taps = [_taps(row, len(array), height) for row in range(top, top + count)]
        first = taps[0][0]
        matrix = np.zeros((count, max(begin + len(w) for begin, w in taps) - first))
        for row, (begin, weights) in enumerate(taps):
            matrix[row, begin - first : begin - first + len(weights)] = weights
        part = array[first : first + matrix.shape[1]]
        yield resize_smooth(np.tensordot(matrix, part, 1), count, width)


def _taps(place: int, length: int, target: int) -> tuple[int, np.ndarray]:
    """Pillow's bilinear filter along an axis of `length` pixels that becomes one of `target`.

    Returns the first of the pixels that pixel `place` of the result is the mean of, and their
    weights, float64.
    """
    scale = length / target
    spread = max(scale, 1.0)  # where an image shrinks, all of its pixels count
    centre = (place + 0.5) * scale
    first = max(int(centre - spread + 0.5), 0)
    last = min(int(centre + spread + 0.5), length)
    weights = np.maximum(1 - np.abs((np.arange(first, last) - centre + 0.5) / spread), 0)
    return first, weights / weights.sum()
