"""Compares `smp_unet` with segmentation_models_pytorch itself: the logits of the same weights.

python -m benchmarks.smp write /tmp/smp    # where segmentation_models_pytorch is installed
python -m benchmarks.smp compare /tmp/smp  # where this project is installed

`write` needs PyTorch, numpy and segmentation_models_pytorch alone. It saves networks with random
weights and statistics, images and their logits. `compare` reads the networks as
`python -m unet_jax.interchange.pytorch` does and prints the largest difference of the logits.
"""

import pathlib
from typing import Any

import numpy as np

from unet_jax.core.command_help import command_parser

ENCODERS = ("resnet18", "resnet34", "resnet50", "tu-tf_efficientnet_lite0")
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "depth 4": {"encoder_depth": 4, "decoder_channels": (128, 64, 32, 16)},
}
CLASSES, SIZES = 3, ((64, 96), (45, 70))


def write(folder: pathlib.Path) -> None:
    """Writes each network's weights, and images with their logits."""
    import segmentation_models_pytorch as smp  # pyrefly: ignore[missing-import]
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    for encoder in ENCODERS:
        for setting in SETTINGS:
            path = write_network(encoder, setting, folder)
            print(f"{smp.__version__}, PyTorch {torch.__version__}: {path.stem} written")


def write_network(encoder: str, setting: str, folder: pathlib.Path) -> pathlib.Path:
    """Writes a network of smp with random weights, images and their logits.

    Images of other sizes than smp accepts are padded with zeros at the bottom and the right, as
    `smp_unet` does, and the logits are cut to their size.

    Args:
      encoder: its name in smp.
      setting: a key of `SETTINGS`.
      folder: where the files are written.

    Returns:
      The file of the weights; the images and logits are beside it.
    """
    import segmentation_models_pytorch as smp  # pyrefly: ignore[missing-import]
    import torch

    torch.manual_seed(0)
    options = SETTINGS[setting]
    network = smp.Unet(encoder, encoder_weights=None, classes=CLASSES, **options).eval()
    for name, x in network.state_dict().items():
        if name.endswith("running_var"):
            x.uniform_(0.5, 2)
        elif name.endswith(("running_mean", "bias")):
            x.normal_(0, 0.1)
    arrays, multiple = {}, 2 ** options.get("encoder_depth", 5)
    for i, (height, width) in enumerate(SIZES):
        image = torch.rand(2, 3, height, width) * 2 - 1
        padded = torch.nn.functional.pad(image, (0, -width % multiple, 0, -height % multiple))
        with torch.no_grad():
            logits = network(padded)[:, :, :height, :width]
        arrays |= {f"image_{i}": image.numpy(), f"logits_{i}": logits.numpy()}
    path = folder / f"{encoder} {setting}.pth"
    torch.save(network.state_dict(), path)
    np.savez(path.with_suffix(".npz"), **arrays)
    return path


def compare(folder: pathlib.Path) -> None:
    """Prints the largest difference of the logits for each network in `folder`."""
    for path in sorted(folder.glob("*.pth")):
        parameters, largest, difference = compare_network(path)
        print(
            f"{path.stem}: {parameters:,} parameters, logits of {largest:.2f} differ by at most "
            f"{difference:.1e}"
        )


def compare_network(path: pathlib.Path) -> tuple[int, float, float]:
    """Imports a network that `write_network` has written, and computes its logits.

    Returns:
      The number of its parameters, the largest absolute logit and the largest difference.
    """
    import jax

    from configs import base
    from unet_jax import models
    from unet_jax.core.fields import add_defaults
    from unet_jax.interchange.forms import fields_of, recognise, without_unused
    from unet_jax.interchange.pytorch import to_variables
    from unet_jax.models.network import NETWORKS
    from unet_jax.runs.tensor_files import read_state_dict

    state, _ = read_state_dict(path)
    form = recognise(path, state)
    state = without_unused(state, form)
    config = add_defaults(base.get_config(), NETWORKS["smp_unet"].options)
    config.update_from_flattened_dict(fields_of(state, form))
    variables = to_variables(path, state, form, config, channels=3)
    apply = jax.jit(models.build(**config.model).apply)
    arrays, largest, difference = np.load(path.with_suffix(".npz")), 0.0, 0.0
    for i in range(len(SIZES)):
        image, expected = (arrays[f"{x}_{i}"].transpose(0, 2, 3, 1) for x in ("image", "logits"))
        largest = max(largest, float(np.abs(expected).max()))
        difference = max(difference, float(np.abs(apply(variables, image) - expected).max()))
    return models.parameter_count(variables), largest, difference


def main() -> None:
    parser = command_parser("python -m benchmarks.smp", __doc__)
    parser.add_argument("command", choices=("write", "compare"), help="what to do")
    parser.add_argument("folder", type=pathlib.Path, help="folder of the networks and logits")
    options = parser.parse_args()
    (write if options.command == "write" else compare)(options.folder)


if __name__ == "__main__":
    main()
