"""Reads mask files: every value as it is stored, or a one-line error.

The stored value counts. How a viewer would show it does not: a TIFF file is not inverted because
it says WhiteIsZero. Bits (boolean files) are 0 and 255, so that True is the foreground. Whole
numbers of any type are values.
"""

import dataclasses
import pathlib
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import Image

from unet_jax.core.errors import UserError
from unet_jax.data.files.images import (
    LOSSY,
    check_pixels,
    decode,
    hash_file,
    list_colours,
    opened,
    pack_colours,
    read_checked,
)
from unet_jax.data.files.index import CheckedFile, Stamp
from unet_jax.data.files.layout import find_layout
from unet_jax.data.files.orientation import UPRIGHT, orientation_of, upright
from unet_jax.data.files.stored import (
    LOSSY_TIFF,
    check_page,
    check_single,
    orientation_of_page,
    read_page,
    read_planes,
)
from unet_jax.data.files.tiff import begins_as_tiff, open_tiff

MAX_COLOURS = 64  # a mask with more colours does not encode classes
MAX_VALUES = 2**16  # a mask with more values does not encode classes or objects


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskFile(CheckedFile):
    """The size and the values of a mask, read by decoding it."""

    size: tuple[int, int]  # height and width of the upright mask, pixels
    values: tuple[int, ...]  # the distinct values, sorted; colours as 0xRRGGBB
    counts: tuple[int, ...]  # number of pixels of each value
    palette: tuple[int, ...]  # colours of the values as 0xRRGGBB; () without a palette
    colours: bool  # whether each pixel stores a colour
    lossy: bool  # whether the file is compressed as JPEG, which changes values
    white_is_zero: bool  # whether the file says that viewers show 0 as white
    orientation: int = UPRIGHT  # EXIF or TIFF; any but 1 was applied


@dataclasses.dataclass(frozen=True)
class _Mask:
    pixels: np.ndarray  # uint8 or int64 [H, W], or colours, uint8 [H, W, 3]
    palette: np.ndarray | None  # colours, uint8 [N, 3], if the pixels are their indices
    lossy: bool
    orientation: int
    white_is_zero: bool = False


def read_mask(path: pathlib.Path, checked: Stamp | None = None) -> np.ndarray:
    """Reads a mask, upright.

    Args:
      path: the file.
      checked: the stamp that the file had when it was checked, as for `read_image`.

    Returns:
      The stored values, [H, W]: uint8 if all of them are in 0..255, otherwise int64; or colours,
      uint8 [H, W, 3]. Bits are 0 and 255. A palette mask gives its indices. If all colours of the
      palette are grey it gives the grey values, because writers number grey palettes arbitrarily.

    Raises:
      UserError: the file is damaged or cannot be a mask.
    """
    return read_checked(_read_mask, path, checked).pixels


def scan_mask(path: pathlib.Path) -> MaskFile:
    """Decodes a mask and lists its values.

    Raises:
      UserError: `read_mask` fails, or the mask has more than `MAX_COLOURS` colours that are not
        grey, or more than `MAX_VALUES` values.
    """
    mask = _read_mask(path, verify=True)
    height, width, *channels = mask.pixels.shape
    if not channels and mask.pixels.dtype == np.uint8:
        histogram = np.array(Image.fromarray(mask.pixels).histogram())  # faster than numpy
        values = np.flatnonzero(histogram)
        counts = histogram[values]
    else:
        packed = pack_colours(mask.pixels) if channels else mask.pixels
        values, counts = np.unique(packed, return_counts=True)
    if channels and len(values) > MAX_COLOURS and (values != (values & 0xFF) * 0x010101).any():
        hint = "JPEG changes colours, so save it as PNG" if mask.lossy else "without smoothed edges"
        raise UserError(
            f"{path}: {len(values)} colours ({list_colours(values)}); expected at most "
            f"{MAX_COLOURS}, one per class; check that it is a mask, {hint}"
        )
    if len(values) > MAX_VALUES:
        raise UserError(
            f"{path}: {len(values)} different values, from {values[0]} to {values[-1]}; expected "
            f"the number of a class or an object in each pixel; check that it is a mask"
        )
    palette = mask.palette
    return MaskFile(
        path=path,
        size=(height, width),
        values=tuple(values.tolist()),
        counts=tuple(counts.tolist()),
        palette=() if palette is None else tuple(pack_colours(palette[values]).tolist()),
        colours=bool(channels),
        lossy=mask.lossy,
        white_is_zero=mask.white_is_zero,
        orientation=mask.orientation,
        sha256=hash_file(path),
    )


def _read_mask(path: pathlib.Path, verify: bool) -> _Mask:
    """Reads a mask; `verify` checks the file for damage."""
    mask = _read_tiff(path, verify) if begins_as_tiff(path) else _read_other(path, verify)
    pixels, palette = mask.pixels, mask.palette
    if palette is not None:
        # Some writers omit palette entries and mean class ids: by default a grey is its id.
        whole = np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1)
        whole[: len(palette)] = palette
        palette = whole
        if (palette == palette[:, :1]).all():
            # faster than indexing
            pixels, palette = cv2.LUT(pixels.astype(np.uint8), palette[:, 0].copy()), None
    pixels = upright(_whole(pixels, path), mask.orientation)
    return dataclasses.replace(mask, pixels=np.ascontiguousarray(pixels), palette=palette)


def _read_other(path: pathlib.Path, verify: bool) -> _Mask:
    """Reads a mask of any format but TIFF."""
    with opened(path, verify) as image:
        if verify:
            check_pixels(image, path)
        palette = np.reshape(image.getpalette() or [], (-1, 3)) if image.mode == "P" else None
        pixels = decode(image, path)
        return _Mask(pixels, palette, image.format in LOSSY, orientation_of(image, path))


def _read_tiff(path: pathlib.Path, verify: bool) -> _Mask:
    """Reads a TIFF mask with tifffile, since Pillow inverts WhiteIsZero and lacks most types."""
    with open_tiff(path, verify) as file:
        page: Any = file.pages.first
        layout = find_layout(file)
        check_single(layout, page, path)
        check_page(page, path)
        if layout.axes:
            raise UserError(f"{path}: contains {layout.describe()}; expected one mask per file")
        planes = read_planes(file, layout).reshape(layout.shape) if layout.shape else None
        pixels = read_page(page) if planes is None else planes
        lossy, orientation = page.compression in LOSSY_TIFF, orientation_of_page(page)
        inverted = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
        palette = None
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
            pixels, palette = pixels[..., :1].astype(np.uint8), (page.colormap >> 8).T
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.shape[2] in (2, 4) and pixels.dtype.kind == "u":
        if pixels[..., -1].min() < np.iinfo(pixels.dtype).max:
            raise UserError(f"{path}: partly transparent; save it again without an alpha channel")
        pixels = pixels[..., :-1]
    if pixels.shape[2] not in (1, 3):
        raise UserError(
            f"{path}: {pixels.shape[2]} channels; expected grey, RGB or palette colours"
        )
    pixels = pixels[..., 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels)
    return _Mask(pixels, palette, lossy, orientation, inverted)


def _whole(pixels: np.ndarray, path: pathlib.Path) -> np.ndarray:
    """Returns values as uint8 or int64; raises a `UserError` unless they are whole numbers."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind not in "iuf":
        raise UserError(f"{path}: values of type {pixels.dtype}; expected whole numbers")
    if pixels.dtype.kind == "f":
        pixels = pixels.astype(np.float64)
        wrong = pixels[~(np.abs(pixels) < 2**53) | (pixels != np.trunc(pixels))]
        if wrong.size:
            raise UserError(
                f"{path}: values such as {wrong[0]:.6g}; expected the whole number of a class in "
                f"each pixel; convert probabilities to classes first"
            )
    low, high = int(pixels.min()), int(pixels.max())
    if pixels.ndim == 3 and not 0 <= low <= high <= 255:
        raise UserError(f"{path}: RGB colours up to {high}; expected 8 bits per channel")
    if high >= 2**63:
        raise UserError(f"{path}: values up to {high}; expected at most {2**63 - 1}")
    return pixels.astype(np.uint8 if 0 <= low and high <= 255 else np.int64)
