"""Segmentation networks: float images [N, H, W, C] -> float32 logits [N, H, W, K]."""

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
    """The network that the fields of `config.model` describe.

    `dtype` is that of the layers' arithmetic: `float32`, `bfloat16`, or `auto`, which is
    bfloat16 on accelerators and float32 on CPU. Parameters, statistics and the layer that makes the
    logits are float32.
    `platform` is `cpu`, `gpu` or `tpu`, by default JAX's own: what the network is computed on, by
    which its form may differ, but neither its parameters nor, but for rounding, its results.
    Raises a `UserError` for a choice that the network does not have.
    """
    for field, value, only in (("padding", padding, "same"), ("upsample", upsample, "transpose")):
        if name != "unet" and value != only:
            raise UserError(
                f"model.{field}={value!r}: {name} has no such choice; "
                f"take {only!r}, or model.name='unet'"
            )
    if padding == "valid" and upsample in ("bilinear", "bilinear_corners"):
        # A resize invents what lies beyond the edge, which is what unpadded networks must not.
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
    """What `auto` is on a platform, by default JAX's own; any other `dtype` is itself."""
    if dtype != "auto":
        return dtype
    return "float32" if (platform or jax.default_backend()) == "cpu" else "bfloat16"


def init(model: nn.Module, channels: int, seed: int) -> dict:
    """Initial variables (`params`, `batch_stats`) as numpy arrays, from the seed alone.

    Raises a `UserError`, and computes nothing, where this machine has no room for them.
    """
    image = jax.ShapeDtypeStruct((1, 2**model.depth, 2**model.depth, channels), jnp.float32)
    # XLA needs three times as long to compile the default generator for every parameter.
    key = jax.random.key(seed, impl="rbg")
    traced = jax.jit(model.init).trace(key, image)
    check_parameters(parameter_count(traced.out_info))
    return jax.tree.map(np.asarray, traced.lower().compile()(key, jnp.zeros(image.shape)))


def input_channels(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Of the images that a model takes, from the shapes of its variables by their paths."""
    return shapes["['params']['down_0']['Conv_0']['kernel']"][2]


def scale(image: jax.Array, input_range: str) -> jax.Array:
    """Unsigned integer image -> float32, the range of its type to one of `INPUT_RANGES`."""
    low, high = INPUT_RANGES[input_range]
    return image.astype(jnp.float32) * ((high - low) / jnp.iinfo(image.dtype).max) + low


def probabilities(logits: jax.Array) -> jax.Array:
    """Logits [..., K] -> probabilities [..., K]: sigmoid where K = 1, softmax otherwise."""
    return jax.nn.sigmoid(logits) if logits.shape[-1] == 1 else jax.nn.softmax(logits)


def parameter_count(variables: Any) -> int:
    """The number of trainable numbers in the variables of one model, or of several."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return sum(x.size for path, x in leaves if jax.tree_util.DictKey("params") in path)


def forward_gflop(model: nn.Module, variables: dict, size: int, channels: int) -> float | None:
    """10^9 floating-point operations of the forward pass of one size x size image.

    As XLA counts them; None where a backend does not count. On CPU convolutions may take other
    numbers of operations, so those of a GPU are counted.
    """
    image = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    traced = jax.jit(model.apply).trace(variables, image)
    cost = traced.lower(lowering_platforms=("cuda",)).cost_analysis()
    return cost["flops"] / 1e9 if cost else None
