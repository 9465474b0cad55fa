"""Changing the number of pixels: smooth for images and probabilities, nearest for labels."""

import numpy as np
from PIL import Image

from unet_jax.data.dataset import Example


def resize(example: Example, height: int, width: int) -> Example:
    """Image and label of an example at height x width pixels; proportions may change."""
    image, label = example["image"], example["label"]
    if label.shape == (height, width):
        return example
    top = np.iinfo(image.dtype).max
    smooth = np.clip(np.rint(resize_smooth(image, height, width)), 0, top).astype(image.dtype)
    return {**example, "image": smooth, "label": resize_label(label, height, width)}


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
