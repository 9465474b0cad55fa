"""The base class of encoders, and their registry."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from unet_jax.core.registry import Registry

STRIDES = (2, 4, 8, 16, 32)  # of the features, pixels


class Encoder(nn.Module):
    """The layers of an image classifier before its pooling; a subclass registers itself.

    The modules have the names of the PyTorch implementation whose weights are published, with `_`
    for a dot before a number: `layer1_0/conv1` is `layer1.0.conv1`.

    Attributes:
      levels: number of features, 1 to 5; later layers are left out.
      dtype: arithmetic of the layers.
      remat: whether the gradient recomputes each block (see `remat.recomputed`).
    """

    # Mean and standard deviation of the pixels with which the published weights were trained, as
    # shares of the range of the image's type, for R, G and B: the network's input is
    # (pixel / range - mean) / std.
    mean: ClassVar[tuple[float, float, float]]
    std: ClassVar[tuple[float, float, float]]
    first_module: ClassVar[str]  # name of the module with the first convolution
    timm_name: ClassVar[str] = ""  # of the network in timm
    # What may precede the names of the tensors in checkpoints of segmentation networks.
    prefixes: ClassVar[tuple[str, ...]] = (
        "",
        "encoder.",
        "encoder.model.",
        "backbone.",
        "model.",
        "model.encoder.",
        "model.encoder.model.",
    )

    levels: int = len(STRIDES)
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @classmethod
    def torch_name(cls, name: str) -> str:
        """Returns this encoder's name of a tensor of another implementation; others unchanged."""
        return name

    def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
        """Computes the features.

        Args:
          x: images, float [N, H, W, C]; H and W are multiples of the largest stride.
          train: uses the batch statistics.

        Returns:
          Features [N, H / s, W / s, C_s] for the first `levels` strides s of `STRIDES`.
        """
        raise NotImplementedError


ENCODERS: Registry[type[Encoder]] = Registry("unet_jax.models.encoders")
