"""Small splits and experiments for tests, made on the spot."""

import functools

import numpy as np

from unet_jax.data.dataset import Split

# The demo experiment at a size of seconds: the launcher's arguments.
TINY = (
    "--config=configs/demo.py",
    "--config.model.width=4",
    "--config.model.depth=1",
    "--config.data.size=32",
    "--config.data.crops_per_image=1",
    "--config.num_epochs=4",
    "--config.optim.schedule=constant",
    "--config.eval.every_epochs=1",
    "--config.log.every_steps=1",
)


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


def coded(height: int, width: int, dtype=np.uint8, seed: int = 0, weight: bool = False) -> dict:
    """An image whose channels are its label, its rows and its columns; nobody may write to it."""
    label = np.random.default_rng(seed).choice([0, 1, 2, 255], (height, width)).astype(np.uint8)
    rows, columns = np.indices((height, width))
    image = np.stack([label, rows, columns], axis=-1).astype(dtype)
    example = {"image": image, "label": label, "index": np.asarray(17, np.int32)}
    if weight:
        example["weight"] = (1 + rows + 100 * columns).astype(np.float32)
    for array in example.values():
        array.flags.writeable = False
    return example
