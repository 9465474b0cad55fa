"""Segments images with an exported network; needs only jax, numpy and flatbuffers.

python load.py images.npy masks.npy   # stored values [N, H, W, C] -> class ids, uint8 [N, H, W]
"""

import json
import pathlib
import sys

import jax
import numpy as np
from jax import export


def load(path):
    """Returns a function from images, [N, H, W, C], to masks and probabilities.

    The images have the type of the training images, `dtype` in network.json. Masks are uint8
    [N, H, W], probabilities float32 [N, H, W, K]. Other inputs raise ValueError.
    """
    exported = export.deserialize(bytearray(pathlib.Path(path).read_bytes()))
    types = json.loads(pathlib.Path(path).with_name("network.json").read_text())["dtype"]
    network = jax.jit(exported.call)
    channels = exported.in_avals[0].shape[-1]

    def predict(images):
        images = np.asarray(images)
        if images.dtype.name not in types:
            raise ValueError(
                f"images of type {images.dtype}; expected {' or '.join(types)}, the values as they "
                f"are stored: scale floats in [0, 1] to 0 ... 255, round, and convert to uint8"
            )
        if images.ndim != 4 or images.shape[-1] != channels:
            raise ValueError(
                f"images of shape {images.shape}; expected [N, H, W, {channels}]: images[None] "
                f"adds the number of images, images[..., None] the channel of grey ones"
            )
        if not images.size:
            raise ValueError(f"images of shape {images.shape}: there are no pixels to segment")
        # A network for 8 and 16 bits is told which of them the images have.
        is_16bit = [np.asarray(images.dtype.itemsize == 2)] * (len(exported.in_avals) - 1)
        mask, probabilities = network(images.astype(exported.in_avals[0].dtype), *is_16bit)
        return np.asarray(mask), np.asarray(probabilities)

    return predict


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: python load.py images.npy masks.npy")
    try:
        with open(sys.argv[1], "rb") as file:
            images = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # numpy raises many types for broken files
        sys.exit(f"error: {sys.argv[1]}: cannot be read as .npy ({error})")
    try:
        masks, _ = load(pathlib.Path(__file__).with_name("network.stablehlo"))(images)
        np.save(sys.argv[2], masks)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
