"""The base class of segmentation networks, and their registry."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax

from unet_jax.core.fields import Field
from unet_jax.core.registry import Registry

Logits = jax.Array | tuple[jax.Array, ...]  # a tuple with deep supervision, in training


class Network(nn.Module):
    """A segmentation network; a subclass registers itself in `NETWORKS`.

    A subclass defines `encoder_modules`, `head_modules`, `multiple`, `margin`, `first_kernel`,
    `__call__` and an attribute `dtype`. Its attributes get the values of the fields of
    `config.model` with the same names. The properties must not depend on the images, so that images
    can be split into tiles.

    Attributes:
      classes: logits per pixel, K.
    """

    # Allowed values of fields of `config.model`. These defaults are the fields' defaults: a network
    # that does not mention a field refuses any other value of it.
    choices: ClassVar[dict[str, tuple[str | bool, ...]]] = {
        "padding": ("same",),
        "norm": ("batch",),
        "upsample": ("transpose",),
        "deep_supervision": (False,),
        "remat": (False,),
    }
    # Fields that only this network has, by dotted name, such as "model.heads". Each is an
    # attribute of the network.
    options: ClassVar[Mapping[str, Field]] = {}
    # Beginnings of the names of the top-level modules that form the encoder, and of those that
    # compute logits, whose last axis has the classes. Fine-tuning treats both separately.
    encoder_modules: ClassVar[tuple[str, ...]] = ()
    head_modules: ClassVar[tuple[str, ...]] = ()

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
        """Images are padded to multiples of this number of pixels, such as 2^depth.

        Tiles whose positions are multiples of it are computed as in the whole image.
        """
        raise NotImplementedError

    @property
    def margin(self) -> int:
        """Pixels that the layers of the unpadded network remove on each side.

        For a padded network this is about how far beyond its own pixel a logit depends on the
        image. Tiles of an image overlap by twice this.
        """
        raise NotImplementedError

    @property
    def unpadded(self) -> bool:
        """Whether the layers pad nothing, so that the logits of an image lack its margin.

        Such a network has a method `core`, which is `__call__` for images that include the margin:
        [N, H, W, C] -> [N, H - 2 margin, W - 2 margin, K].
        """
        return False

    def input_size(self, output: int) -> int:
        """Returns the smallest side of an input to `core` that gives at least `output` logits.

        Args:
          output: side of the logits, pixels.
        """
        return output

    @property
    def first_kernel(self) -> tuple[str, ...]:
        """Path within `params` of the convolution kernel [..., C, F] that is applied to the image.

        C is the number of the image's channels. No other parameter's shape depends on it.
        """
        raise NotImplementedError

    def in_channels(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Returns the number of channels of the images that a checkpoint was trained on.

        Args:
          shapes: shapes of the variables by path (`jax.tree_util.keystr`).
        """
        path = map(jax.tree_util.DictKey, ("params", *self.first_kernel))
        return shapes[jax.tree_util.keystr(tuple(path))][-2]

    def __call__(self, x: jax.Array, train: bool = False) -> Logits:
        """Computes the logits.

        A network with deep supervision computes the logits of lower levels in training alone, so
        that they cost nothing in evaluation and prediction. Their parameters are created by `init`
        with any value of `train`.

        Args:
          x: images, float [N, H, W, C], of any H and W.
          train: uses dropout and the batch statistics.

        Returns:
          float32 logits [N, H, W, K], whatever the arithmetic of the other layers. With deep
          supervision and `train`, a tuple of the logits of the levels i = 0, 1, ..., each
          [N, ceil(H / 2^i), ceil(W / 2^i), K]; a logit of level i is that of 2^i x 2^i pixels.
        """
        raise NotImplementedError


NETWORKS: Registry[type[Network]] = Registry("unet_jax.models")
