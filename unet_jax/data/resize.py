"""Changes image sizes by interpolation or by padding.

Interpolation is bilinear for images and probabilities, and nearest neighbour for labels.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from unet_jax import IGNORED
from unet_jax.data.dataset import Example


def resize(example: Example, height: int, width: int) -> Example:
    """Resizes image, label and weight to height x width pixels; the aspect ratio may change."""
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

    The image is mirrored, so that the network sees plausible surroundings; the added pixels have
    label `IGNORED` and weight 0.
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
    """Resizes an image [H, W, C] to [height, width, C] of the same dtype."""
    return round_to(resize_smooth(image, height, width), image.dtype)


def round_to(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Converts values to a dtype; for integers, rounds them and clips them to its range."""
    if dtype.kind == "f":
        return values.astype(dtype)
    # float64, or the highest values of 32 bits would be rounded beyond the range
    wide = values if dtype.itemsize < 4 else values.astype(np.float64)
    return np.clip(np.rint(wide), np.iinfo(dtype).min, np.iinfo(dtype).max).astype(dtype)


def pad_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pads an image [H, W, C] to [height, width, C], mirrored at the bottom and the right."""
    border = ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0))
    return np.pad(image, border, mode="symmetric")


def resize_label(label: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes a label, uint8 [H, W], to [height, width] by nearest neighbour."""
    nearest = Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(nearest)


def resize_smooth(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes [H, W, C] to float32 [height, width, C], bilinear; antialiased when shrinking."""
    if array.shape[:2] == (height, width):
        return array.astype(np.float32)
    channels = (array[..., i].astype(np.float32) for i in range(array.shape[2]))  # contiguous
    resized = [
        Image.fromarray(channel).resize((width, height), Image.Resampling.BILINEAR)
        for channel in channels
    ]
    return np.stack([np.asarray(channel) for channel in resized], axis=-1)


def resize_from_bands(
    bands: Iterable[np.ndarray], size: tuple[int, int], height: int, width: int
) -> np.ndarray:
    """Resizes an image given as bands of rows; equals `resize_smooth` up to rounding.

    Only one band and the result are in memory.

    Args:
      bands: consecutive bands of the image from top to bottom, each [rows, W, C].
      size: height and width of the image in pixels.
      height: height of the result in pixels.
      width: width of the result in pixels.

    Returns:
      The resized image, float32 [height, width, C].
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
    """Yields the result of `resize_smooth` in bands, up to rounding.

    Args:
      array: the image, [H, W, C].
      height: height of the whole result in pixels.
      width: width of the result in pixels.
      rows: number of rows in a band; the last band may have fewer.

    Yields:
      Bands from top to bottom, float32 [rows, width, C].
    """
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
    """Computes Pillow's bilinear filter for one pixel of an axis resized to `target` pixels.

    Args:
      place: index of the pixel in the result.
      length: number of pixels of the axis before resizing.
      target: number of pixels of the axis after resizing.

    Returns:
      Index of the first input pixel that contributes to the result, and the weights of this and
      the following pixels, float64, which sum to 1.
    """
    scale = length / target
    spread = max(scale, 1.0)  # a wider filter, so that shrinking uses all pixels
    centre = (place + 0.5) * scale
    first = max(int(centre - spread + 0.5), 0)
    last = min(int(centre + spread + 0.5), length)
    weights = np.maximum(1 - np.abs((np.arange(first, last) - centre + 0.5) / spread), 0)
    return first, weights / weights.sum()
