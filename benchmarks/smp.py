"""Compares `smp_unet` with segmentation_models_pytorch itself: the logits of the same weights.

python -m benchmarks.smp write /tmp/smp    # where segmentation_models_pytorch is installed
python -m benchmarks.smp compare /tmp/smp  # where this project is installed

`write` needs PyTorch, numpy and segmentation_models_pytorch alone. It saves networks with random
weights and statistics, an image and its logits. `compare` reads the networks as
`python -m unet_jax.interchange.pytorch` does and prints the largest difference of the logits.
"""

import pathlib

import numpy as np

from unet_jax.core.command_help import command_parser

ENCODERS = ("resnet18", "resnet34", "resnet50", "tu-tf_efficientnet_lite0")
SETTINGS = {
    "default": {},
    "depth 4": {"encoder_depth": 4, "decoder_channels": (128, 64, 32, 16)},
}
CLASSES, SIZE = 3, (64, 96)


def write(folder: pathlib.Path) -> None:
    """Writes each network's weights, and an image with its logits."""
    import segmentation_models_pytorch as smp  # pyrefly: ignore[missing-import]
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    for encoder in ENCODERS:
        for setting, options in SETTINGS.items():
            torch.manual_seed(0)
            network = smp.Unet(encoder, encoder_weights=None, classes=CLASSES, **options).eval()
            for name, x in network.state_dict().items():
                if name.endswith("running_var"):
                    x.uniform_(0.5, 2)
                elif name.endswith(("running_mean", "bias")):
                    x.normal_(0, 0.1)
            image = torch.rand(2, 3, *SIZE) * 2 - 1
            with torch.no_grad():
                logits = network(image)
            path = folder / f"{encoder} {setting}"
            torch.save(network.state_dict(), path.with_suffix(".pth"))
            np.savez(path.with_suffix(".npz"), image=image.numpy(), logits=logits.numpy())
            print(f"{smp.__version__}, PyTorch {torch.__version__}: {path.name} written")


def compare(folder: pathlib.Path) -> None:
    """Prints the largest difference of the logits for each network in `folder`."""
    import jax

    from configs import base
    from unet_jax import models
    from unet_jax.core.fields import add_defaults
    from unet_jax.interchange.forms import fields_of, recognise, without_unused
    from unet_jax.interchange.pytorch import to_variables
    from unet_jax.models.network import NETWORKS
    from unet_jax.runs.tensor_files import read_state_dict

    for path in sorted(folder.glob("*.pth")):
        state, _ = read_state_dict(path)
        form = recognise(path, state)
        state = without_unused(state, form)
        config = add_defaults(base.get_config(), NETWORKS["smp_unet"].options)
        config.update_from_flattened_dict(fields_of(state, form))
        variables = to_variables(path, state, form, config, channels=3)
        arrays = np.load(path.with_suffix(".npz"))
        image, expected = (arrays[name].transpose(0, 2, 3, 1) for name in ("image", "logits"))
        logits = jax.jit(models.build(**config.model).apply)(variables, image)
        print(
            f"{path.stem}: {models.parameter_count(variables):,} parameters, logits of "
            f"{np.abs(expected).max():.2f} differ by at most {np.abs(logits - expected).max():.1e}"
        )


def main() -> None:
    parser = command_parser("python -m benchmarks.smp", __doc__)
    parser.add_argument("command", choices=("write", "compare"), help="what to do")
    parser.add_argument("folder", type=pathlib.Path, help="folder of the networks and logits")
    options = parser.parse_args()
    (write if options.command == "write" else compare)(options.folder)


if __name__ == "__main__":
    main()
