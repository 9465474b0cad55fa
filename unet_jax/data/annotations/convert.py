"""Writes annotated images as a folder of images and masks, which `configs/folder.py` reads."""

import contextlib
import filecmp
import io
import os
import pathlib
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from unet_jax import IGNORED
from unet_jax.core.errors import UserError
from unet_jax.core.files import read_json, write_all, write_json
from unet_jax.core.progress import track
from unet_jax.data.annotations.registry import BACKGROUND, RECORD, Annotations, Labelled
from unet_jax.data.annotations.sources import refuse_malformed
from unet_jax.data.files.images import opened
from unet_jax.data.files.inputs import SUFFIXES
from unet_jax.data.files.pairs import is_junk
from unet_jax.data.labels.names import CLASSES, REST, VOID

IMAGES, MASKS = "images", "masks"
ORIENTATION = ExifTags.Base.Orientation


def convert(
    found: Annotations, output: pathlib.Path, made_from: Mapping[str, Any]
) -> dict[str, int | str]:
    """Writes `images/`, `masks/` and `classes.txt`.

    Images are hard links to the original files, or copies if links are impossible. Masks are PNG
    files of class ids: 0 for pixels of no object, 255 for ignored ones; or, if the areas are
    numbered, of their numbers from 1. Files that are already there with the same content are kept,
    so that rerunning the command resumes it.

    Args:
      found: the annotations; notes on their areas, and a fault for each image that could not be
        converted, are added to it.
      output: the folder, which must be new, empty, or made from the same source.
      made_from: what the folder is made from, as values for JSON.

    Returns:
      The mask value of each class, `*` if areas are numbered.

    Raises:
      UserError: there are no objects or too many classes, two images have the same name, or the
        folder has other files.
      OSError: a file cannot be written.
    """
    ids = _class_ids(found, made_from)
    _check_names(found.images)
    _claim(output, made_from, found)
    names = [f"{value} {name}\n" for name, value in ids.items()]
    _write(output / CLASSES, "".join(names).encode())
    for labelled in _tracked(found.images):
        try:
            _write_pair(labelled, ids, output, found)
        except UserError as error:
            found.faults.append(str(error))
            _remove_pair(output, labelled.name)
    return ids


def _tracked(images: Sequence[Labelled]) -> Iterator[Labelled]:
    progress = track(images, len(images), "converting", "images")
    with contextlib.closing(progress):  # removes the bar
        yield from progress


def _class_ids(found: Annotations, made_from: Mapping[str, Any]) -> dict[str, int | str]:
    """Returns the mask value of each class, `REST` for that of numbered areas."""
    labels = {shape.label for labelled in found.images for shape in labelled.shapes}
    if not labels - {BACKGROUND, VOID}:
        raise UserError(
            f"--root={made_from['root']}: has no object with an area and a class{_first(found)}; "
            f"check --root and --from"
        )
    names = dict.fromkeys(found.classes or sorted(labels))
    objects = [name for name in names if name not in (BACKGROUND, VOID)]
    if len(objects) >= IGNORED:
        raise UserError(
            f"--root={made_from['root']}: {len(objects)} classes; a mask can have at most "
            f"{IGNORED - 1} besides the background; merge some of them"
        )
    if found.numbered:
        return {BACKGROUND: 0, **dict.fromkeys(objects, REST)}
    return {BACKGROUND: 0, **{name: i for i, name in enumerate(objects, 1)}, VOID: IGNORED}


def _first(found: Annotations) -> str:
    """Returns the first fault for a message, or "" if there is none."""
    faults = found.faults
    return f" (the first of {len(faults)} errors: {faults[0]})" if faults else ""


def _check_names(images: Sequence[Labelled]) -> None:
    """Raises unless each image has a visible name of its own, on any file system."""
    first: dict[str, Labelled] = {}
    for labelled in images:
        key = unicodedata.normalize("NFC", labelled.name.casefold()).removesuffix("_mask")
        other = first.setdefault(key, labelled)
        if other is not labelled:
            raise UserError(
                f"{labelled.source}: two images would have the name {labelled.name!r} (the other "
                f"one is {other.name!r} of {other.source}); rename one of them, there too"
            )
        if is_junk(f"{labelled.name}.png"):
            raise UserError(
                f"{labelled.source}: the name {labelled.name!r} is that of a hidden file; rename "
                f"the image, there too"
            )


def _claim(output: pathlib.Path, made_from: Mapping[str, Any], found: Annotations) -> None:
    """Creates the output folder and its record, or checks those of an earlier call."""
    record = output / RECORD
    if record.exists():
        if read_json(record) != made_from:
            raise UserError(
                f"--output={output}: was made from other annotations or with other options, see "
                f"{RECORD} there; choose another folder"
            )
    elif output.exists() and (not output.is_dir() or _visible(output)):
        raise UserError(
            f"--output={output}: exists and is not a folder that this command made (it has no "
            f"{RECORD}); choose a new one"
        )
    names = {labelled.name for labelled in found.images}
    for part in (IMAGES, MASKS):
        for path in _visible(output / part) if (output / part).is_dir() else ():
            if path.stem not in names:
                raise UserError(
                    f"{path}: is not of these annotations{_first(found)}; delete it, or choose "
                    f"another --output"
                )
    output.mkdir(parents=True, exist_ok=True)
    write_json(record, made_from)  # before the folders, so that an interrupted call is recognised
    for part in (IMAGES, MASKS):
        (output / part).mkdir(exist_ok=True)


def _visible(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files of a folder but for hidden ones, such as those of an interrupted call."""
    return [path for path in sorted(folder.iterdir()) if not is_junk(path.name)]


def _write_pair(
    labelled: Labelled, ids: Mapping[str, int | str], output: pathlib.Path, found: Annotations
) -> None:
    """Writes the mask and the image of an annotated image."""
    with _image_file(labelled) as image:
        size, suffix = _read_header(labelled, image)
        mask = np.zeros(size, np.uint16 if found.numbered else np.uint8)
        for number, shape in enumerate(labelled.shapes):
            where = f"{labelled.source}: area {number} of {labelled.name}"
            with refuse_malformed(where, "an area of the image"):
                patch = shape.draw(size)
            if patch.clipped:
                found.note("areas are cut off at the edge of the image", where)
            if not patch.inside.any():
                found.note("areas contain the centre of no pixel", where)
            value = ids[shape.label]
            patch.paint(mask, value if isinstance(value, int) else number + 1)
        if not labelled.shapes:
            found.note("images without objects are background only", image)
        content = io.BytesIO()
        Image.fromarray(mask).save(content, "PNG")
        _write(output / MASKS / f"{labelled.name}.png", content.getvalue())
        _place_image(image, output / IMAGES / f"{labelled.name}{suffix}")


@contextlib.contextmanager
def _image_file(labelled: Labelled) -> Iterator[pathlib.Path]:
    """Yields the path of an image, of an embedded one that of a temporary file."""
    if isinstance(labelled.image, pathlib.Path):
        yield labelled.image
        return
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "embedded image")
        path.write_bytes(labelled.image())
        try:
            yield path
        except UserError as error:
            raise UserError(f"{labelled.source}: {error}".replace(f"{folder}/", "")) from None


def _read_header(labelled: Labelled, path: pathlib.Path) -> tuple[tuple[int, int], str]:
    """Returns the (height, width) of an image and the suffix of its file; raises if unsuitable."""
    with opened(path) as image:
        size, orientation = (image.height, image.width), image.getexif().get(ORIENTATION, 1)
        suffix = path.suffix or f".{(image.format or '').lower()}"
    if orientation != 1:
        raise UserError(
            f"{path}: EXIF orientation {orientation}, so that tools show the image rotated, and "
            f"the annotations are of the rotated one; save the image upright"
        )
    if labelled.size and labelled.size != size:
        stated, actual = (f"{width}x{height}" for height, width in (labelled.size, size))
        raise UserError(
            f"{labelled.source}: the annotations are of an image of {stated} pixels, width x "
            f"height, but {path} has {actual}; restore the image that was annotated"
        )
    if suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: expected an image {' '.join(SUFFIXES)}; rename or convert it")
    return size, suffix


def _place_image(source: pathlib.Path, target: pathlib.Path) -> None:
    """Makes the target a hard link to the source, or a copy of it; its bytes are the same."""
    if target.exists() and (target.samefile(source) or filecmp.cmp(source, target, shallow=False)):
        return
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source.resolve(), temporary)
        except OSError:  # another file system, one without links, or another user's file
            shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_pair(output: pathlib.Path, name: str) -> None:
    """Removes what an earlier call wrote for an image that cannot be converted any more."""
    for part in (IMAGES, MASKS):
        for path in (output / part).iterdir():
            if path.stem == name:
                path.unlink()


def _write(path: pathlib.Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        write_all({path: content})
