"""Exports a run's network as an ONNX model of smaller numbers: float16, or integers of 8 bits.

What surrounds the network, its group normalisation and the layers that compute logits stay float32,
as `model.dtype` leaves them. Inputs and outputs are those of `--format=onnx`.
"""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict

from unet_jax.data.dataset import Split
from unet_jax.data.fit import Fit
from unet_jax.interchange.onnx import IMAGES, NETWORK, build_model, require, to_input_values
from unet_jax.interchange.output import check_free, write_files
from unet_jax.interchange.registry import EXPORTERS
from unet_jax.models.network import NETWORKS
from unet_jax.runs.experiment import open_data

if TYPE_CHECKING:
    import onnx

CALIBRATION_IMAGES = 32  # training images from which the ranges of int8 are measured
CALIBRATION_SIZE = 512  # largest side of the part of each that is used, pixels
# Operators that ONNX Runtime computes on 8-bit integers on CPU.
QUANTIZED = ("Add", "Concat", "Conv", "MaxPool", "Mul", "Relu", "Resize")


@EXPORTERS.register("onnx_float16")
def export_float16(
    folder: pathlib.Path, config: ConfigDict, *, checkpoint: str, output: pathlib.Path
) -> str:
    """Writes the network with float16 weights and arithmetic; see `Exporter`."""
    check_free(output, (NETWORK,))
    for package in ("onnx", "onnxruntime"):
        require(package)
    from onnxruntime.transformers import float16

    model = build_model(folder, config, checkpoint)
    model = float16.convert_float_to_float16(
        model, keep_io_types=True, node_block_list=_float32_nodes(model, config)
    )
    write_files(output, {NETWORK: model.SerializeToString()})
    return f"the network is in {output / NETWORK}, with float16 weights and arithmetic"


@EXPORTERS.register("onnx_int8")
def export_int8(
    folder: pathlib.Path, config: ConfigDict, *, checkpoint: str, output: pathlib.Path
) -> str:
    """Writes the network with 8-bit weights and activations; see `Exporter`.

    The ranges of the activations are those on training images of the run, which must be at hand.
    """
    check_free(output, (NETWORK,))
    for package in ("onnx", "onnxruntime"):
        require(package)
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = build_model(folder, config, checkpoint)
    config, dataset = open_data(config, folder, evaluated=True)  # the threshold may be chosen
    images = _calibration_images(dataset.splits["train"], config)

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray]:
            image = next(images, None)
            return {} if image is None else {IMAGES: image}

    with tempfile.TemporaryDirectory() as temporary:
        prepared, written = (pathlib.Path(temporary) / name for name in ("in.onnx", "out.onnx"))
        # Infers the types of all tensors; there is nothing to optimise.
        quant_pre_process(model, prepared, skip_optimization=True, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            written,
            Reader(),
            op_types_to_quantize=QUANTIZED,
            nodes_to_exclude=_float32_nodes(model, config),
            activation_type=quantization.QuantType.QUInt8,
            per_channel=True,
            # Weights of 7 bits: on CPUs without VNNI, sums of products of 8 bits would overflow.
            reduce_range=True,
        )
        write_files(output, {NETWORK: written.read_bytes()})
    return f"the network is in {output / NETWORK}, with 8-bit weights and activations"


def _float32_nodes(model: onnx.ModelProto, config: ConfigDict) -> list[str]:
    """Returns the names of the nodes that stay float32."""
    network = NETWORKS[config.model.name]

    def stays(name: str) -> bool:
        first, *modules = name.split("/")
        layers = [m for m in modules if not m.startswith(network.__name__)]
        return (
            first != network.__name__
            or any(module.startswith("GroupNorm") for module in layers)
            or layers[0].startswith(network.head_modules)
        )

    return [node.name for node in model.graph.node if stays(node.name)]


def _calibration_images(split: Split, config: ConfigDict) -> Iterator[np.ndarray]:
    """Yields training images as inputs of the model, float32 [1, C, H, W]."""
    count = min(len(split), CALIBRATION_IMAGES)
    for index in np.linspace(0, len(split) - 1, count).round().astype(int):
        image = to_input_values(split.read(int(index))[0], config)
        if not Fit.of(config.data).resizes:
            image = image[_middle(image.shape[0]), _middle(image.shape[1])]
        yield image.astype(np.float32).transpose(2, 0, 1)[None]


def _middle(size: int) -> slice:
    start = max(0, size - CALIBRATION_SIZE) // 2
    return slice(start, start + CALIBRATION_SIZE)
