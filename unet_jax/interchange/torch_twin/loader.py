"""Segments images with an exported network; needs only torch and numpy.

python load.py images.npy masks.npy   # stored values [N, H, W, C] -> class ids, uint8 [N, H, W]
"""

import json
import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unet_jax.interchange.torch_twin.twin import UNet as Network


def load(folder: pathlib.Path = pathlib.Path(__file__).parent) -> tuple[nn.Module, dict]:
    """Returns the network, and the fields of network.json.

    The network maps float32 [N, C, H, W], as `scale` returns it, to logits float32 [N, K, H, W].
    """
    fields = json.loads((folder / "network.json").read_text())
    state = torch.load(folder / "network.pth", weights_only=True)
    network = Network(**fields["arguments"])
    network.load_state_dict({fields["names"].get(name, name): x for name, x in state.items()})
    return network.eval(), fields


def scale(images: Tensor, dtype: str, fields: dict) -> Tensor:
    """Maps stored values of a type, float32 [N, H, W, C], to the network's input [N, C, H, W]."""
    rule = fields["normalization"]
    if "mean" in rule:
        mean, std = torch.tensor([rule["mean"], rule["std"]]).type_as(images)
        images = (images - mean) / std
    else:
        low, high = torch.tensor(rule["limits"][dtype]).type_as(images)
        bottom, top = rule["range"]
        images = ((images - low) / (high - low)).clamp(0, 1) * (top - bottom) + bottom
    return images.movedim(-1, 1)


def predict(network: nn.Module, fields: dict, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Segments images of stored values, [N, H, W, C], of the type of the training images.

    Returns:
      Class ids, uint8 [N, H, W], and probabilities, float32 [N, H, W, K]. K = 1 is the probability
      of the second of two classes.

    Raises:
      ValueError: the images have another type or shape.
    """
    types, channels = fields["dtype"], fields["arguments"]["channels"]
    if images.dtype.name not in types:
        raise ValueError(f"images of type {images.dtype}; expected {' or '.join(types)}, as stored")
    if images.ndim != 4 or images.shape[-1] != channels or not images.size:
        raise ValueError(f"images of shape {images.shape}; expected [N, H, W, {channels}], N >= 1")
    x = torch.from_numpy(images.astype(np.float32))
    with torch.no_grad():
        mask, probabilities = apply(network, fields, x, images.dtype.name)
    return mask.numpy(), probabilities.numpy()


def apply(network: nn.Module, fields: dict, images: Tensor, dtype: str) -> tuple[Tensor, Tensor]:
    """Segments stored values of a type, float32 [N, H, W, C]; returns what `predict` does."""
    height, width = images.shape[1:3]
    size = fields["resized_to"]
    if size:
        x = F.interpolate(images.movedim(-1, 1), (size, size), mode="bilinear", antialias=True)
        images = (x if dtype.startswith("float") else x.round()).movedim(1, -1)
    logits = network(scale(images, dtype, fields))
    probabilities = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)
    if size:
        probabilities = F.interpolate(
            probabilities, (height, width), mode="bilinear", antialias=True
        )
    if logits.shape[1] <= 2:
        mask = probabilities[:, -1] > fields["threshold"]
    else:
        mask = probabilities.argmax(1)
    return mask.to(torch.uint8), probabilities.movedim(1, -1)


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: python load.py images.npy masks.npy")
    try:
        images = np.load(sys.argv[1], allow_pickle=False)
    except Exception as error:  # numpy raises many types for broken files
        sys.exit(f"error: {sys.argv[1]}: cannot be read as .npy ({error})")
    try:
        masks, _ = predict(*load(), np.asarray(images))
        np.save(sys.argv[2], masks)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
