"""The mask of a prediction and its probabilities, written in strips."""

import contextlib
import pathlib
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from unet_jax import is_binary
from unet_jax.inference.output_file import Extra, OutputFile
from unet_jax.inference.predicted_image import strip_height
from unet_jax.reporting.colours import palette

CLASSIC = 2**32 - 2**25  # bytes; larger files are BigTIFF, with 64-bit offsets


class Mask(OutputFile):
    """The mask, `NAME.tif` with a page for each image if the input is a TIFF, otherwise `NAME.png`.

    Two classes are stored as 0 and 255; more classes are stored as class ids with a palette.

    Args:
      folder: the output folder.
      name: its path in the folder, without suffix.
      is_tiff: whether the input is a TIFF.
      classes: number of classes.
      pixels: number of pixels of all images.
    """

    def __init__(self, folder: pathlib.Path, name: str, is_tiff: bool, classes: int, pixels: int):
        super().__init__(folder / f"{name}{'.tif' if is_tiff else '.png'}")
        self._is_tiff, self._binary, self._pixels = is_tiff, is_binary(classes), pixels

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        if not self._is_tiff:
            yield
            return
        with _writer(self.unfinished, self._pixels) as self._file:
            yield

    def write(
        self, size: tuple[int, int], ids: Iterable[np.ndarray], georeference: Mapping[str, Any]
    ) -> None:
        """Writes the mask of the next image.

        Args:
          size: (height, width) of the image, pixels.
          ids: its class ids in bands of consecutive rows, uint8 [rows, W].
          georeference: see `Extra.begin_image`.
        """
        bands = (band * np.uint8(255) for band in ids) if self._binary else ids
        if self._is_tiff:
            height = strip_height(size[1])
            self._file.write(
                (zlib.compress(rows.tobytes()) for rows in _strips(bands, height)),
                shape=size,
                dtype=np.uint8,
                rowsperstrip=height,
                compression="zlib",
                photometric="minisblack" if self._binary else "palette",
                colormap=None if self._binary else palette().T * np.uint16(257),
                metadata=None,
                contiguous=False,
                **georeference,
            )
            return
        image = Image.fromarray(np.concatenate(list(bands)))
        if not self._binary:
            image.putpalette(palette().tobytes())
        image.save(self.unfinished, format="PNG")


class Probabilities(Extra):
    """`probabilities/NAME.tif`, float32 with a page for each image.

    A page has the probability of the second class, [H, W], or of more than two classes all,
    [K, H, W].

    Args:
      folder: the output folder.
      name: the outputs' path in the folder, without suffix.
      classes: number of classes.
      pixels: number of pixels of all images.
    """

    def __init__(self, folder: pathlib.Path, name: str, classes: int, pixels: int):
        super().__init__(folder / "probabilities" / f"{name}.tif")
        self._planes = 1 if is_binary(classes) else classes
        self._bytes = 4 * self._planes * pixels

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        with _writer(self.unfinished, self._bytes) as self._file:
            yield

    def begin_image(self, size: tuple[int, int], georeference: Mapping[str, Any]) -> None:
        self._size = size
        place: Any = self._file.write(  # reserves space
            None,
            shape=size if self._planes == 1 else (self._planes, *size),
            dtype=np.float32,
            photometric="minisblack",
            planarconfig=None if self._planes == 1 else "separate",
            metadata=None,
            contiguous=False,
            returnoffset=True,
            **georeference,
        )
        self._file.filehandle.flush()
        self._offset = place[0]

    def add_rows(self, top: int, band: np.ndarray, ids: np.ndarray) -> None:
        height, width = self._size
        with open(self.unfinished, "r+b") as file:
            for plane, values in enumerate(np.moveaxis(band[..., -self._planes :], -1, 0)):
                file.seek(self._offset + 4 * width * (plane * height + top))
                file.write(values.astype("<f4").tobytes())


def _strips(bands: Iterable[np.ndarray], height: int) -> Iterator[np.ndarray]:
    """Regroups bands of any number of rows into strips of `height` rows; the last has the rest."""
    waiting: list[np.ndarray] = []
    for band in bands:
        rows = np.concatenate([*waiting, band])
        whole = len(rows) - len(rows) % height
        yield from np.split(rows[:whole], range(height, whole, height)) if whole else ()
        waiting = [rows[whole:]]
    if len(waiting[0]):
        yield waiting[0]


def _writer(path: pathlib.Path, size: int) -> tifffile.TiffWriter:
    return tifffile.TiffWriter(path, bigtiff=size > CLASSIC, byteorder="<")
