"""Applies exported networks as users of the formats do, each in its own runtime."""

import io
import pathlib
import runpy
import warnings
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch
from ml_collections import ConfigDict

from unet_jax.interchange import stablehlo_loader
from unet_jax.interchange.bioimageio import PACKAGE, TORCHSCRIPT
from unet_jax.interchange.onnx import IMAGES, MASK, PROBABILITIES
from unet_jax.interchange.onnx import NETWORK as ONNX
from unet_jax.interchange.pytorch_export import WEIGHTS
from unet_jax.interchange.registry import EXPORTERS
from unet_jax.interchange.stablehlo import NETWORK as STABLEHLO

# Stored values [N, H, W, C] -> class ids, uint8 [N, H, W], and probabilities, float32 [N, H, W, K].
Network = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
ABOUT: dict[str, Any] = {
    "author": ["A. Person"],
    "license": "CC0-1.0",
    "cite": ["Of a benchmark, https://example.org"],
}


def load_onnx(model: bytes, threads: int) -> Network:
    """Loads a model in ONNX Runtime, on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Waiting threads would count as time of the CPU.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def predict(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inputs = {IMAGES: images.astype(np.float32).transpose(0, 3, 1, 2)}
        mask, probabilities = map(np.asarray, session.run([MASK, PROBABILITIES], inputs))
        return mask, probabilities.transpose(0, 2, 3, 1)

    return predict


def load_torchscript(model: bytes) -> Network:
    """Loads TorchScript as programs for microscopy do."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        script = torch.jit.load(io.BytesIO(model))

    def predict(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            x = torch.from_numpy(images.astype(np.float32)).movedim(-1, 1)
            mask, probabilities = script(x.contiguous())
        return mask.numpy(), probabilities.movedim(1, -1).numpy()

    return predict


def load_pytorch(folder: pathlib.Path, channels_last: bool = False) -> Network:
    """Loads a network of `--format=pytorch` with its loader, in one of PyTorch's two layouts."""
    code = runpy.run_path(str(folder / "load.py"))
    network, fields = code["load"](folder)
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    return lambda images: code["predict"](network, fields, images)


class Exported(NamedTuple):
    """A network that was exported and loaded again; `size` is that of its file, bytes."""

    apply: Network
    size: int


def export_all(
    folder: pathlib.Path,
    config: ConfigDict,
    output: pathlib.Path,
    threads: int,
    checkpoint: str = "best",
) -> dict[str, Exported]:
    """Exports a run in every format, and loads what was written.

    Args:
      folder: folder of the run, whose data set must be at hand.
      config: the run's config.
      output: a folder for the exports, one folder a format.
      threads: threads of ONNX Runtime and of PyTorch.

    Returns:
      The networks by name, which begins with that of the format.
    """
    torch.set_num_threads(threads)
    for name, export in EXPORTERS.items():
        about = ABOUT if name == "bioimageio" else {}
        export(folder, config, checkpoint="best", output=output / name, **about)
    loaded = {}
    for name in ("onnx", "onnx_float16", "onnx_int8"):
        model = (output / name / ONNX).read_bytes()
        loaded[name] = Exported(load_onnx(model, threads), len(model))
    with zipfile.ZipFile(output / "bioimageio" / PACKAGE) as package:
        model, script = package.read(ONNX), package.read(TORCHSCRIPT)
    loaded["bioimageio onnx"] = Exported(load_onnx(model, threads), len(model))
    loaded["bioimageio torchscript"] = Exported(load_torchscript(script), len(script))
    size = (output / "pytorch" / WEIGHTS).stat().st_size
    for name, channels_last in (("pytorch", False), ("pytorch channels_last", True)):
        loaded[name] = Exported(load_pytorch(output / "pytorch", channels_last), size)
    path = output / "stablehlo" / STABLEHLO
    loaded["stablehlo"] = Exported(stablehlo_loader.load(path), path.stat().st_size)
    return loaded
