"""Exports a run's network as a StableHLO artifact that can be loaded without this project."""

import importlib.metadata
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import export
from ml_collections import ConfigDict

from unet_jax import is_binary, models
from unet_jax.core.intensities import INPUT_RANGES, Intensities
from unet_jax.data.fit import Fit
from unet_jax.inference import predictor
from unet_jax.interchange import stablehlo_loader
from unet_jax.interchange.contract import common_fields
from unet_jax.interchange.output import check_free, write_files
from unet_jax.interchange.registry import EXPORTERS

PLATFORMS = ("cpu", "cuda", "tpu")
NETWORK, LOADER, CONTRACT = "network.stablehlo", "load.py", "network.json"


def whole_images(model: nn.Module, config: ConfigDict, variables: dict) -> Callable:
    """Returns the function to export, which predicts images as `predict` does without tiling.

    It scales and pads or resizes the images, applies the network and the sigmoid or softmax, and
    decides the class of each pixel.

    Args:
      model: the network.
      config: the run's config.
      variables: the network's variables.

    Returns:
      A function (images, is_16bit) -> (mask, probabilities) for any N, H and W. The images are
      uint16 [N, H, W, C]; `is_16bit`, bool [], is false if their pixels have 8 bits. If the run
      records the type of stored values (`data.dtype`), the function has no second argument, and
      the images are float32. The mask has class ids, uint8 [N, H, W]; the probabilities are float32
      [N, H, W, K].
    """
    intensities, dtype = Intensities.of(config.data), config.data.dtype
    low, high = INPUT_RANGES[intensities.input_range]
    fit, rounded = Fit.of(config.data), not dtype or np.dtype(dtype).kind != "f"

    def resized(images: jax.Array, height: Any, width: Any) -> jax.Array:
        shape = (images.shape[0], height, width, images.shape[3])
        return jax.image.resize(images, shape, "bilinear", antialias=True)

    def apply(images: jax.Array, is_16bit: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        height, width = images.shape[1:3]
        values = images.astype(jnp.float32)
        if fit.resizes:
            values = resized(values, fit.size, fit.size)
            values = jnp.rint(values) if rounded else values
        if is_16bit is None:
            scaled = models.scale_values(values, intensities, np.dtype(dtype))
        else:
            highest = jnp.where(is_16bit, 65535, 255)
            factor = jnp.where(is_16bit, (high - low) / 65535, (high - low) / 255)
            scaled = jnp.clip(values, 0, highest) * factor + low
        network: Any = model.bind(variables)
        probabilities = models.probabilities(network(scaled, train=False))
        if fit.resizes:
            probabilities = resized(probabilities, height, width)
        if is_binary(probabilities.shape[-1]):  # the same rule as `predictor.decide`
            mask = probabilities[..., -1] > config.eval.threshold
        else:
            mask = probabilities.argmax(-1)
        return mask.astype(jnp.uint8), probabilities

    return apply


@EXPORTERS.register("stablehlo")
def export_run(
    folder: pathlib.Path, config: ConfigDict, *, checkpoint: str, output: pathlib.Path
) -> str:
    """Exports the network of a checkpoint.

    Three files are written: the network with its weights, for CPU, CUDA and TPU and any number and
    size of images; a Python program that loads it; and its contract as JSON. The contract is
    written last, so that its presence marks a complete export.

    Args:
      folder: folder of the run.
      config: the run's config.
      checkpoint: `best`, `last` or a step.
      output: the output folder, which is created if needed.

    Returns:
      One line for the user: how to apply the network.

    Raises:
      UserError: `output` cannot be written, or has anything but an incomplete export.
    """
    check_free(output, (NETWORK, LOADER, CONTRACT))
    fields = config.model.to_dict()
    if fields["dtype"] == "auto":  # "auto" would depend on the exporting machine
        fields["dtype"] = "float32"
    model = models.build(**fields, platform="cpu")  # the CPU form runs on all platforms
    step, channels, variables = predictor.restore(folder, config, checkpoint)
    apply = whole_images(model, config, variables)
    count, height, width = export.symbolic_shape("n, h, w")
    shape, stored = (count, height, width, channels), config.data.dtype
    if stored:
        arguments = (jax.ShapeDtypeStruct(shape, np.float32),)
        images = {
            "images": f"float32 [n, h, w, {channels}], the {stored} values as they are stored"
        }
    else:
        arguments = jax.ShapeDtypeStruct(shape, np.uint16), jax.ShapeDtypeStruct((), np.bool_)
        images = {
            "images": f"uint16 [n, h, w, {channels}], the pixels as they are stored",
            "deep": "bool [], whether they have 16 bits rather than 8",
        }
    exported = export.export(jax.jit(apply), platforms=PLATFORMS)(*arguments)
    contract = common_fields(config, step) | {
        "input": images,
        "dtype": [stored] if stored else ["uint8", "uint16"],
        "output": {
            "mask": "class ids, uint8 [n, h, w]",
            "probabilities": f"float32 [n, h, w, {config.model.classes}]",
        },
        "arithmetic": fields["dtype"],
        "platforms": list(exported.platforms),
        "calling_convention": exported.calling_convention_version,
        "jax": importlib.metadata.version("jax"),
    }
    contents = {
        NETWORK: bytes(exported.serialize()),
        LOADER: pathlib.Path(stablehlo_loader.__file__).read_bytes(),
        CONTRACT: (json.dumps(contract, indent=1) + "\n").encode(),
    }
    write_files(output, contents)
    return f"the network is in {output}; python {output}/load.py images.npy masks.npy applies it"
