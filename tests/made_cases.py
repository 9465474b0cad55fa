"""Small folders of images and masks as people have them: a bright disk on a noisy ground."""

import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import tifffile
from made_files import save

SIDE, PAIRS = 24, 10

Writer = Callable[[pathlib.Path, np.ndarray], None]


def scene(i: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns an image, uint8 [H, W], and its classes: 0 around, 1 the disk's ring, 2 within."""
    rng = np.random.default_rng(i)
    y, x = np.mgrid[:SIDE, :SIDE]
    distance = np.hypot(y - rng.integers(9, 15), x - rng.integers(9, 15))
    classes = (distance < 8).astype(int) + (distance < 5)
    image = 80 + 100 * (classes > 0) + rng.normal(0, 15, classes.shape)
    return np.clip(image, 0, 255).astype(np.uint8), classes


def png(**options) -> Writer:
    return lambda stem, values: save(stem.with_name(f"{stem.name}.png"), values, **options)


def jpeg(stem: pathlib.Path, values: np.ndarray) -> None:
    save(stem.with_name(f"{stem.name}.jpg"), values, quality=90)


def tif(**options) -> Writer:
    def write(stem: pathlib.Path, values: np.ndarray) -> None:
        stem.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(stem.with_name(f"{stem.name}.tif"), values, **options)

    return write


def write_case(
    root: pathlib.Path,
    table: Sequence[int],
    *,
    dtype: type = np.uint8,
    writer: Writer | None = None,
    image: str = "images/{}",
    mask: str = "masks/{}",
    parts: Sequence[str] = ("",),
    change: Callable[[np.ndarray], None] = lambda values: None,
) -> None:
    """Writes ten pairs named case00 ... case09.

    Args:
      root: the data folder.
      table: the stored value of each class of `scene`.
      dtype: type of the stored values.
      writer: writes a mask; a PNG by default.
      image: path of an image without its ending.
      mask: path of a mask without its ending.
      parts: folders above these, used in turn.
      change: changes the values of a mask before they are written.
    """
    for i in range(PAIRS):
        pixels, classes = scene(i)
        values = np.array(table)[classes].astype(dtype)
        change(values)
        folder, name = root / parts[i % len(parts)], f"case{i:02d}"
        save(folder / f"{image.format(name)}.png", pixels)
        (writer or png())(folder / mask.format(name), values)
