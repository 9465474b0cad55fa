"""What the images of a data set must have in common: their type, and the number of channels."""

from collections.abc import Sequence

from unet_jax.core.errors import UserError
from unet_jax.data.dataset import default_channel_names
from unet_jax.data.files.images import ImageFile
from unet_jax.data.files.orientation import UPRIGHT


def check_alike(images: Sequence[ImageFile]) -> None:
    """Checks that images have one type, and one number of channels; grey among RGB is accepted.

    Raises:
      UserError: two images differ; the message names both.
    """
    first = images[0]
    for image in images:
        if image.dtype != first.dtype:
            raise UserError(
                f"{image.path}: pixels of type {image.dtype}, but {first.path} has {first.dtype}; "
                f"convert all images to the same type"
            )
    others = [image for image in images if image.channels != first.channels]
    if others and {image.channels for image in images} != {1, 3}:
        other = others[0]
        raise UserError(
            f"{other.path}: {_count(other.channels)}, but {first.path} has {first.channels}; "
            f"convert it or leave it out (only grey images may be among others, RGB ones)"
        )


def channel_names(images: Sequence[ImageFile]) -> tuple[str, ...]:
    """Returns the names of the channels that all images with the most channels share.

    Args:
      images: images that `check_alike` accepts; those of the training split.
    """
    channels = max(image.channels for image in images)
    found = {image.channel_names for image in images if image.channels == channels}
    return next(iter(found)) if len(found) == 1 else default_channel_names(channels, is_rgb=False)


def image_notes(images: Sequence[ImageFile], names: Sequence[str]) -> list[str]:
    """Returns notes on how images are read, for the report.

    Args:
      images: distinct images that `check_alike` accepts.
      names: names of the channels of the data set.
    """
    notes = []
    if len(names) not in (1, 3) or tuple(names) != default_channel_names(len(names)):
        shown = ", ".join(names[:16]) + ", ..." * (len(names) > 16)
        notes.append(f"images have {_count(len(names))}: {shown}")
    if len({image.channels for image in images}) > 1:
        notes.append("both grey and RGB images: grey ones are read as RGB")
    turned = [image.path for image in images if image.orientation != UPRIGHT]
    if turned:
        notes.append(
            f"{turned[0]} ({_files(turned)}) has an EXIF or TIFF orientation; such images are read "
            f"upright, as viewers show them"
        )
    inverted = [image.path for image in images if image.white_is_zero]
    if inverted:
        notes.append(
            f"{inverted[0]} ({_files(inverted)}) says WhiteIsZero, so viewers show it inverted; "
            f"the stored values count"
        )
    rows = [image for image in images if image.is_page_a_row]
    if rows:
        height, width = rows[0].size
        notes.append(
            f"{rows[0].path} ({_files(rows)}) stores a page a row, as tifffile writes arrays "
            f"[H, W, C] without planarconfig='contig'; it is read as {height}x{width} pixels of "
            f"{_count(rows[0].channels)}"
        )
    return notes


def _count(channels: int) -> str:
    return f"{channels} channel{'s' * (channels != 1)}"


def _files(found: Sequence[object]) -> str:
    return f"{len(found)} image{'s' * (len(found) != 1)} in all"
