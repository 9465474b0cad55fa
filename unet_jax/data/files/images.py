"""Reads image files: either every pixel as stored, or a one-line error."""

import contextlib
import dataclasses
import hashlib
import pathlib
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import imagecodecs
import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from unet_jax.core.errors import UserError
from unet_jax.data.dataset import default_channel_names
from unet_jax.data.files.index import CheckedFile, Stamp, stamp_of
from unet_jax.data.files.layout import find_layout
from unet_jax.data.files.orientation import orientation_of, upright, upright_size
from unet_jax.data.files.pixel_size import PixelSize
from unet_jax.data.files.stored import (
    Picture,
    check_single,
    orientation_of_page,
    read_tiff_image,
)
from unet_jax.data.files.tiff import begins_as_tiff, open_tiff

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF")
PILLOW_FORMATS = ("PNG", "JPEG", "BMP", "GIF")  # tifffile reads the others
LOSSY = ("JPEG", "MPO")
GREY, COLOUR = ("1", "L", "LA", "I;16", "I;16B", "I;16L"), ("P", "RGB", "RGBA")  # Pillow's modes
RUN_LENGTH = (1, 2)  # compressions of BMP; of truncated rows Pillow fills the rest with 0

# Pillow only warns about images of up to twice its pixel limit; this refuses them too.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFile(CheckedFile):
    """What an image file has, found by decoding it."""

    size: tuple[int, int]  # height and width of the upright image, pixels
    channels: int
    dtype: str  # name of the type that `read_image` returns
    orientation: int  # EXIF or TIFF; any but 1 was applied
    channel_names: tuple[str, ...]
    white_is_zero: bool  # whether the file says that viewers show 0 as white
    is_page_a_row: bool  # whether a TIFF stores each row of the image as a page
    pixel_size: PixelSize  # of the upright image


def read_image(path: pathlib.Path, channels: int, checked: Stamp | None = None) -> np.ndarray:
    """Reads the pixels of an image, upright and otherwise as they are stored.

    Palette images are converted to RGB. A TIFF file is not inverted because it says WhiteIsZero.

    Args:
      path: the file.
      channels: number of channels; an image of one channel is repeated to 3 channels.
      checked: the stamp that the file had when it was checked. While it has that stamp, it is read
        without the checks for damage.

    Returns:
      The pixels, [H, W, channels], of the file's type: an integer type of 8, 16 or 32 bits, or
      float32, also for float16 and float64. Bits are 0 and 255. The array may be read-only.

    Raises:
      UserError: the file is damaged or partly transparent, its type is not supported, it has
        several images, or another number of channels.
    """
    pixels = read_checked(_read_image, path, checked).pixels
    found = pixels.shape[2]
    if found == channels:  # `repeat` would take as long as decoding
        return np.ascontiguousarray(pixels)
    check_channels(path, found, channels)
    return np.repeat(pixels, channels, axis=2)


def check_channels(path: pathlib.Path, found: int, channels: int) -> None:
    """Raises a `UserError` unless `found` channels are `channels`, or 1 that is repeated to 3."""
    if found != channels and (found, channels) != (1, 3):
        raise UserError(
            f"{path}: {found} channel{'s' * (found != 1)}; the training images have {channels}; "
            f"convert it to {channels}"
        )


def scan_image(path: pathlib.Path) -> ImageFile:
    """Decodes an image to check it, and describes it.

    Raises:
      UserError: `read_image` fails with the image's own number of channels.
    """
    found = _read_image(path, verify=True)
    height, width, channels = found.pixels.shape
    return ImageFile(
        path=path,
        size=(height, width),
        channels=channels,
        dtype=found.pixels.dtype.name,
        orientation=found.orientation,
        channel_names=found.names,
        white_is_zero=found.white_is_zero,
        is_page_a_row=found.is_page_a_row,
        pixel_size=found.pixel_size,
        sha256=hash_file(path),
    )


def scan_size(path: pathlib.Path) -> tuple[int, int]:
    """Reads the height and width in pixels of an upright image from its header.

    Raises:
      UserError: the file is damaged or its format is not supported.
    """
    if begins_as_tiff(path):
        with open_tiff(path) as file:
            layout, page = find_layout(file), file.pages.first
            check_single(layout, page, path)
            height, width, *_ = layout.shape or (page.imagelength, page.imagewidth)
            return upright_size((height, width), orientation_of_page(page))
    with opened(path) as image:
        return upright_size((image.height, image.width), orientation_of(image, path))


def pack_colours(colours: np.ndarray) -> np.ndarray:
    """Converts colours, uint8 [..., 3], to numbers 0xRRGGBB, uint32 [...]."""
    red, green, blue = np.moveaxis(colours.astype(np.uint32), -1, 0)
    return red << 16 | green << 8 | blue


def list_values(values: Sequence[int] | np.ndarray) -> str:
    """Formats up to eight values for a message."""
    shown = ", ".join(str(value) for value in values[:8])
    return f"{shown}, ... ({len(values)} values)" if len(values) > 8 else shown


def list_colours(values: Sequence[int] | np.ndarray) -> str:
    """Formats up to four colours 0xRRGGBB for a message."""
    return ", ".join(f"#{value:06x}" for value in values[:4]) + ", ..." * (len(values) > 4)


def read_checked(
    read: Callable[[pathlib.Path, bool], T], path: pathlib.Path, checked: Stamp | None
) -> T:
    """Reads a file, with the checks for damage unless it has the stamp `checked`.

    Args:
      read: reads a file; its second argument says whether to check it for damage.
      path: the file.
      checked: the stamp that the file had when it was checked.

    Returns:
      What `read` returns.
    """
    if checked is not None and stamp_of(path) == checked:
        found = read(path, False)
        if stamp_of(path) == checked:  # else it was replaced while it was read
            return found
    return read(path, True)


@contextlib.contextmanager
def opened(path: pathlib.Path, verify: bool = True) -> Iterator[Image.Image]:
    """Opens an image without decoding it; any error within the context becomes a `UserError`.

    Args:
      path: the file.
      verify: whether to refuse kinds of images that Pillow cannot read reliably.
    """
    try:
        with Image.open(path, formats=PILLOW_FORMATS) as image:
            if verify:
                _check_kind(image, path)
            yield image
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{path}: not a {', '.join(FORMATS)} image, or damaged") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UserError(
            f"{path}: more than {Image.MAX_IMAGE_PIXELS} pixels; cut it into smaller images"
        ) from None
    except Exception as error:  # Pillow raises many types for damaged files
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"{path}: cannot be read ({reason}); download or save it again") from None


def _check_kind(image: Image.Image, path: pathlib.Path) -> None:
    """Raises a `UserError` for an image that Pillow cannot read reliably."""
    if image.mode not in GREY + COLOUR:
        raise UserError(
            f"{path}: pixels of type {image.mode}; expected grey, RGB or palette colours; convert "
            f"it"
        )
    # `n_frames` is not used, since counting the frames may take minutes.
    stack = getattr(image, "is_animated", False)
    if stack and image.format != "MPO":  # MPO is a camera's JPEG followed by a preview
        raise UserError(f"{path}: contains several images; expected one per file")
    if image.format == "BMP" and image.info.get("compression") in RUN_LENGTH:
        raise UserError(
            f"{path}: a BMP with run-length encoding, in which Pillow does not detect missing "
            f"data; save it as PNG"
        )
    if image.format == "BMP" and _is_misread(image.mode, path):
        raise UserError(
            f"{path}: a BMP whose palette does not match its bits per pixel, which Pillow "
            f"misreads; save it as PNG"
        )


def _read_image(path: pathlib.Path, verify: bool) -> Picture:
    """Reads an image; `verify` checks the file for damage."""
    if begins_as_tiff(path):
        return read_tiff_image(path, verify)
    with opened(path, verify) as image:
        if verify:
            check_pixels(image, path)
        if image.mode == "P" and verify:
            palette_size = len(image.getpalette() or []) // 3
            if np.asarray(image).max() >= palette_size:
                raise UserError(
                    f"{path}: colours beyond its palette of {palette_size}; save it again"
                )
        if image.mode == "P":
            transparent = "transparency" in image.info
            pixels = decode(image.convert("RGBA" if transparent else "RGB"), path)
        else:
            pixels = decode(image, path)
        orientation = orientation_of(image, path)  # after decoding, when Pillow knows all metadata
        pixels = upright(np.atleast_3d(pixels), orientation)
        return Picture(pixels, default_channel_names(pixels.shape[2]), orientation)


def check_pixels(image: Any, path: pathlib.Path) -> None:
    """Decodes an image that Pillow has opened, and checks that no pixel is missing or changed.

    Pillow accepts some such images.

    Args:
      image: the image.
      path: its file.

    Raises:
      UserError: a part of the file cannot be read.
      ValueError: pixels are missing or changed.
    """
    if _is_16bit(image) and image.mode in COLOUR:
        return  # `decode` uses another library for these
    if image.size != tuple(np.max([tile.extents[2:] for tile in image.tile], axis=0)):
        raise ValueError("the image data is truncated")
    image.load()
    if image.format == "PNG":
        content = path.read_bytes()
        _check_png(content)
        # Pillow leaves missing pixels 0, while libpng raises an error. Without interlacing only an
        # image whose last row is 0 can have missing pixels.
        last = np.asarray(image.crop((0, image.height - 1, *image.size)))
        if "interlace" in image.info or not last.any():
            _decode_png(content)


def _check_png(content: bytes) -> None:
    """Raises a `ValueError` for wrong checksums and headers; Pillow accepts some of them."""
    offset, kind = 8, b""
    while kind != b"IEND":
        size, kind = int.from_bytes(content[offset : offset + 4]), content[offset + 4 : offset + 8]
        end = offset + 8 + size
        checksum = int.from_bytes(content[end : end + 4])
        if not kind or zlib.crc32(content[offset + 4 : end]) != checksum:
            raise ValueError(f"truncated or changed at byte {offset}")
        if (kind == b"IHDR") != (offset == 8):
            raise ValueError("the header is misplaced or repeated")
        offset = end + 4


def decode(image: Image.Image, path: pathlib.Path) -> np.ndarray:
    """Returns the pixels of an image that Pillow has opened.

    Args:
      image: the image.
      path: its file.

    Returns:
      Grey values or palette indices [H, W], or colours [H, W, 3], without alpha. Bits are 0 and
      255.

    Raises:
      UserError: the image is partly transparent.
    """
    if _is_16bit(image) and image.mode in COLOUR:  # Pillow would drop the lower 8 bits
        pixels = _decode_png(path.read_bytes())
    else:
        pixels = np.asarray(image)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        if pixels[..., -1].min() < np.iinfo(pixels.dtype).max:
            raise UserError(f"{path}: partly transparent; save it again without an alpha channel")
        pixels = pixels[..., :-1]
    return pixels[..., 0] if pixels.shape[2:] == (1,) else pixels


def _is_16bit(image: Image.Image) -> bool:
    """Whether a channel has more than 8 bits; for colours Pillow's mode is the same for both."""
    return isinstance(image, PngImagePlugin.PngImageFile) and ";16" in str(image.tile)


def _is_misread(mode: str, path: pathlib.Path) -> bool:
    """Whether Pillow derives a wrong number of bits per pixel (1 or 8) from a BMP's palette."""
    with open(path, "rb") as file:
        bits = int.from_bytes(file.read(30)[28:], "little")
    return bits != {"1": 1, "L": 8}.get(mode, bits)


def _decode_png(content: bytes) -> np.ndarray:
    try:
        return imagecodecs.png_decode(content)
    except Exception:  # its message may contain arbitrary bytes of memory
        raise ValueError("libpng reports damage or missing pixels") from None


def hash_file(path: pathlib.Path) -> str:
    """Returns the SHA-256 hash of a file as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
