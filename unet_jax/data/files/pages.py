"""Reads the images of a file in bands of rows, so that an image need not fit into memory.

Only a TIFF can exceed the pixel limit or have several images. Every other file, and a TIFF with one
image within the limit, is decoded as a whole, as in training.
"""

import contextlib
import functools
import itertools
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import tifffile
from PIL import Image

from unet_jax.core.errors import UserError
from unet_jax.data.files.georeference import georeference
from unet_jax.data.files.images import check_channels, read_image, scan_size
from unet_jax.data.files.layout import Layout, find_layout
from unet_jax.data.files.orientation import UPRIGHT, upright, upright_size
from unet_jax.data.files.pixel_size import PixelSize, pixel_size
from unet_jax.data.files.stored import (
    channel_count,
    check_page,
    orientation_of_page,
    to_channels,
)
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

    size: tuple[int, int]  # height and width of the upright image, pixels

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Returns the rows `start` to `stop` - 1, [rows, W, channels], of the image's type.

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
            layout = find_layout(file)
            if layout.shape:
                sizes = [scan_size(path)]
            elif len(layout.images[0]) == 1:
                sizes = [frame.upright_size for frame in _frames(path, file, layout)]
            else:
                frames = [*_frames(path, file, layout)]
                sizes = [frames[planes[0]].upright_size for planes in layout.images]
    if not sizes or not np.all(sizes):
        raise UserError(f"{path}: has no pixels; download or save it again")
    return sizes


def stated_size(path: pathlib.Path) -> PixelSize:
    """Returns the height and width of a pixel that the first page of a TIFF states, micrometres.

    Returns:
      They are those of the upright image; () if they are not stated or the file is no TIFF.

    Raises:
      UserError: the file is damaged.
    """
    if not is_tiff(path):
        return ()
    with _opened(path) as file, refuse_damage(path):
        page = file.pages.first
        return pixel_size(file, page)[:: -1 if orientation_of_page(page) >= 5 else 1]


@contextlib.contextmanager
def open_pages(path: pathlib.Path, channels: int) -> Iterator[Iterator[Page]]:
    """Opens a file and yields an iterator over its images.

    Each page of a TIFF is an image, unless its metadata say that pages are channels of one.

    Args:
      path: the file, which stays open within the context.
      channels: number of channels of the images; those of one channel are repeated to 3 channels.

    Raises:
      UserError: the file is damaged or transparent, or has another number of channels.
    """
    if not is_tiff(path):
        yield _whole(path, channels)
        return
    with _opened(path) as file:
        with refuse_damage(path):
            layout = find_layout(file)
            frames = _frames(path, file, layout)
            first = next(frames)
        is_small = math.prod((layout.shape or first.size)[:2]) <= MAX_PIXELS
        if layout.shape or (len(layout.images) == 1 and is_small):
            yield _whole(path, channels)
        else:
            yield _stream(path, itertools.chain([first], frames), layout, channels)


@contextlib.contextmanager
def open_georeferences(path: pathlib.Path) -> Iterator[Iterator[dict[str, Any]]]:
    """Opens a TIFF and yields an iterator over what `georeference` returns for each of its images.

    Raises:
      UserError: the file is damaged.
    """
    with _opened(path) as file:
        with refuse_damage(path):
            layout = find_layout(file)
        yield _georeferences(path, _frames(path, file, layout), layout)


def _georeferences(
    path: pathlib.Path, frames: Iterator["_Frame"], layout: Layout
) -> Iterator[dict[str, Any]]:
    """Yields the georeference of each image, that of its first plane; nothing for turned images."""
    first_planes = {planes[0] for planes in layout.images}
    for number in itertools.count():
        with refuse_damage(path):
            frame = next(frames, None)
            if frame is None:
                return
            found = georeference(frame.page) if frame.orientation == UPRIGHT else {}
        if number in first_planes:
            yield found


def _whole(path: pathlib.Path, channels: int) -> Iterator[Page]:
    """Yields the only image of a file, decoded on demand."""
    yield WholePage(path, channels)


def _stream(
    path: pathlib.Path, frames: Iterator["_Frame"], layout: Layout, channels: int
) -> Iterator[Page]:
    if len(layout.images[0]) == 1:
        while True:
            with refuse_damage(path):
                frame = next(frames, None)  # reads the page's header
            if frame is None:
                return
            yield TiffPage([frame], channels)
    with refuse_damage(path):
        planes = [*frames]
    for image in layout.images:
        yield TiffPage([planes[i] for i in image], channels)


class WholePage:
    """A `Page` that is decoded as a whole."""

    def __init__(self, path: pathlib.Path, channels: int):
        self._pixels = read_image(path, channels)
        self.size = self._pixels.shape[:2]

    def rows(self, start: int, stop: int) -> np.ndarray:
        return self._pixels[start:stop]


class TiffPage:
    """An image of one or more pages of a TIFF, whose channels are joined.

    It keeps only the rows of the last call and those decoded with them, except if it is stored in
    another orientation.
    """

    def __init__(self, frames: Sequence["_Frame"], channels: int):
        first = frames[0]
        if len({(frame.size, frame.dtype, frame.orientation) for frame in frames}) > 1:
            raise UserError(f"{first.path}: the channels of an image differ in size or type")
        with refuse_damage(first.path):
            found = sum(frame.channels for frame in frames)
        check_channels(first.path, found, channels)
        self.size, self._frames, self._repeats = first.upright_size, frames, channels // found
        self._pixels = np.empty((0, *first.size[1:], found))  # the rows that are kept
        self._start = 0  # index of the first row in `_pixels`

    def rows(self, start: int, stop: int) -> np.ndarray:
        first = self._frames[0]
        if first.orientation != UPRIGHT:
            if not len(self._pixels):
                self._pixels = upright(self._read(0, first.size[0]), first.orientation)
            rows = self._pixels[start:stop]
        else:
            rows = self._rows(start, stop)
        return rows if self._repeats == 1 else np.repeat(rows, self._repeats, axis=2)

    def _rows(self, start: int, stop: int) -> np.ndarray:
        """Returns stored rows; decodes those that the last call did not."""
        step, end = self._frames[0].step, self._start + len(self._pixels)
        if not self._start <= start <= end:
            self._start = end = start - start % step
            self._pixels = self._pixels[:0]
        kept = self._pixels[start - self._start :]
        if stop > end:
            more = self._read(end, min(self.size[0], stop + -stop % step))
            kept = np.concatenate([kept, more]) if len(kept) else more[max(start - end, 0) :]
        self._start, self._pixels = start, kept
        return kept[: stop - start]

    def _read(self, start: int, stop: int) -> np.ndarray:
        with refuse_damage(self._frames[0].path):
            bands = [frame.read(start, stop) for frame in self._frames]
        return bands[0] if len(bands) == 1 else np.concatenate(bands, axis=2)


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
        self.path, self.page, self._offset = path, page, offset
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
        self.orientation = orientation_of_page(page)
        self.upright_size = upright_size(self.size, self.orientation)

    @functools.cached_property
    def channels(self) -> int:
        """Number of channels.

        Raises:
          UserError: the pixel format is not supported, or a strip or tile is too large to decode.
        """
        page = self.page
        check_page(page, self.path)
        if page.imagedepth != 1:
            raise UserError(
                f"{self.path}: {page.imagedepth} slices (Z) in one page; save each as its own page"
            )
        height, width = page.chunks[:2]
        if not self._uncompressed and height * width > MAX_PIXELS:
            raise UserError(
                f"{self.path}: {height}x{width} pixels compressed as one strip; the largest "
                f"strip has {MAX_PIXELS}; save it with smaller strips or tiles"
            )
        if self.orientation != UPRIGHT and math.prod(self.size) > MAX_PIXELS:
            raise UserError(
                f"{self.path}: orientation {self.orientation} of {self.size[0]}x{self.size[1]} "
                f"pixels; more than {MAX_PIXELS} pixels must be stored upright"
            )
        if self.step * self.size[1] * page.samplesperpixel * self.dtype.itemsize > ROW_BYTES:
            raise UserError(
                f"{self.path}: {self.step}x{self.size[1]} pixels in a row of strips or tiles, more "
                f"than {ROW_BYTES / 2**30:g} GiB; save it with lower strips or tiles"
            )
        return channel_count(page)

    @property
    def dtype(self) -> np.dtype:
        if self.page.dtype is None:
            raise UserError(f"{self.path}: its pixels are of no known type; convert it")
        return np.dtype(self.page.dtype)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Decodes the rows [start, stop), [rows, W, channels]; `step` divides `start`."""
        read = self._read_uncompressed if self._uncompressed else self._decode
        samples = read(start, (stop - start, self.size[1], self.page.samplesperpixel))
        return to_channels(samples, self.page, self.path)

    @property
    def _is_planar(self) -> bool:
        page: Any = self.page
        return page.samplesperpixel > 1 and page.planarconfig == 2

    def _read_uncompressed(self, start: int, shape: tuple[int, int, int]) -> np.ndarray:
        """Reads samples [rows, W, samples] from row `start` on."""
        rows, width, samples = shape
        planes = samples if self._is_planar else 1
        row = width * samples // planes * self.dtype.itemsize
        stored = self.dtype.newbyteorder(self.page.parent.byteorder)
        begin = self.page.dataoffsets[0] + self._offset
        data = [
            self._bytes(begin + (plane * self.size[0] + start) * row, rows * row)
            for plane in range(planes)
        ]
        bands = [np.frombuffer(x, stored).reshape(rows, width, samples // planes) for x in data]
        return bands[0] if planes == 1 else np.concatenate(bands, axis=2)

    def _decode(self, start: int, shape: tuple[int, int, int]) -> np.ndarray:
        """Decodes samples [rows, W, samples] from row `start` on."""
        pixels = np.zeros(shape, self.dtype)  # strips and tiles that a sparse file omits stay 0
        page: Any = self.page
        tables, stop = {}, start + shape[0]
        if page.jpegtables is not None or page.jpegheader is not None:
            tables = {"jpegtables": self.page.jpegtables, "jpegheader": page.jpegheader}
        planes = shape[2] if self._is_planar else 1
        across = -(-self.size[1] // page.chunks[1])
        down = -(-self.size[0] // self.step)
        inside = range(start // self.step * across, -(-stop // self.step) * across)
        for index in (plane * down * across + i for plane in range(planes) for i in inside):
            offset, count = page.dataoffsets[index], page.databytecounts[index]
            if count > 4 * math.prod(page.chunks) * self.dtype.itemsize + 2**20:
                raise ValueError(f"{count} bytes compressed as {page.chunks} pixels")
            data = self._bytes(offset, count) if count and offset else None
            if data and page.compression in tifffile.TIFF.IMAGE_COMPRESSIONS:
                check_segment(page, data)
            segment, (plane, _, top, left, _), _ = page.decode(data, index, **tables)
            if segment is not None:
                # A tile may extend beyond the image.
                part = segment[0, : stop - top, : self.size[1] - left]
                rows, columns = part.shape[:2]
                channels = slice(plane, plane + 1) if self._is_planar else slice(None)
                pixels[top - start : top - start + rows, left : left + columns, channels] = part
        return pixels

    def _bytes(self, offset: int, count: int) -> bytes:
        file = self.page.parent.filehandle
        file.seek(offset)
        data = file.read(count)
        if len(data) < count:
            raise EOFError("the file ends within an image")
        return data


def _frames(path: pathlib.Path, file: tifffile.TiffFile, layout: Layout) -> Iterator[_Frame]:
    """Yields the stored planes of a file in their order."""
    size, total = file.filehandle.size, 0
    if layout.is_virtual:
        page = file.pages.first
        claimed_bytes(page, size)
        for i in range(sum(map(len, layout.images))):
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
