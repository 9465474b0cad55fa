"""Exports a run's network as an ONNX model, for ONNX Runtime and the programs that use it.

The network is traced with symbolic sizes, and `onnx_graph` translates the trace. A network or
layer that is added to the package can therefore be exported without a line here.
"""

from __future__ import annotations

import importlib
import json
import pathlib
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax import export
from ml_collections import ConfigDict

from unet_jax import is_binary, models
from unet_jax.core.config import digest
from unet_jax.core.errors import UserError
from unet_jax.inference import predictor
from unet_jax.interchange.output import check_free, write_files
from unet_jax.interchange.registry import EXPORTERS
from unet_jax.interchange.stablehlo import whole_images
from unet_jax.runs.folder import class_names, read_config

if TYPE_CHECKING:
    import onnx

NETWORK = "network.onnx"
REQUIREMENTS = "requirements-export.txt"
IMAGES = "images"  # the model's input
MASK, PROBABILITIES = "mask", "probabilities"  # its outputs
NCHW = (0, 3, 1, 2)
LARGEST = 2**31 - 2**20  # bytes of the weights in a file of at most 2 GiB


@EXPORTERS.register("onnx")
def export_run(
    folder: pathlib.Path, config: ConfigDict, *, checkpoint: str, output: pathlib.Path
) -> str:
    """Exports the network of a checkpoint; see `Exporter`."""
    check_free(output, (NETWORK,))
    model = build_model(folder, config, checkpoint)
    write_files(output, {NETWORK: model.SerializeToString()})
    return f"the network is in {output / NETWORK}; docs/export.md shows how to apply it"


def build_model(folder: pathlib.Path, config: ConfigDict, checkpoint: str) -> onnx.ModelProto:
    """Returns the ONNX model of a checkpoint.

    Its input is `images`, float32 [n, c, h, w], for any n, h and w: the values as they are stored
    in files of the type that the model's metadata names as `values`. Its outputs are `mask`, class
    ids, uint8 [n, h, w], and `probabilities`, float32 [n, k, h, w]. Scaling, padding and the
    decision are part of it, and its arithmetic is float32.

    Args:
      folder: folder of the run.
      config: the run's config.
      checkpoint: `best`, `last` or a step.

    Raises:
      UserError: the package onnx is missing, or the network cannot be translated.
    """
    require("onnx")
    # They import onnx, which only this format needs.
    from unet_jax.interchange.onnx_graph.graph import Graph, Tensor
    from unet_jax.interchange.onnx_graph.translate import translate

    fields = config.model.to_dict() | {"dtype": "float32"}  # ONNX Runtime has few bfloat16 kernels
    network = models.build(**fields, platform="cpu")  # the form without TPU's pairs of pixels
    step, channels, variables = predictor.restore(folder, config, checkpoint)
    _check_size(4 * models.parameter_count(variables))
    count, height, width = export.symbolic_shape("n, h, w")
    graph = Graph()
    graph.add_input(IMAGES, np.float32, ["n", channels, "h", "w"])
    inputs = [Tensor((count, height, width, channels), np.dtype(np.float32), IMAGES, NCHW)]
    if not config.data.dtype:  # 8 or 16 bits; one input of the model can only stand for one
        inputs.append(Tensor.constant(np.bool_(False)))
    traced = jax.make_jaxpr(whole_images(network, config, variables))(
        *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs)
    )
    mask, probabilities = translate(graph, traced, inputs)
    model = graph.model({MASK: (mask, (0, 1, 2)), PROBABILITIES: (probabilities, NCHW)})
    for key, value in _facts(folder, config, step, channels).items():
        model.metadata_props.add(key=key, value=value)
    return model


def to_input_values(image: np.ndarray, config: ConfigDict) -> np.ndarray:
    """Returns an image as the model takes it, in the type that its metadata names as `values`.

    A run that maps the range of each type to that of the network reads 8 and 16 bits, but one
    input of the model can only stand for one of them.

    Args:
      image: stored values [H, W, C] of the run's data.
      config: the run's config.
    """
    if config.data.dtype or image.dtype == np.uint8:
        return image
    return np.rint(image / 257).astype(np.uint8)  # 65535 / 255


def _check_size(weights: int) -> None:
    """Raises UserError if weights of so many bytes do not fit into an ONNX file."""
    if weights > LARGEST:
        raise UserError(
            f"--format=onnx: the weights take {weights / 2**30:.1f} GiB, but an ONNX file holds 2; "
            f"--format=stablehlo exports the network"
        )


def _facts(folder: pathlib.Path, config: ConfigDict, step: int, channels: int) -> dict[str, str]:
    """Returns what the model says of itself; texts by name."""
    names = class_names(folder, config.model.classes)
    binary = is_binary(config.model.classes)
    return {
        "name": config.name,
        "step": str(step),
        "network": config.model.name,
        "classes": json.dumps([*names]),
        "channels": str(channels),
        "values": config.data.dtype or "uint8",
        "decision": f"probability > {config.eval.threshold}" if binary else "argmax",
        "config_digest": digest(read_config(folder)),  # with the threshold as it was stated
    }


def require(package: str, name: str = "onnx") -> None:
    """Imports a package that the format `name` needs, or raises UserError if it is missing."""
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise UserError(
            f"--format={name} needs the package {package}; pip install -r {REQUIREMENTS}"
        ) from error
