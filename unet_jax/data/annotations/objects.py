"""One mask file per object, as in the 2018 Data Science Bowl.

`--root` has a folder for each image, with the image in `NAME/images/` and the masks of its objects
in `NAME/masks/`. Any value but 0 is the object. All objects become one class, `object`; the masks
number them from 1 in each image, so that metrics can tell touching ones from one another.
"""

import functools
import pathlib

from unet_jax.core.errors import UserError
from unet_jax.data.annotations.areas import Patch, Size, place
from unet_jax.data.annotations.registry import (
    FORMATS,
    RECORD,
    Annotations,
    Format,
    Labelled,
    Request,
    Shape,
)
from unet_jax.data.annotations.sources import list_images
from unet_jax.data.files.masks import read_mask

LABEL = "object"
LAYOUT = "expected NAME/images/ with one image and NAME/masks/ with a mask for each object"


def read_objects(request: Request) -> Annotations:
    """Reads a folder of images with one mask file per object.

    Raises:
      UserError: it has no folders with `images/`.
    """
    root = request.root
    folders = [
        path
        for path in sorted(root.glob("*"))
        if (path / "images").is_dir() and not (path / RECORD).exists()
    ]
    if not folders:
        raise UserError(f"--root={root}: no folder in it has images/; {LAYOUT}")
    found = Annotations(classes=(LABEL,), numbered=True)
    for folder in folders:
        images = list_images([folder / "images"])
        if len(images) != 1 or not (folder / "masks").is_dir():
            masks = "masks/" if (folder / "masks").is_dir() else "no masks/"
            found.faults.append(f"{folder}: has {len(images)} images and {masks}; {LAYOUT}")
            continue
        masks = list_images([folder / "masks"])
        shapes = [Shape(LABEL, functools.partial(_read_object, mask)) for mask in masks]
        found.images.append(Labelled(folder, folder.name, images[0], None, shapes))
    return found


def _read_object(path: pathlib.Path, size: Size) -> Patch:
    inside = read_mask(path) != 0
    inside = inside.any(axis=2) if inside.ndim == 3 else inside
    if inside.shape != size:
        raise UserError(
            f"{path}: height and width {inside.shape}, but the image has {size}; save the mask in "
            f"the image's size"
        )
    return place(0, 0, inside, size)


FORMATS.register("objects")(Format(read_objects))
