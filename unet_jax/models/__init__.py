"""Segmentation networks, from float images [N, H, W, C] to float32 logits [N, H, W, K]."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from unet_jax.core.errors import UserError
from unet_jax.models.kernels.pixel_pairs import LANES
from unet_jax.models.segnet import SegNet
from unet_jax.models.size import check_parameters
from unet_jax.models.unet import UNet, UNet2

MODELS = {"unet": UNet, "unet2": UNet2, "segnet": SegNet}
INPUT_RANGES = {"symmetric": (-1.0, 1.0), "unit": (0.0, 1.0)}


def build(
    *,
    name: str,
    classes: int,
    width: int,
    depth: int,
    padding: str,
    norm: str,
    upsample: str,
    dropout: float,
    dtype: str,
    platform: str | None = None,
) -> nn.Module:
    """Builds the network that the fields of `config.model` describe.

    Args:
      name: a key of `MODELS`.
      classes: logits per pixel, K.
      width: channels of the first level.
      depth: number of 2x2 poolings.
      padding: `same` or `valid`.
      norm: `batch`, `group` or `none`.
      upsample: see `unet.UPSAMPLES`.
      dropout: dropout rate at the bottleneck in training.
      dtype: arithmetic of the layers: `float32`, `bfloat16`, or `auto`, which is bfloat16 on
        accelerators and float32 on CPU. Parameters, statistics and the layer that computes the
        logits are float32.
      platform: `cpu`, `gpu` or `tpu`, where the network is computed; by default JAX's backend. The
        implementation may depend on it, the parameters do not, and results differ by rounding only.

    Returns:
      The Flax module.

    Raises:
      UserError: the network does not support one of the choices.
    """
    for field, value, only in (("padding", padding, "same"), ("upsample", upsample, "transpose")):
        if name != "unet" and value != only:
            raise UserError(
                f"model.{field}={value!r}: {name} has no such choice; "
                f"take {only!r}, or model.name='unet'"
            )
    if padding == "valid" and upsample in ("bilinear", "bilinear_corners"):
        # Bilinear resizing extrapolates at the edges, but the logits of an unpadded network must
        # depend on the image's pixels only.
        raise UserError(
            f"model.padding='valid' with model.upsample={upsample!r}: the edges would depend on "
            f"where an image is cut; take 'transpose' or 'nearest'"
        )
    platform = platform or jax.default_backend()
    dtype = resolve_dtype(dtype, platform)
    choices: dict[str, Any] = {}
    if name == "unet":
        usual = (padding, norm, upsample) == ("same", "batch", "transpose")
        pairs = platform == "tpu" and usual and 2 * width <= LANES
        choices = {"padding": padding, "upsample": upsample, "pairs": pairs}
    return MODELS[name](
        classes=classes,
        width=width,
        depth=depth,
        norm=norm,
        dropout=dropout,
        dtype=jnp.dtype(dtype),
        **choices,
    )


def resolve_dtype(dtype: str, platform: str | None = None) -> str:
    """Resolves the dtype `auto` for a platform; any other dtype is returned unchanged.

    Args:
      dtype: `float32`, `bfloat16` or `auto`.
      platform: `cpu`, `gpu` or `tpu`; by default JAX's backend.

    Returns:
      `float32` (`auto` on CPU) or `bfloat16` (`auto` on any other platform).
    """
    if dtype != "auto":
        return dtype
    return "float32" if (platform or jax.default_backend()) == "cpu" else "bfloat16"


def init(model: nn.Module, channels: int, seed: int) -> dict:
    """Initialises a model's variables, which depend on the seed only.

    Args:
      model: the network.
      channels: channels of its images.
      seed: seeds the parameters.

    Returns:
      `params`, and `batch_stats` with batch normalisation, as numpy arrays.

    Raises:
      UserError: the parameters do not fit into this machine's memory; nothing is computed.
    """
    image = jax.ShapeDtypeStruct((1, 2**model.depth, 2**model.depth, channels), jnp.float32)
    # With the default generator, compilation takes three times as long.
    key = jax.random.key(seed, impl="rbg")
    traced = jax.jit(model.init).trace(key, image)
    check_parameters(parameter_count(traced.out_info))
    return jax.tree.map(np.asarray, traced.lower().compile()(key, jnp.zeros(image.shape)))


def input_channels(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Returns the number of channels of a model's input images.

    Args:
      shapes: shapes of the model's variables, by path (`jax.tree_util.keystr`).
    """
    return shapes["['params']['down_0']['Conv_0']['kernel']"][2]


def scale(image: jax.Array, input_range: str) -> jax.Array:
    """Scales an image of an unsigned integer type to the network's input range.

    Args:
      image: any shape; the range of its type is mapped to the input range.
      input_range: a key of `INPUT_RANGES`.

    Returns:
      The scaled image, float32.
    """
    low, high = INPUT_RANGES[input_range]
    return image.astype(jnp.float32) * ((high - low) / jnp.iinfo(image.dtype).max) + low


def probabilities(logits: jax.Array) -> jax.Array:
    """Converts logits [..., K] to probabilities [..., K]: sigmoid if K = 1, softmax otherwise."""
    return jax.nn.sigmoid(logits) if logits.shape[-1] == 1 else jax.nn.softmax(logits)


def parameter_count(variables: Any) -> int:
    """Counts the trainable parameters in the variables of one model or of a tree of models."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return sum(x.size for path, x in leaves if jax.tree_util.DictKey("params") in path)


def forward_gflop(model: nn.Module, variables: dict, size: int, channels: int) -> float | None:
    """Computes the cost of the forward pass of one image, as XLA counts it.

    The program for GPU is counted on any platform, because the convolutions for CPU may need a
    different number of operations.

    Args:
      model: the network.
      variables: its variables.
      size: side of the square image, pixels.
      channels: channels of the image.

    Returns:
      The cost in 10^9 floating-point operations; None if XLA does not report it.
    """
    image = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    traced = jax.jit(model.apply).trace(variables, image)
    cost = traced.lower(lowering_platforms=("cuda",)).cost_analysis()
    return cost["flops"] / 1e9 if cost else None
