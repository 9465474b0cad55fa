"""What a plan needs to know of a data set: sizes of its images, and its classes' shares and widths.

A short form of the fingerprint of nnU-Net (Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z).
"""

import dataclasses

import cv2
import numpy as np

from unet_jax import IGNORED
from unet_jax.data.dataset import Split

MOST_IMAGES = 200  # evenly spaced ones are read of a larger split


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Statistics of a split.

    Attributes:
      height: median height, pixels.
      width: median width, pixels.
      shares: share of each class among the pixels that are not ignored.
      widths: typical width of each class's objects, pixels; inf if the class is absent. The mean
        distance of a strip's pixels to its edge is a quarter of its width.
    """

    height: int
    width: int
    shares: tuple[float, ...]
    widths: tuple[float, ...]


def fingerprint(split: Split, classes: int) -> Fingerprint:
    """Computes the fingerprint of a split with at least one image and `classes` classes."""
    counts, distances = np.zeros(classes), np.zeros(classes)
    step = -(-len(split) // MOST_IMAGES)
    for index in range(0, len(split), step):
        label = split[index]["label"]
        for k in np.unique(label[label != IGNORED]).tolist():
            inside = label == k
            # What is ignored may be of any class; it ends no object.
            area = (inside | (label == IGNORED)).astype(np.uint8)
            counts[k] += inside.sum()
            if area.all():
                distances[k] += inside.sum() * min(area.shape) / 4
            else:
                distance = cv2.distanceTransform(area, cv2.DIST_L2, cv2.DIST_MASK_5)
                distances[k] += distance[inside].sum(dtype=np.float64)
    found = counts > 0
    widths = np.where(found, 4 * distances / np.maximum(counts, 1), np.inf)
    height, width = np.median(split.sizes, axis=0).astype(int).tolist()
    shares = counts / max(counts.sum(), 1)
    return Fingerprint(height, width, tuple(shares.tolist()), tuple(widths.tolist()))
