"""Reads the images of a file in bands of rows, so that an image need not fit into memory.

Only a TIFF can exceed the pixel limit or have several pages. Every other file, and a TIFF with one
page within the limit, is decoded as a whole, as in training.
"""

import contextlib
import functools
import itertools
import math
import pathlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import tifffile
from PIL import Image

from unet_jax.core.errors import UserError
from unet_jax.data.files.images import read_image, scan_size
from unet_jax.data.files.tiff import (
    MAX_RATIO,
    check_directories,
    check_segment,
    claimed_bytes,
    refuse_damage,
)

MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 0  # largest number of pixels that are decoded at once
ROW_BYTES = 2**30  # largest decoded size of one row of strips or tiles, in bytes
# A file may decompress to this many bytes whatever its size, or to `MAX_RATIO` times its size if
# that is more. This limits the work that a small damaged file can cause.
ALLOWANCE = 2**24


class Page(Protocol):
    """One image of a file."""

    size: tuple[int, int]  # height and width, pixels

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Returns the rows `start` to `stop` - 1, uint8 or uint16 [rows, W, channels].

        Successive calls should not decrease `start`, because earlier rows are decoded again.

        Raises:
          UserError: the file is damaged.
        """
        ...


def is_tiff(path: pathlib.Path) -> bool:
    """Whether a file is a TIFF, by its suffix."""
    return path.suffix.lower() in (".tif", ".tiff")


def scan_pages(path: pathlib.Path) -> list[tuple[int, int]]:
    """Returns the height and width in pixels of each image of a file; reads the headers only.

    Raises:
      UserError: the file is damaged or its format is not supported.
    """
    if not is_tiff(path):
        return [scan_size(path)]
    with _opened(path) as file:
        with refuse_damage(path):
            sizes = [frame.size for frame in _frames(path, file)]
    if not sizes or not np.all(sizes):
        raise UserError(f"{path}: has no pixels; download or save it again")
    return sizes


@contextlib.contextmanager
def open_pages(path: pathlib.Path, channels: int) -> Iterator[Iterator[Page]]:
    """Opens a file and yields an iterator over its images.

    Args:
      path: the file, which stays open within the context.
      channels: number of channels of the images, 1 or 3; grey images are repeated to 3 channels.

    Raises:
      UserError: the file is damaged or transparent, or has colours and `channels` is 1.
    """
    if not is_tiff(path):
        yield _whole(path, channels)
        return
    with _opened(path) as file:
        with refuse_damage(path):
            frames = _frames(path, file)
            first = list(itertools.islice(frames, 2))
        if len(first) == 1 and np.prod(first[0].size) <= MAX_PIXELS:
            yield _whole(path, channels)
        else:
            yield _stream(path, itertools.chain(first, frames), channels)


def _whole(path: pathlib.Path, channels: int) -> Iterator[Page]:
    """Yields the only image of a file, decoded on demand."""
    yield WholePage(path, channels)


def _stream(path: pathlib.Path, frames: Iterator["_Frame"], channels: int) -> Iterator[Page]:
    while True:
        with refuse_damage(path):
            frame = next(frames, None)  # reads the page's header
        if frame is None:
            return
        yield TiffPage(frame, channels)


class WholePage:
    """A `Page` that is decoded as a whole."""

    def __init__(self, path: pathlib.Path, channels: int):
        self._pixels = read_image(path, channels)
        self.size = self._pixels.shape[:2]

    def rows(self, start: int, stop: int) -> np.ndarray:
        return self._pixels[start:stop]


class TiffPage:
    """A page of a TIFF; keeps only the rows of the last call and those decoded with them."""

    def __init__(self, frame: "_Frame", channels: int):
        if frame.samples > channels:
            raise UserError(f"{frame.path}: has colours; expected grey, like the training images")
        self.size, self._frame, self._channels = frame.size, frame, channels
        self._pixels = np.empty((0, frame.size[1], frame.samples), frame.dtype)
        self._start = 0  # index of the first row in `_pixels`

    def rows(self, start: int, stop: int) -> np.ndarray:
        end = self._start + len(self._pixels)
        if not self._start <= start <= end:
            self._start = end = start - start % self._frame.step
            self._pixels = self._pixels[:0]
        kept = self._pixels[start - self._start :] if start < end else self._pixels[:0]
        if stop > end:
            with refuse_damage(self._frame.path):
                more = self._frame.read(end, min(self.size[0], stop + -stop % self._frame.step))
            kept = np.concatenate([kept, more]) if len(kept) else more[max(start - end, 0) :]
        self._start, self._pixels = start, kept
        rows, repeats = kept[: stop - start], self._channels // self._frame.samples
        return rows if repeats == 1 else np.repeat(rows, repeats, axis=2)


class _Frame:
    """Locates and decodes the pixels of one TIFF page."""

    def __init__(self, path: pathlib.Path, page: tifffile.TiffPage, offset: int = 0):
        """Reads the size of a page.

        Args:
          path: the file, for error messages.
          page: the page whose header describes the image.
          offset: distance of the image's data from the page's data in bytes, for an image without
            a page of its own.

        Raises:
          UserError: the page has no pixels, or a side of more than `MAX_PIXELS` pixels.
        """
        self.path, self._page, self._offset = path, page, offset
        self.size = (page.imagelength, page.imagewidth)
        if not all(isinstance(length, int) and length > 0 for length in self.size):
            raise UserError(f"{path}: a page without height or width; download or save it again")
        if max(self.size) > MAX_PIXELS:
            raise UserError(
                f"{path}: {self.size[0]}x{self.size[1]} pixels; the largest side is {MAX_PIXELS}; "
                f"cut it into smaller images"
            )
        self._uncompressed = page.is_contiguous and page.is_final
        # Number of rows that are decoded together.
        self.step = 1 if self._uncompressed else page.chunks[0]

    @functools.cached_property
    def samples(self) -> int:
        """Number of samples per pixel, 1 or 3.

        Raises:
          UserError: the pixel format is not supported, or a strip or tile is too large to decode.
        """
        page = self._page
        samples, kind = page.samplesperpixel, page.photometric
        grey = samples == 1 and kind == tifffile.PHOTOMETRIC.MINISBLACK
        colour = samples == 3 and kind in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR)
        interleaved = page.planarconfig == tifffile.PLANARCONFIG.CONTIG
        if not (grey or (colour and interleaved)) or self.dtype not in (np.uint8, np.uint16):
            name = getattr(kind, "name", kind)
            raise UserError(
                f"{self.path}: {samples} samples of {self.dtype} per pixel ({name}); a TIFF with "
                f"several pages or more than {MAX_PIXELS} pixels must be grey or interleaved RGB, "
                f"of 8 or 16 bits"
            )
        height, width = page.chunks[:2]
        if not self._uncompressed and height * width > MAX_PIXELS:
            raise UserError(
                f"{self.path}: {height}x{width} pixels compressed as one strip; the largest "
                f"strip has {MAX_PIXELS}; save it with smaller strips or tiles"
            )
        if self.step * self.size[1] * samples * self.dtype.itemsize > ROW_BYTES:
            raise UserError(
                f"{self.path}: {self.step}x{self.size[1]} pixels in a row of strips or tiles, more "
                f"than {ROW_BYTES / 2**30:g} GiB; save it with lower strips or tiles"
            )
        return samples

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self._page.dtype)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Decodes the rows [start, stop), [rows, W, samples]; `start` is a multiple of `step`."""
        shape = (stop - start, self.size[1], self.samples)
        if self._uncompressed:
            row = self.size[1] * self.samples * self.dtype.itemsize
            begin = self._page.dataoffsets[0] + self._offset
            data = self._bytes(begin + start * row, shape[0] * row)
            stored = self.dtype.newbyteorder(self._page.parent.byteorder)
            return np.frombuffer(data, stored).reshape(shape).astype(self.dtype)
        pixels = np.zeros(shape, self.dtype)  # strips and tiles that a sparse file omits stay 0
        page: Any = self._page
        tables = {}
        if page.jpegtables is not None or page.jpegheader is not None:
            tables = {"jpegtables": self._page.jpegtables, "jpegheader": page.jpegheader}
        across = page.chunked[-2] if page.samplesperpixel > 1 else page.chunked[-1]
        for index in range(start // self.step * across, -(-stop // self.step) * across):
            offset, count = page.dataoffsets[index], page.databytecounts[index]
            if count > 4 * math.prod(page.chunks) * self.dtype.itemsize + 2**20:
                raise ValueError(f"{count} bytes compressed as {page.chunks} pixels")
            data = self._bytes(offset, count) if count and offset else None
            if data and page.compression in tifffile.TIFF.IMAGE_COMPRESSIONS:
                check_segment(page, data)
            segment, (_, _, top, left, _), _ = page.decode(data, index, **tables)
            if segment is not None:
                # A tile may extend beyond the image.
                inside = segment[0, : stop - top, : self.size[1] - left]
                rows, columns = inside.shape[:2]
                pixels[top - start : top - start + rows, left : left + columns] = inside
        return pixels

    def _bytes(self, offset: int, count: int) -> bytes:
        file = self._page.parent.filehandle
        file.seek(offset)
        data = file.read(count)
        if len(data) < count:
            raise EOFError("the file ends within an image")
        return data


def _frames(path: pathlib.Path, file: tifffile.TiffFile) -> Iterator[_Frame]:
    size, total = file.filehandle.size, 0
    if file.is_imagej and len(file.pages) == 1:
        # ImageJ writes one page for a stack of more than 4 GiB; the data of the other images
        # follows that of the first.
        page = file.pages[0].aspage()
        claimed_bytes(page, size)
        for i in range(max(1, file.series[0].size // page.size)):
            yield _Frame(path, page, i * page.nbytes)
        return
    for number, page in enumerate(file.pages):
        frame = _Frame(path, page.aspage())
        total += claimed_bytes(page, size)
        if total > max(ALLOWANCE, MAX_RATIO * size):
            raise ValueError(f"page {number} has more pixels than a file of {size} bytes can hold")
        yield frame


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[tifffile.TiffFile]:
    with contextlib.ExitStack() as stack:
        with refuse_damage(path):
            check_directories(path)
            file = stack.enter_context(tifffile.TiffFile(path))
        yield file
