"""How the stored values of images become the network's input.

The pipeline keeps images as they are stored. The network's own step maps them to its input
(`unet_jax.models.scale`), so that training, evaluation, prediction and export share one rule.
"""

import dataclasses
from typing import Self

import numpy as np
from ml_collections import ConfigDict

INPUT_RANGES = {"symmetric": (-1.0, 1.0), "unit": (0.0, 1.0)}


@dataclasses.dataclass(frozen=True)
class Intensities:
    """The map from stored values to the network's input, per channel.

    Attributes:
      input_range: a key of `INPUT_RANGES`; it has no effect if `std` is set.
      limits: the stored values that become the ends of the input range: low and high of all
        channels, or of each; values beyond them are clipped. () are the limits of the type.
      mean: the stored value that becomes 0, of all channels or of each, if `std` is set.
      std: the difference of stored values that becomes 1.
    """

    input_range: str = "symmetric"
    limits: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def of(cls, data: ConfigDict) -> Self:
        """Returns what the section `data` of a resolved config says."""
        if data.normalize == "auto" or (data.normalize != "range" and not data.limits):
            raise ValueError(f"data.normalize={data.normalize} is not resolved; see `resolved`")
        if data.normalize == "zscore":
            return cls(data.input_range, data.limits, data.mean, data.std)
        return cls(data.input_range, data.limits if data.normalize != "range" else ())

    def ends(self, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """Returns the lowest and the highest stored value, float32 [C], or [1] for all channels."""
        if self.limits:
            low, high = np.reshape(np.array(self.limits, np.float32), (-1, 2)).T
            return low, high
        top = np.iinfo(dtype)
        return np.array([top.min], np.float32), np.array([top.max], np.float32)

    def share(self, image: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Maps stored values [..., C] to their share of the range, float32 [..., C] in [0, 1].

        Args:
          image: the values, which interpolation may have made float32.
          dtype: the type in which they are stored.
        """
        low, high = self.ends(dtype)
        return np.clip((image.astype(np.float32) - low) / (high - low), 0, 1)

    def network_input(self, image: np.ndarray) -> np.ndarray:
        """Maps stored values [..., C] to the network's input, float32 [..., C]."""
        if self.std:
            return (image.astype(np.float32) - np.array(self.mean, np.float32)) / np.array(
                self.std, np.float32
            )
        low, high = INPUT_RANGES[self.input_range]
        return self.share(image, image.dtype) * np.float32(high - low) + np.float32(low)
