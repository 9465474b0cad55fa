"""Turns images as viewers show them: the EXIF orientation of JPEG and PNG, and TIFF's own tag.

An orientation is 1, upright, or 2 to 8, mirrored or rotated (TIFF 6.0, p. 36; EXIF takes it over).
"""

import pathlib
import warnings

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin

UPRIGHT = 1
LATE_CHUNKS = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")  # PNG chunks that may hold an orientation

# A camera's damaged EXIF data is no reason to warn: viewers show such images as they are stored.
warnings.filterwarnings("ignore", "Corrupt EXIF data")


def known_orientation(value: object) -> int:
    """Returns an orientation from a file; any malformed value counts as 1, as in viewers."""
    return value if isinstance(value, int) and 1 <= value <= 8 else UPRIGHT


def orientation_of(image: Image.Image, path: pathlib.Path) -> int:
    """Returns the EXIF orientation of an image that Pillow has opened.

    Args:
      image: the image; it is decoded only if the orientation may come after the pixels.
      path: its file.
    """
    is_png = isinstance(image, PngImagePlugin.PngImageFile)
    if is_png and image.tile and "exif" not in image.info and _ends_with_metadata(path):
        image.load()
    try:
        # The method of `PngImageFile` would decode the pixels to look for EXIF data after them.
        return known_orientation(Image.Image.getexif(image).get(ExifTags.Base.Orientation))
    except Exception:  # Pillow raises many types for malformed EXIF data
        return UPRIGHT


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns an image [H, W, ...] that is stored in an orientation; returns a view of it."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return pixels[::rows, ::columns]


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Returns the height and width of an image once it is upright, from its stored ones."""
    return size[::-1] if orientation >= 5 else size


def _ends_with_metadata(path: pathlib.Path) -> bool:
    """Whether a PNG has chunks after its pixels that may hold an orientation."""
    after = False
    with open(path, "rb") as file:
        file.seek(8)
        while len(header := file.read(8)) == 8:
            after = after or header[4:] == b"IDAT"
            if after and header[4:] in LATE_CHUNKS:
                return True
            file.seek(int.from_bytes(header[:4]) + 4, 1)
    return False
