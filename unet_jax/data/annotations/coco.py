"""COCO: one JSON file with all annotations, and a folder of images.

`--root` is the JSON file, or the folder that contains it; images are looked for beside it, in
`images/` there, and with --images in that folder alone. Segmentations are polygons, of which an
annotation may have several, or RLE, compressed or not. Annotations without one (boxes) are left
out. Where areas overlap, the later one in the file counts. All `categories` are classes, in the
order of their ids; one with the name `ignored` is ignored. A crowd (`iscrowd`) is of its category,
because many tools mark every RLE as a crowd; with --crowd=ignored its pixels are ignored, unless
another annotation covers them.
"""

import functools
import pathlib
from typing import Any

import numpy as np

from unet_jax.core.errors import UserError
from unet_jax.core.files import read_json
from unet_jax.data.annotations.areas import Patch, Size, fill_rings, place
from unet_jax.data.annotations.registry import (
    FORMATS,
    Annotations,
    Format,
    Labelled,
    Request,
    Shape,
    class_name,
)
from unet_jax.data.annotations.sources import find_image, find_one_json, points, refuse_malformed
from unet_jax.data.labels.names import VOID


def read_coco(request: Request) -> Annotations:
    """Reads a COCO file.

    Raises:
      UserError: there is none or several, or it is not a COCO file.
    """
    path = find_one_json(request)
    content, form = read_json(path), "a COCO file"
    with refuse_malformed(path, form):
        categories = {
            entry["id"]: class_name(entry["name"])
            for entry in sorted(content["categories"], key=lambda entry: entry["id"])
        }
        images: dict[Any, Any] = {}
        for entry in content["images"]:
            if images.setdefault(entry["id"], entry) is not entry:
                raise ValueError(f"two images with the id {entry['id']}")
        annotations: dict[Any, list[Any]] = {key: [] for key in images}
        for entry in content["annotations"]:
            annotations[entry["image_id"]].append(entry)
    found = Annotations(classes=tuple(categories.values()))
    for key, entry in images.items():
        where = f"{path}: image {key}"
        try:
            with refuse_malformed(where, form):
                shapes = _shapes(annotations[key], path, categories, request.crowd, found)
                name = entry["file_name"]
                image = find_image([name], request, where)
                size = int(entry["height"]), int(entry["width"])
                found.images.append(Labelled(path, flat_name(name), image, size, shapes))
        except UserError as error:
            found.faults.append(str(error))
    return found


def flat_name(path: str) -> str:
    """Returns a relative path without suffix as a file name, with _ between its parts."""
    parts = pathlib.PurePosixPath(path.replace("\\", "/")).with_suffix("").parts
    parts = parts[-1:] if path.startswith("/") or ":" in path else parts
    return "_".join(part for part in parts if part != "..")


def _shapes(
    annotations: list[Any],
    path: pathlib.Path,
    categories: dict[Any, str],
    crowd: str,
    found: Annotations,
) -> list[Shape]:
    """Returns the shapes of an image's annotations, and notes which have none."""
    shapes, crowds = [], []
    for entry in annotations:
        where = f"{path}: annotation {entry.get('id')}"
        with refuse_malformed(where, "an annotation of COCO"):
            label, segmentation = categories[entry["category_id"]], entry.get("segmentation")
            is_ignored = bool(entry.get("iscrowd")) and crowd == "ignored"
            if entry.get("iscrowd"):
                kept = "ignored" if is_ignored else "of their class; --crowd=ignored ignores them"
                found.note(f"crowds (iscrowd) are {kept}", where)
            if not segmentation:
                found.note("annotations without a segmentation are left out", where)
                continue
            label, drawn = (VOID, crowds) if is_ignored else (label, shapes)
            if isinstance(segmentation, dict):
                drawn.append(Shape(label, functools.partial(_draw_rle, segmentation)))
                continue
            for part in segmentation:
                corners = points(np.reshape(part, (-1, 2)))
                if len(corners) < 3:
                    found.note("polygons of fewer than three points are left out", where)
                else:
                    drawn.append(Shape(label, functools.partial(fill_rings, [corners])))
    return [*crowds, *shapes]


def _draw_rle(rle: Any, size: Size) -> Patch:
    return place(0, 0, decode_rle(rle["counts"], tuple(rle["size"]), size), size)


def decode_rle(counts: list[int] | str, stated: tuple[int, ...], size: Size) -> np.ndarray:
    """Decodes the runs of pixels outside and inside, in turn, of a mask read column by column.

    Args:
      counts: the lengths of the runs, or COCO's compressed text of them.
      stated: (height, width) that the RLE states.
      size: (height, width) of the image.

    Returns:
      The mask, bool [H, W].

    Raises:
      ValueError: the runs do not have as many pixels as the image.
    """
    runs = np.array(decode_counts(counts) if isinstance(counts, str) else counts)
    if stated != size:
        raise ValueError(f"an RLE of height and width {stated}, but the image has {size}")
    if runs.dtype.kind != "i" or runs.ndim != 1 or (runs < 0).any() or (runs > 2**31).any():
        raise ValueError("RLE counts that are not numbers of pixels")
    if runs.sum() != size[0] * size[1]:
        raise ValueError(f"an RLE of {runs.sum()} pixels, but the image has {size[0] * size[1]}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size[::-1]).T


def decode_counts(text: str) -> list[int]:
    """Decodes COCO's compressed text of run lengths.

    A character is 48 plus five bits of a number, lowest bits first, plus 32 if more follow. The
    numbers are signed. From the fourth on they are differences to the run length two before.

    Raises:
      ValueError: the text is damaged.
    """
    counts: list[int] = []
    value = shift = 0
    for code in text.encode():
        bits = code - 48
        if not 0 <= bits < 64 or shift > 50:
            raise ValueError(f"{chr(code)!r} in compressed RLE")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)  # the highest bit is the sign
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    if shift:
        raise ValueError("compressed RLE that is truncated")
    return counts


FORMATS.register("coco")(Format(read_coco, options=("images", "crowd")))
