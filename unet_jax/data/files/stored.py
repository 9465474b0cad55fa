"""Reads the pixels of TIFF pages as they are stored, whatever a viewer would make of them.

WhiteIsZero is not inverted. Bits are 0 and 255, so that True is bright. Palette indices become the
colours of the palette, and an alpha channel that is opaque everywhere is left out. What the file
does not call alpha is a channel.
"""

import dataclasses
import pathlib
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from unet_jax.core.errors import UserError
from unet_jax.data.dataset import default_channel_names
from unet_jax.data.files.layout import Layout, find_layout
from unet_jax.data.files.orientation import known_orientation, upright
from unet_jax.data.files.pixel_size import PixelSize, pixel_size
from unet_jax.data.files.tiff import open_tiff

LOSSY_TIFF = (6, 7, 33007, 34892)  # TIFF compressions that are JPEG
PHOTOMETRICS = ("MINISWHITE", "MINISBLACK", "RGB", "PALETTE", "MASK")  # those of stored values
TYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64")
ALPHA = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)
ORIENTATION = 274  # number of the tag


@dataclasses.dataclass(frozen=True)
class Picture:
    """The pixels of an image file, upright, and what the file says about them."""

    pixels: np.ndarray  # [H, W, C], of one of `TYPES` but float16 and float64
    names: tuple[str, ...]  # of the channels
    orientation: int = 1  # the one that was applied
    white_is_zero: bool = False  # whether the file says that viewers show 0 as white
    is_page_a_row: bool = False  # whether the file stores each row of the image as a page
    pixel_size: PixelSize = ()


def read_tiff_image(path: pathlib.Path, verify: bool) -> Picture:
    """Reads the only image of a TIFF.

    Args:
      path: the file.
      verify: whether to check it for damage; False for a file that was checked before.

    Returns:
      The image; float16 and float64 are converted to float32.

    Raises:
      UserError: the file is damaged, has several images, is partly transparent, or its kind of
        pixels is not supported.
    """
    with open_tiff(path, verify) as file:
        layout, page = find_layout(file), file.pages.first
        check_single(layout, page, path)
        check_page(page, path)
        if layout.shape:
            pixels = to_channels(read_planes(file, layout).reshape(layout.shape), page, path)
        elif len(layout.images[0]) == 1:
            stored = _read_fast(page, path) if not verify else None
            pixels = to_channels(read_page(page) if stored is None else stored, page, path)
        else:
            planes = (to_channels(x, page, path) for x in read_planes(file, layout))
            pixels = np.concatenate([*planes], axis=2)
        names = layout.names
        if len(names) != pixels.shape[2]:
            names = default_channel_names(pixels.shape[2], is_rgb(page))
        orientation = orientation_of_page(page)
        return Picture(
            upright(pixels, orientation),
            names,
            orientation,
            page.photometric == tifffile.PHOTOMETRIC.MINISWHITE,
            layout.shape is not None,
            pixel_size(file, page)[:: -1 if orientation >= 5 else 1],
        )


def read_planes(file: tifffile.TiffFile, layout: Layout) -> np.ndarray:
    """Reads the stored samples of the planes of a file's first image, [planes, H, W, samples]."""
    page: Any = file.pages.first
    if not (layout.shape or layout.is_virtual):
        return np.stack([read_page(file.pages[i]) for i in layout.images[0]])
    planes = file.asarray().reshape(-1, *page.shape)  # reads no directory but the first
    planes = planes if layout.shape else planes[list(layout.images[0])]
    if page.samplesperpixel > 1 and page.planarconfig == 2:  # [samples, H, W]
        planes = np.moveaxis(planes, 1, -1)
    return planes.reshape(-1, page.imagelength, page.imagewidth, page.samplesperpixel)


def read_page(page: Any) -> np.ndarray:
    """Reads the stored samples of a page, [H, W, samples]."""
    pixels = page.asarray()
    if page.samplesperpixel > 1 and page.planarconfig == 2:  # [samples, H, W]
        pixels = np.moveaxis(pixels, 0, -1)
    return pixels.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)


def _read_fast(page: Any, path: pathlib.Path) -> np.ndarray | None:
    """Reads a page with LZW compression with libtiff, which takes 0.4 times as long as tifffile.

    libtiff may not notice damage, so that this is for files that were checked. Returns None for
    other pages.
    """
    plain = page.photometric in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
    interleaved = page.samplesperpixel == 1 or page.planarconfig == 1
    if page.compression != 5 or not plain or not interleaved or page.bitspersample not in (8, 16):
        return None
    pixels = imagecodecs.tiff_decode(path.read_bytes())
    return pixels.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)


def orientation_of_page(page: Any) -> int:
    """Returns the orientation in a page's tag."""
    tag = page.tags.get(ORIENTATION)
    return known_orientation(tag.value if tag is not None else None)


def is_rgb(page: Any) -> bool:
    """Returns whether the first channels of a page are red, green and blue."""
    kinds = tifffile.PHOTOMETRIC
    return page.photometric in (kinds.RGB, kinds.YCBCR, kinds.PALETTE)


def check_single(layout: Layout, page: Any, path: pathlib.Path) -> None:
    """Raises a `UserError` unless a file has one image, of a size that may be decoded."""
    if len(layout.images) > 1 or page.imagedepth != 1:
        found = layout.describe() or f"{page.imagedepth} slices (Z)"
        hint = "; if its pages are channels, save it as OME-TIFF with axes CYX"
        raise UserError(
            f"{path}: contains several images, {found}; expected one per file; save each slice as "
            f"its own file{hint if layout.axes == 'I' else ''}"
        )
    height, width, *_ = layout.shape or (page.imagelength, page.imagewidth)
    if height * width > (Image.MAX_IMAGE_PIXELS or np.inf):
        raise UserError(
            f"{path}: more than {Image.MAX_IMAGE_PIXELS} pixels; cut it into smaller images"
        )


def check_page(page: Any, path: pathlib.Path) -> None:
    """Checks that the samples of a page are values or colours.

    Args:
      page: the page, a `tifffile.TiffPage`.
      path: its file.

    Raises:
      UserError: they are not.
      ValueError: the page is damaged.
    """
    if page.samplesperpixel > 1 and page.planarconfig not in (1, 2):
        raise ValueError("the tag PlanarConfiguration is damaged")
    photometric = page.photometric
    accepted = [tifffile.PHOTOMETRIC[name] for name in PHOTOMETRICS]
    if page.compression in LOSSY_TIFF:
        accepted.append(tifffile.PHOTOMETRIC.YCBCR)  # tifffile converts it to RGB
    if photometric not in accepted:
        raise UserError(
            f"{path}: the photometric interpretation is {getattr(photometric, 'name', photometric)}"
            f"; expected grey, RGB or palette colours; save it as PNG"
        )
    is_palette = photometric == tifffile.PHOTOMETRIC.PALETTE
    if is_palette and page.bitspersample not in (1, 2, 4, 8):
        raise UserError(
            f"{path}: a palette with {page.bitspersample} bits per pixel; expected at most 8; save "
            f"it as PNG"
        )


def channel_count(page: Any) -> int:
    """Returns the number of channels that `to_channels` gives for a page."""
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        return 3
    return page.samplesperpixel - len(_alpha(page))


def to_channels(samples: np.ndarray, page: Any, path: pathlib.Path) -> np.ndarray:
    """Converts stored samples to the channels of an image.

    Args:
      samples: rows of a page, [rows, W, samples].
      page: the page.
      path: its file, for error messages.

    Returns:
      The channels, [rows, W, C], in native byte order.

    Raises:
      UserError: some pixels are transparent, not a number or infinite, or of another type.
    """
    samples = to_values(samples, path)
    for place in _alpha(page):
        alpha = samples[..., place]
        if alpha.min() < _opaque(page, alpha.dtype):
            raise UserError(
                f"{path}: partly transparent; save it again without an alpha channel or, if its "
                f"channel {place + 1} is none, with ExtraSamples=0 (unspecified)"
            )
    samples = np.delete(samples, _alpha(page), axis=2) if _alpha(page) else samples
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        return (page.colormap >> 8).T.astype(np.uint8)[samples[..., 0]]
    return finite(samples, path)


def to_values(samples: np.ndarray, path: pathlib.Path) -> np.ndarray:
    """Returns samples of one of `TYPES` in native byte order; False and True become 0 and 255.

    Args:
      samples: the samples.
      path: their file, for the message.

    Raises:
      UserError: they are of another type.
    """
    if samples.dtype == bool:
        samples = samples.astype(np.uint8) * np.uint8(255)
    if samples.dtype.name not in TYPES:
        raise UserError(
            f"{path}: pixels of type {samples.dtype.name}; expected 8, 16 or 32-bit integers or "
            f"floating-point numbers; convert it"
        )
    return samples.astype(samples.dtype.newbyteorder("="), copy=False)


def finite(samples: np.ndarray, path: pathlib.Path) -> np.ndarray:
    """Returns floating-point numbers as float32, and integers as they are.

    Raises:
      UserError: some are not a number, or infinite in float32.
    """
    if samples.dtype.kind != "f":
        return samples
    with np.errstate(over="ignore"):
        samples = samples.astype(np.float32, copy=False)
    if wrong := int((~np.isfinite(samples)).any(axis=-1).sum()):
        raise UserError(
            f"{path}: {wrong} pixels are not a number or infinite; expected finite numbers; "
            f"replace them, such as by 0"
        )
    return samples


def _alpha(page: Any) -> list[int]:
    """Returns the places of a page's alpha channels among its samples."""
    extra = page.extrasamples
    first = page.samplesperpixel - len(extra)
    return [first + i for i, kind in enumerate(extra) if kind in ALPHA]


def _opaque(page: Any, dtype: np.dtype) -> float:
    """Returns the alpha value of an opaque pixel."""
    if dtype.kind == "f":
        return 1.0
    if dtype.kind == "i":
        return np.iinfo(dtype).max
    bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
    return 255 if bits == 1 else 2**bits - 1
