"""Changing the number of pixels, by interpolation (smooth for images and probabilities, nearest
for labels) or by padding.
"""

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
    top = np.iinfo(image.dtype).max
    return np.clip(np.rint(resize_smooth(image, height, width)), 0, top).astype(image.dtype)


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
