"""What the rest of the package knows of a network, and the registry of all networks."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax

from configs.base import Field
from unet_jax.core.registry import Registry


class Network(nn.Module):
    """A segmentation network; a subclass needs an entry in `NETWORKS` and nothing else.

    The attributes without a default in the subclass get the fields of `config.model` with the same
    names. The properties must not depend on the images, so that images can be cut into tiles.

    Attributes:
      classes: logits per pixel, K.
    """

    # Allowed values of the text fields of `config.model`. These defaults are the fields' defaults:
    # a network that does not mention a field refuses any other value of it.
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "padding": ("same",),
        "norm": ("batch",),
        "upsample": ("transpose",),
    }
    # Fields that only this network has, by dotted name, such as "model.heads". Each is an
    # attribute of the network.
    options: ClassVar[Mapping[str, Field]] = {}

    classes: int

    @classmethod
    def from_config(cls, *, platform: str, **fields: Any) -> Self:
        """Builds the network; `models.build` has checked the fields against `choices`.

        Args:
          platform: `cpu`, `gpu` or `tpu`, where the network is computed. The parameters must not
            depend on it.
          **fields: the fields of `config.model` but its name, with `dtype` a `jnp.dtype`. Fields
            that the network has no attribute for are ignored.

        Raises:
          UserError: the network does not support a combination of fields.
        """
        attributes = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in fields.items() if name in attributes})

    @property
    def multiple(self) -> int:
        """Divisor of the sizes that the layers need, pixels; other images are padded.

        Tiles whose positions are multiples of it are computed as in the whole image.
        """
        raise NotImplementedError

    @property
    def margin(self) -> int:
        """How far beyond its own pixel a logit depends on the image, pixels on each side."""
        raise NotImplementedError

    @property
    def unpadded(self) -> bool:
        """Whether the layers pad nothing, so that the logits of an image lack its margin.

        Such a network has a method `core`, which is `__call__` for images that include the margin:
        [N, H, W, C] -> [N, H - 2 margin, W - 2 margin, K].
        """
        return False

    def input_size(self, output: int) -> int:
        """Returns the smallest input, pixels, of an unpadded network's `core` for some output.

        Args:
          output: least side of the logits, pixels.
        """
        return output

    def in_channels(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Returns the number of channels of the images that a checkpoint was trained on.

        Args:
          shapes: shapes of the variables by path (`jax.tree_util.keystr`).
        """
        raise NotImplementedError

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Computes the logits.

        Args:
          x: images, float [N, H, W, C], of any H and W.
          train: uses dropout and the batch statistics.

        Returns:
          float32 logits [N, H, W, K], whatever the arithmetic of the other layers.
        """
        raise NotImplementedError


NETWORKS: Registry[type[Network]] = Registry("unet_jax.models")
