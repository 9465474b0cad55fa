"""Segmentation networks, from float images [N, H, W, C] to float32 logits [N, H, W, K]."""

import hashlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from unet_jax.core.errors import UserError
from unet_jax.core.fields import show
from unet_jax.core.intensities import INPUT_RANGES, Intensities
from unet_jax.models.network import NETWORKS, Network
from unet_jax.models.size import check_parameters


def build(*, name: str, dtype: str, platform: str | None = None, **fields: Any) -> Network:
    """Builds the network that the fields of `config.model` describe.

    Args:
      name: a key of `NETWORKS`.
      dtype: arithmetic of the layers: `float32`, `bfloat16`, or `auto`, which is bfloat16 on
        accelerators and float32 on CPU. Parameters, statistics and the layer that computes the
        logits are float32.
      platform: `cpu`, `gpu` or `tpu`, where the network is computed; by default JAX's backend. The
        implementation may depend on it, the parameters do not, and results differ by rounding only.
      **fields: the other fields, see `configs/base.py`, and the network's own options.

    Returns:
      The network.

    Raises:
      UserError: the network does not support one of the fields' values.
    """
    network = NETWORKS[name]
    _check_complete(network)
    for field, allowed in network.choices.items():
        value = fields.get(field, Network.choices[field][0])
        if value not in allowed:
            raise _unsupported(name, field, value)
    platform = platform or jax.default_backend()
    dtype = resolve_dtype(dtype, platform)
    return network.from_config(platform=platform, dtype=jnp.dtype(dtype), **fields)


def _check_complete(network: type[Network]) -> None:
    """Raises a TypeError at once if a network lacks what is needed only after its training."""
    needed = ("encoder_modules", "head_modules", "multiple", "margin", "first_kernel")
    missing = [member for member in needed if getattr(network, member) is getattr(Network, member)]
    missing += [] if "dtype" in network.__dataclass_fields__ else ["dtype"]
    if missing:
        raise TypeError(f"{network.__name__} must define {', '.join(missing)}; see Network")


def _unsupported(name: str, field: str, value: Any) -> UserError:
    others = [other for other, network in NETWORKS.items() if value in network.choices[field]]
    remedy = f"choose {' or '.join(map(repr, NETWORKS[name].choices[field]))}"
    if others:
        remedy += f", or model.name={' or '.join(map(repr, others))}"
    return UserError(f"model.{field}={show(value)}: {name} does not support it; {remedy}")


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


def init(model: Network, channels: int, seed: int) -> dict:
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
    image = jax.ShapeDtypeStruct((1, model.multiple, model.multiple, channels), jnp.float32)
    # With the default generator, compilation takes three times as long.
    key = jax.random.key(seed, impl="rbg")
    traced = jax.jit(model.init).trace(key, image)
    check_parameters(parameter_count(traced.out_info))
    return jax.tree.map(np.asarray, traced.lower().compile()(key, jnp.zeros(image.shape)))


def scale(image: jax.Array, intensities: Intensities) -> jax.Array:
    """Maps stored values to the network's input, as `Intensities.network_input` does.

    Args:
      image: the stored values, [..., C].
      intensities: the map.

    Returns:
      The network's input, float32 [..., C].
    """
    return scale_values(image.astype(jnp.float32), intensities, np.dtype(image.dtype))


def scale_values(values: jax.Array, intensities: Intensities, dtype: np.dtype) -> jax.Array:
    """Maps stored values of type `dtype`, given as float32 [..., C]; see `scale`."""
    if intensities.std:
        return (values - jnp.float32(intensities.mean)) / jnp.float32(intensities.std)
    low, high = INPUT_RANGES[intensities.input_range]
    if not intensities.limits and dtype.kind == "u":
        return values * ((high - low) / np.iinfo(dtype).max) + low
    bottom, top = intensities.ends(dtype)
    return jnp.clip((values - bottom) / (top - bottom), 0, 1) * (high - low) + low


def probabilities(logits: jax.Array) -> jax.Array:
    """Converts logits [..., K] to probabilities [..., K]: sigmoid if K = 1, softmax otherwise."""
    return jax.nn.sigmoid(logits) if logits.shape[-1] == 1 else jax.nn.softmax(logits)


def parameter_count(variables: Any) -> int:
    """Counts the trainable parameters in the variables of one model or of a tree of models."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return sum(x.size for path, x in leaves if jax.tree_util.DictKey("params") in path)


def weights_digest(variables: Any) -> str:
    """Returns a digest of the variables of one model or of a tree of models.

    Returns:
      The first 16 hexadecimal digits of the SHA-256 of the paths, dtypes, shapes and bytes.
    """
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        array = np.ascontiguousarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()[:16]


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
