"""Masks by an exported network. Needs jax, numpy and flatbuffers alone.

python load.py images.npy masks.npy   # uint8 or uint16 [N, H, W, C] -> class ids, uint8 [N, H, W]
"""

import pathlib
import sys

import jax
import numpy as np
from jax import export


def load(path):
    """-> a function: images, uint8 or uint16 [N, H, W, C] -> masks, probabilities [N, H, W, K]."""
    network = jax.jit(export.deserialize(bytearray(pathlib.Path(path).read_bytes())).call)

    def predict(images):
        deep = np.asarray(images.dtype == np.uint16)
        mask, probabilities = network(images.astype(np.uint16), deep)
        return np.asarray(mask), np.asarray(probabilities)

    return predict


if __name__ == "__main__":
    images = np.load(sys.argv[1], allow_pickle=False)
    masks, _ = load(pathlib.Path(__file__).with_name("network.stablehlo"))(images)
    np.save(sys.argv[2], masks)
