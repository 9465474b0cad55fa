"""Pairs of image and mask files: matched by name, checked, made into a `Dataset`."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import operator
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from unet_jax.core.errors import UserError
from unet_jax.core.files import printable
from unet_jax.core.garbage import garbage_collection
from unet_jax.core.progress import track
from unet_jax.data.dataset import Dataset, Split, default_channel_names
from unet_jax.data.files.image_set import channel_names, check_alike, image_notes
from unet_jax.data.files.images import ImageFile, list_values, read_image, scan_image
from unet_jax.data.files.index import Stamp, current_index, stamped
from unet_jax.data.files.masks import MaskFile, read_mask, scan_mask
from unet_jax.data.files.orientation import UPRIGHT, upright, upright_size

JUNK = ("thumbs.db", "desktop.ini", "__macosx")  # in lower case; other systems hide such files
UNSPLIT = "data.split=(): no images are held out; the test images are the training images"

ToLabel = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Pair:
    """An image and its mask, which have the same size once both are upright."""

    name: str
    image: ImageFile
    mask: MaskFile
    # The image's orientation if the mask was drawn on the stored image and has none itself, else 1.
    mask_orientation: int = UPRIGHT

    def read_mask(self) -> np.ndarray:
        """Reads the mask as `masks.read_mask` does, turned like the image."""
        return upright(read_mask(self.mask.path, self.mask.stamp), self.mask_orientation)


def list_files(
    folder: pathlib.Path, pattern: str, expected: str, source: str
) -> dict[str, pathlib.Path]:
    """Lists the files of a folder by name.

    Hidden files and those of `is_junk` are ignored. Any other file that does not match is an error,
    since it might be a part of the data.

    Args:
      folder: the folder.
      pattern: regular expression of the whole file name; its first group captures the name.
      expected: description of the files, for error messages.
      source: how to get the data, for error messages.

    Returns:
      The files by name, sorted by name.

    Raises:
      UserError: there is no such folder, it is empty, a file does not match `pattern`, or two files
        have the same name.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {source}")
    files: dict[str, pathlib.Path] = {}
    form = re.compile(pattern)
    # Comparing names is much faster than comparing paths.
    for path in sorted(folder.iterdir(), key=operator.attrgetter("name")):
        file_name = path.name
        if is_junk(file_name):
            continue
        match = form.fullmatch(file_name)
        if not match:
            raise UserError(f"{path}: unexpected file; expected only {expected}; move it elsewhere")
        name = printable(match[1])
        if other := files.get(name):
            raise UserError(f"{path}: has the same name as {other.name}; keep only one of them")
        files[name] = path
    if not files:
        raise UserError(f"{folder}: is empty; expected {expected}; {source}")
    return dict(sorted(files.items()))


def is_junk(file_name: str) -> bool:
    """Returns whether an operating system or a GIS program creates a file of this name."""
    name = file_name.casefold()
    return name.startswith(".") or name in JUNK or name.endswith(".aux.xml")


def match_files(
    images: Mapping[str, pathlib.Path], masks: Mapping[str, pathlib.Path]
) -> dict[str, tuple[pathlib.Path, pathlib.Path]]:
    """Returns the image and the mask of each name.

    Raises:
      UserError: an image has no mask, or a mask has no image.
    """
    for files, others, missing in ((images, masks, "mask"), (masks, images, "image")):
        unmatched = [path for name, path in files.items() if name not in others]
        if unmatched:
            folder = next(iter(others.values())).parent
            more = f" (nor do {len(unmatched) - 1} others)" if len(unmatched) > 1 else ""
            raise UserError(
                f"{unmatched[0]}: has no {missing} in {folder}{more}; add what is missing "
                f"there, or move these files elsewhere"
            )
    return {name: (images[name], masks[name]) for name in images}


def scan_pairs(files: Mapping[str, tuple[pathlib.Path, pathlib.Path]]) -> list[Pair]:
    """Checks that all images and masks can be read and fit each other.

    Files that `current_index` has are not read; the others are decoded, and added to it.

    Args:
      files: image and mask of each name.

    Returns:
      The pairs, in the order of `files`.

    Raises:
      UserError: a file cannot be read, an image and its mask differ in size, it is unknown whether
        a mask was drawn on the upright image, or two images differ in type or channels.
    """
    index, pairs = current_index(), []
    found = [
        *zip(
            index.find((image for image, _ in files.values()), ImageFile),
            index.find((mask for _, mask in files.values()), MaskFile),
            strict=True,
        )
    ]
    missing = [
        (*paths, *known)
        for paths, known in zip(files.values(), found, strict=True)
        if None in known
    ]
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    results = pool.map(_check_files, *zip(*missing, strict=True)) if missing else iter(())
    checked = track(results, len(missing), "checking", "images and masks")
    try:
        # Decoders make reference cycles that hold pixels.
        with garbage_collection(True) if missing else contextlib.nullcontext():
            for name, (image, mask) in zip(files, found, strict=True):
                if image is None or mask is None:
                    image, mask = next(checked)
                    index.add(image, mask)
                pairs.append(Pair(name, image, mask, _mask_orientation(image, mask)))
    finally:
        checked.close()
        pool.shutdown(cancel_futures=True)  # without this, Ctrl-C would wait for all files
    if pairs:
        check_alike([pair.image for pair in pairs])
    return pairs


def check_binary(masks: Iterable[MaskFile], meaning: str) -> None:
    """Checks that masks have two classes.

    Args:
      masks: the masks.
      meaning: what the upper value means, for error messages.

    Raises:
      UserError: a mask has values other than 0 and 255, or 0 and 1; or all masks are 0 everywhere.
    """
    empty = True
    for mask in masks:
        allowed = ({0, 255},) if mask.lossy else ({0, 255}, {0, 1})
        if mask.colours or not any(set(mask.values) <= values for values in allowed):
            found = "RGB colours" if mask.colours else f"values {list_values(mask.values)}"
            raise UserError(
                f"{mask.path}: {found}; expected 0 and 255 (or 1), {meaning}; download it "
                f"again, or save it without smoothed edges"
            )
        empty = empty and mask.values == (0,)
    if empty:
        raise UserError(f"{mask.path}: 0 everywhere, like all other masks; expected {meaning}")


def binary_label(mask: np.ndarray) -> np.ndarray:
    """Maps a mask [H, W] to classes, uint8 [H, W]: 0 stays 0, any other value becomes 1."""
    return (mask > 0).astype(np.uint8)


def make_dataset(
    parts: Mapping[str, Sequence[Pair]],
    classes: Sequence[str],
    to_label: ToLabel,
    notes: Sequence[str] = (),
    channels: int = 0,
    *,
    to_instances: ToLabel | None = None,
    border: int = 0,
) -> Dataset:
    """Makes a data set of checked pairs.

    If any image has colours, grey images are read with three channels too.

    Args:
      parts: the pairs of each split.
      classes: names of the classes.
      to_label: picklable function that maps a mask to classes, uint8 [H, W].
      notes: lines for the report.
      channels: number of channels with which images are read; 0: that of the images.
      to_instances: maps a mask to the ids of its objects, int32 [H, W], 0 = none, if it has them.
      border: see `Dataset.border`.

    Returns:
      The data set, which reads the files on access.
    """
    images = {pair.image.path: pair.image for pairs in parts.values() for pair in pairs}
    channels = channels or max(image.channels for image in images.values())
    names = channel_names([pair.image for pair in parts["train"]] or [*images.values()])
    if len(names) != channels:  # all training images are grey, and others are RGB
        names = default_channel_names(channels)
    turned = {p.mask.path for pairs in parts.values() for p in pairs if p.mask_orientation != 1}
    notes = [*notes, *image_notes([images[path] for path in sorted(images)], names)]
    if turned:
        notes.append(
            f"{min(turned)} (one mask of {len(turned)}) has no orientation, but the stored size of "
            f"its image; such masks are turned like their images"
        )
    if parts["train"] == parts["test"]:
        notes = [*notes, UNSPLIT]
    return Dataset(
        splits={
            part: Split(
                names=tuple(pair.name for pair in pairs),
                sizes=tuple(pair.image.size for pair in pairs),
                read=functools.partial(
                    _read_pair,
                    [(p.image.path, p.image.stamp, *_mask_of(p)) for p in pairs],
                    channels,
                    to_label,
                ),
                pixel_sizes=_pixel_sizes(pairs),
                instances=functools.partial(_read_instances, pairs, to_instances)
                if to_instances
                else None,
            )
            for part, pairs in parts.items()
        },
        classes=tuple(classes),
        channels=channels,
        sha256={part: hash_pairs(pairs) for part, pairs in parts.items() if pairs},
        notes=tuple(notes),
        channel_names=names,
        border=border,
    )


def _pixel_sizes(pairs: Sequence[Pair]) -> tuple[tuple[float, float], ...]:
    """Returns the pixel size of each image; () if an image states none."""
    sizes = [(size[0], size[1]) for pair in pairs if (size := pair.image.pixel_size)]
    return tuple(sizes) if len(sizes) == len(pairs) else ()


def hash_pairs(pairs: Iterable[Pair]) -> str:
    """Returns one SHA-256 hash of the names and contents of all files."""
    lines = [f"{f.path.name} {f.sha256}\n" for pair in pairs for f in (pair.image, pair.mask)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _check_files(
    image_path: pathlib.Path,
    mask_path: pathlib.Path,
    image: ImageFile | None,
    mask: MaskFile | None,
) -> tuple[ImageFile, MaskFile]:
    """Checks an image and its mask, except what is known from an earlier check."""
    for path in (image_path, mask_path):
        if not path.is_file():  # opening a named pipe would wait for its writer
            raise UserError(f"{path}: is not a regular file; move it elsewhere")
    return image or stamped(scan_image, image_path), mask or stamped(scan_mask, mask_path)


def _mask_orientation(image: ImageFile, mask: MaskFile) -> int:
    """Returns the orientation to apply to a mask beyond its own; see `Pair`.

    Raises:
      UserError: the sizes differ, or the mask may belong to the upright or to the stored image.
    """
    is_upright = image.size == mask.size
    if image.orientation == UPRIGHT or mask.orientation != UPRIGHT:
        is_stored = False
    else:
        is_stored = upright_size(mask.size, image.orientation) == image.size
    if is_upright and is_stored:
        raise UserError(
            f"{image.path}: EXIF orientation {image.orientation}, so it is unknown whether the "
            f"mask was drawn on the rotated image; save the image upright"
        )
    if not is_upright and not is_stored:
        rotated = image.orientation != UPRIGHT
        hint = f" (it has EXIF orientation {image.orientation})" if rotated else ""
        raise UserError(
            f"{mask.path}: {_shape(mask.size)}, but {image.path} has {_shape(image.size)}{hint}; "
            f"a mask must have the size of its image (height x width)"
        )
    return image.orientation if is_stored else UPRIGHT


def _mask_of(pair: Pair) -> tuple[pathlib.Path, Stamp | None, int]:
    return pair.mask.path, pair.mask.stamp, pair.mask_orientation


def _read_pair(
    files: Sequence[tuple[pathlib.Path, Stamp | None, pathlib.Path, Stamp | None, int]],
    channels: int,
    to_label: ToLabel,
    index: int,
) -> tuple[np.ndarray, np.ndarray]:
    image, image_stamp, mask, mask_stamp, orientation = files[index]
    pixels = read_image(image, channels, image_stamp)
    label = to_label(upright(read_mask(mask, mask_stamp), orientation))
    return pixels, np.ascontiguousarray(label)


def _read_instances(pairs: Sequence[Pair], to_instances: ToLabel, index: int) -> np.ndarray:
    return np.ascontiguousarray(to_instances(pairs[index].read_mask()))


def _shape(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
