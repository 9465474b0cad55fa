"""Predicts images in memory and the images of one file as arrays, without writing anything."""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from ml_collections import ConfigDict

from unet_jax import is_binary
from unet_jax.core.errors import UserError
from unet_jax.data.files.images import check_channels
from unet_jax.data.files.pages import Page, open_pages, scan_pages
from unet_jax.data.files.stored import finite, to_values
from unet_jax.data.intensities import check_type
from unet_jax.inference.cut import Cut, Size
from unet_jax.inference.predictor import Predictor, decide

ARRAY = pathlib.Path("image")  # how messages name an array


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """What a network predicts for an image, or for N images of one size.

    Attributes:
      mask: class ids, uint8 [H, W] or [N, H, W]. With two classes these are 0 and 1, where the mask
        files that `--mode=predict` writes have 0 and 255.
      probabilities: float32. With two classes those of the second class, [H, W] or [N, H, W];
        with more classes those of all, [H, W, K] or [N, H, W, K].
    """

    mask: np.ndarray
    probabilities: np.ndarray


class ArrayPage:
    """A `Page` in memory.

    Args:
      pixels: stored values [H, W, C].
    """

    def __init__(self, pixels: np.ndarray):
        self._pixels = pixels
        self.size: Size = pixels.shape[:2]

    def rows(self, start: int, stop: int) -> np.ndarray:
        return self._pixels[start:stop]


def predict_array(
    predictor: Predictor, config: ConfigDict, array: np.ndarray, side: int
) -> Prediction:
    """Predicts an image, or a batch of images, that is in memory.

    Args:
      predictor: the network.
      config: its run's config.
      array: stored values, [H, W], [H, W, C] or [N, H, W, C].
      side: side of a tile, pixels; larger images are split into tiles.

    Raises:
      UserError: the array has another shape, type or number of channels than the network needs.
    """
    images = to_images(array, predictor.channels, config.data.dtype)
    sizes = [images.shape[1:3]] * len(images)
    found = _predicted(predictor, config, ARRAY, map(ArrayPage, images), sizes, side)
    return found if array.ndim == 4 else _first(found)


def predict_file(
    predictor: Predictor, config: ConfigDict, path: pathlib.Path, side: int
) -> Prediction:
    """Predicts the image or the stack of a file, as `--mode=predict` reads it.

    Args:
      predictor: the network.
      config: its run's config.
      path: the file.
      side: side of a tile, pixels; larger images are split into tiles.

    Raises:
      UserError: the file cannot be read, has images of several sizes, or does not suit the network.
    """
    if not path.is_file():
        what = "is a folder; give one of its files" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {what}")
    try:
        sizes = scan_pages(path)
        if len(set(sizes)) > 1:
            raise UserError(
                f"{path}: has images of several sizes, which no array holds; predict it with "
                f"--mode=predict"
            )
        with open_pages(path, predictor.channels) as pages:
            found = _predicted(predictor, config, path, pages, sizes, side)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    return found if len(sizes) > 1 else _first(found)


def _predicted(
    predictor: Predictor,
    config: ConfigDict,
    path: pathlib.Path,
    pages: Iterable[Page],
    sizes: Sequence[Size],
    side: int,
) -> Prediction:
    """Predicts images of one size; the arrays of the result have the axis N."""
    cut, shape = Cut(config, predictor, side, sizes), (len(sizes), *sizes[0])
    planes = 1 if is_binary(config.model.classes) else config.model.classes
    masks = np.empty(shape, np.uint8)
    probabilities = np.empty((*shape, planes), np.float32)
    results = _results(predictor, cut, path, pages, config.data.dtype)
    for number, size in enumerate(sizes):
        row = 0
        for band in cut.join(size, results):
            stop = row + len(band)
            masks[number, row:stop] = decide(band, config.eval.threshold)
            probabilities[number, row:stop] = band[..., -planes:]
            row = stop
    return Prediction(masks, probabilities[..., 0] if planes == 1 else probabilities)


def _results(
    predictor: Predictor, cut: Cut, path: pathlib.Path, pages: Iterable[Page], dtype: str
) -> Iterator[np.ndarray]:
    """Yields the probabilities of all tiles, float32 [H, W, K]."""
    tiles = (cut.checked_tiles(path, page, {dtype}) for page in pages)
    for _, probabilities in predictor.stream(itertools.chain.from_iterable(tiles)):
        yield probabilities


def _first(found: Prediction) -> Prediction:
    return Prediction(found.mask[0], found.probabilities[0])


def to_images(array: np.ndarray, channels: int, dtype: str) -> np.ndarray:
    """Checks an array as files are checked, and returns it as a batch.

    Args:
      array: stored values, [H, W], [H, W, C] or [N, H, W, C].
      channels: number of channels of the network's input; one channel is repeated to three.
      dtype: `data.dtype` of the run.

    Returns:
      The images in native byte order, [N, H, W, channels].

    Raises:
      UserError: the array is not such a batch, or the run was trained on values of another type.
    """
    shapes = f"an image is [H, W, {channels}], a batch of N images is [N, H, W, {channels}]"
    shapes = shapes.replace("is [", "is [H, W] or [", 1) if channels in (1, 3) else shapes
    if array.ndim not in (2, 3, 4):
        raise UserError(f"{ARRAY}: an array of shape {array.shape}; {shapes}")
    if not array.size:
        raise UserError(f"{ARRAY}: an array of shape {array.shape} has no pixels; {shapes}")
    images = array[..., None] if array.ndim == 2 else array
    images = images if images.ndim == 4 else images[None]
    try:
        check_channels(ARRAY, images.shape[-1], channels)
    except UserError as error:
        raise UserError(f"{error}; {shapes}") from None
    values = finite(to_values(images, ARRAY), ARRAY)
    try:
        check_type(ARRAY, values.dtype, {dtype})
    except UserError as error:
        is_float = values.dtype.kind == "f" and dtype in ("", "uint8")
        hint = "; floats from 0 to 1 become uint8 by np.rint(255 * image).astype(np.uint8)"
        raise UserError(f"{error}{hint * is_float}") from None
    return values if values.shape[-1] == channels else np.repeat(values, channels, axis=-1)
