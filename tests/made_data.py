"""Small splits for tests, made on the spot."""

import functools

import numpy as np

from unet_jax.data.dataset import Split


def pick(images: np.ndarray, labels: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
    return images[index], labels[index]


def make_split(count: int, size: int, seed: int, ignored: float = 0.0) -> Split:
    """Blobs of two classes, some label pixels ignored; images follow the labels, with noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 2, (count, size // 8, size // 8), dtype=np.uint8)
    labels = coarse.repeat(8, axis=1).repeat(8, axis=2)
    images = (labels * 100 + rng.integers(0, 100, labels.shape)).astype(np.uint8)[..., None]
    labels[rng.random(labels.shape) < ignored] = 255
    return Split(
        names=tuple(f"image-{i}" for i in range(count)),
        sizes=((size, size),) * count,
        read=functools.partial(pick, images, labels),
    )
