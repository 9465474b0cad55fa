"""LabelMe: a folder of JSON files, one per image, beside the images.

The image is the file that `imagePath` names or, if that is missing, the one embedded in the JSON
file. Polygons, rectangles, circles and masks are areas; lines and points have none and are left
out. Where areas overlap, the later one in the file counts. The label `_background_` is background,
and `__ignore__` is ignored. Classes are sorted by name.
"""

import base64
import functools
import io
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from unet_jax.core.errors import UserError
from unet_jax.core.files import read_json
from unet_jax.data.annotations.areas import Patch, fill_ellipse, fill_rings, place
from unet_jax.data.annotations.registry import (
    BACKGROUND,
    FORMATS,
    Annotations,
    Format,
    Labelled,
    Request,
    Shape,
    class_name,
)
from unet_jax.data.annotations.sources import (
    find_image,
    find_json,
    list_images,
    points,
    refuse_malformed,
)
from unet_jax.data.labels.names import VOID

SPECIAL = {"_background_": BACKGROUND, "__ignore__": VOID}
WITHOUT_AREA = ("line", "linestrip", "point", "points")


def read_labelme(request: Request) -> Annotations:
    """Reads a folder of LabelMe files, or one of them.

    Raises:
      UserError: there are none.
    """
    found = Annotations()
    for path in find_json(request):
        try:
            with refuse_malformed(path, "a LabelMe file"):
                found.images.append(_labelled(path, read_json(path), request, found))
        except UserError as error:
            found.faults.append(str(error))
    if request.root.is_dir():
        named = {path.stem for path in find_json(request)}
        named |= {x.image.stem for x in found.images if isinstance(x.image, pathlib.Path)}
        for image in list_images([request.images or request.folder]):
            if image.stem not in named:
                found.note("images without a JSON file are left out", image)
    return found


def _labelled(path: pathlib.Path, content: Any, request: Request, found: Annotations) -> Labelled:
    shapes = [
        shape
        for number, entry in enumerate(content["shapes"])
        if (shape := _shape(entry, f"{path}: shape {number}", found))
    ]
    height, width = content.get("imageHeight"), content.get("imageWidth")
    try:
        image = find_image([content["imagePath"]], request, path)
    except UserError:
        if not content.get("imageData"):
            raise
        image = functools.partial(_embedded_image, path)
    size = (int(height), int(width)) if height and width else None
    return Labelled(path, path.stem, image, size, shapes)


def _embedded_image(path: pathlib.Path) -> bytes:
    with refuse_malformed(path, "a LabelMe file with a complete imageData"):
        return base64.b64decode(read_json(path)["imageData"], validate=True)


def _shape(entry: Any, where: str, found: Annotations) -> Shape | None:
    """Returns a shape, or None if it has no area, which is noted."""
    kind = entry.get("shape_type") or "polygon"
    corners = points(entry["points"])
    if kind in WITHOUT_AREA or (kind == "polygon" and len(corners) < 3):
        found.note(f"shapes of the type {kind} without an area are left out", where)
        return None
    with refuse_malformed(where, "a shape of LabelMe"):
        label = class_name(entry["label"])
        if kind == "mask":
            draw = functools.partial(_place_mask, corners, entry["mask"])
        elif kind == "circle":
            centre, edge = corners
            radius = float(np.hypot(*(edge - centre)))
            draw = functools.partial(fill_ellipse, (centre[0], centre[1]), (radius, radius), 0.0)
        elif kind in ("polygon", "rectangle"):
            if kind == "rectangle" and len(corners) == 2:
                (x0, y0), (x1, y1) = corners
                corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
            draw = functools.partial(fill_rings, [corners])
        else:
            raise ValueError(f"the unknown shape_type {kind!r}")
    return Shape(SPECIAL.get(label, label), draw)


def _place_mask(corners: np.ndarray, encoded: str, size: tuple[int, int]) -> Patch:
    """Decodes a mask, whose first and last pixel the two corners name."""
    content = io.BytesIO(base64.b64decode(encoded))
    try:
        with Image.open(content, formats=["PNG"]) as image:
            inside = np.asarray(image.convert("L")) > 0
    except Exception as error:  # Pillow raises many types for damaged files
        raise ValueError(f"its mask is not a PNG image, or damaged: {error}") from None
    (left, top), (right, bottom) = corners.astype(np.int64).tolist()
    if inside.shape != (bottom - top + 1, right - left + 1):
        raise ValueError(f"a mask of {inside.shape} pixels, which its points do not enclose")
    return place(top, left, inside, size)


FORMATS.register("labelme")(Format(read_labelme, options=("images",)))
