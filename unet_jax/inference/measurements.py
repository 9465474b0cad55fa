"""Measurements of predicted masks, one for each class of an image."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from unet_jax.metrics.partition import find_objects


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What is measured of a class in an image.

    Attributes:
      name: name of the class.
      area_pixels: number of its pixels.
      perimeter_pixels: length of its outline, estimated with Crofton's formula in four directions.
      components: number of its connected components; pixels that touch at a corner are connected.
      mean_probability: mean of its probability over its pixels; None if it has none.
    """

    name: str
    area_pixels: int
    perimeter_pixels: float
    components: int
    mean_probability: float | None


def measure(mask: np.ndarray, sums: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Measures all classes of an image but the first, the background.

    Args:
      mask: class ids, uint8 [H, W].
      sums: for each class, the sum of its probability over the pixels that it is decided for.
      names: names of the classes.

    Returns:
      The fields of a `Measurement` for each class.
    """
    from skimage.measure import perimeter_crofton  # its import takes half a second

    found = []
    for value, name in [*enumerate(names)][1:]:
        region = mask == value
        area = int(region.sum())
        measurement = Measurement(
            name,
            area,
            float(perimeter_crofton(region)) if area else 0.0,
            int(find_objects(region, "components").max()) if area else 0,
            float(sums[value] / area) if area else None,
        )
        found.append(dataclasses.asdict(measurement))
    return found
