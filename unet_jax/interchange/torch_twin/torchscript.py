"""A run's network as TorchScript, for packages of the BioImage Model Zoo."""

import io
import pathlib
import warnings
import zipfile
from typing import Any

import torch
from ml_collections import ConfigDict
from torch import Tensor, nn

from unet_jax.interchange.pytorch_export import load_twin
from unet_jax.interchange.torch_twin import loader


class WholeImages(nn.Module):
    """A network with its scaling and its decision, as in the ONNX model.

    It maps the stored values, float32 [N, C, H, W], to masks, uint8 [N, H, W], and probabilities,
    float32 [N, K, H, W].

    Args:
      network: the twin.
      fields: the fields of its JSON file.
      dtype: type of the stored values.
    """

    def __init__(self, network: nn.Module, fields: dict[str, Any], dtype: str) -> None:
        super().__init__()
        self.network, self.fields, self.dtype = network, fields, dtype

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = images.movedim(1, -1)
        mask, probabilities = loader.apply(self.network, self.fields, pixels, self.dtype)
        return mask, probabilities.movedim(-1, 1)


def build_model(folder: pathlib.Path, config: ConfigDict, checkpoint: str) -> bytes:
    """Returns the TorchScript of a checkpoint's network, for any number and size of images.

    Args:
      folder: folder of the run.
      config: the run's config.
      checkpoint: `best`, `last` or a step.

    Raises:
      UserError: there is no such checkpoint, or the network has no PyTorch twin.
    """
    network, fields = load_twin(folder, config, checkpoint)
    model = WholeImages(network, fields, config.data.dtype or "uint8").eval().requires_grad_(False)
    images = torch.zeros(1, fields["arguments"]["channels"], 37, 50)
    with torch.no_grad(), warnings.catch_warnings():
        # TorchScript is deprecated in PyTorch, but it is what programs for microscopy load. The
        # other warnings are about checks of the shape; sizes stay symbolic, which a test compares.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, images, check_trace=False)
        stream = io.BytesIO()
        torch.jit.save(traced, stream)
    return _without_paths(stream)


def _without_paths(archive: io.BytesIO) -> bytes:
    """Returns TorchScript without the lines of source that it stems from, of paths on this machine.

    They are for error messages only, and a package is public.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(archive) as before, zipfile.ZipFile(stream, "w") as after:
        for name in before.namelist():
            if not name.endswith(".debug_pkl"):
                after.writestr(zipfile.ZipInfo(name), before.read(name))
    return stream.getvalue()
