"""Masks as a scan describes them, without files."""

import pathlib

import numpy as np
import scipy

from unet_jax.data.files.masks import MaskFile


def scanned(*pixels_of, colours=False, lossy=False, palette=()) -> list[MaskFile]:
    """Masks with these numbers of pixels of each value; a collection of values has 100 of each."""
    masks = []
    for i, pixels in enumerate(pixels_of):
        counts = pixels if isinstance(pixels, dict) else dict.fromkeys(pixels, 100)
        masks.append(
            MaskFile(
                path=pathlib.Path(f"/data/masks/{i}.png"),
                size=(1, sum(counts.values())),
                values=tuple(sorted(counts)),
                counts=tuple(counts[value] for value in sorted(counts)),
                palette=palette,
                colours=colours,
                lossy=lossy,
                white_is_zero=False,
                sha256="0",
            )
        )
    return masks


def drawn(*rows: str) -> np.ndarray:
    """Returns a mask, bool [H, W], that is True where the rows have a `#`."""
    return np.array([[pixel == "#" for pixel in row] for row in rows])


def random_pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a label and a prediction of two classes: blobs, lines or noise, some of them empty.

    Both are uint8 [H, W] of the same size, from 1x1 to 40x40. Half of the labels have ignored
    pixels.
    """
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(1, 41, 2).tolist())
    smooth = scipy.ndimage.gaussian_filter(rng.normal(size=size), rng.choice([0.3, 1.0, 2.5]))
    other = scipy.ndimage.gaussian_filter(rng.normal(size=size), 1.0)
    other *= rng.choice([0.1, 0.5, 2.0]) * smooth.std() / max(other.std(), 1e-9)
    level = rng.choice([-0.5, 0.0, 1.0]) * smooth.std()
    shape = (lambda x: np.abs(x) < 0.3 * smooth.std()) if seed % 4 == 1 else (lambda x: x > level)
    label, prediction = shape(smooth).astype(np.uint8), shape(smooth + other).astype(np.uint8)
    if seed % 10 in (2, 3):
        (label if seed % 10 == 2 else prediction)[:] = 0
    if seed % 20 == 4:
        label[:], prediction[:] = 0, 0
    if seed % 2:
        area = scipy.ndimage.gaussian_filter(rng.normal(size=size), 2.0)
        label[area > 0.8 * np.abs(area).max()] = 255
    return label, prediction
