"""Changing the number of pixels: nearest for labels, smooth for all else."""

import numpy as np
from PIL import Image

from unet_jax.data.dataset import Example


def resize(example: Example, height: int, width: int) -> Example:
    """Image, label and weight of an example at height x width pixels; proportions may change."""
    image, label = example["image"], example["label"]
    if label.shape == (height, width):
        return example
    top = np.iinfo(image.dtype).max
    smooth = np.clip(np.rint(resize_smooth(image, height, width)), 0, top).astype(image.dtype)
    resized = {**example, "image": smooth, "label": resize_label(label, height, width)}
    if "weight" in example:
        resized["weight"] = resize_smooth(example["weight"][..., None], height, width)[..., 0]
    return resized


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
