"""Label Studio: its JSON export (not JSON-MIN), and a folder of the images.

`--root` is the JSON file, or the folder that contains it. An image is found by its file name, with
or without the prefix of eight digits that Label Studio adds to uploads. Brush strokes, polygons,
rectangles and ellipses with a label are areas; other results, such as key points and choices, are
left out. Where areas overlap, the later one in the annotation counts. Of several annotations of an
image the one marked as ground truth counts, else the last. Tasks without an annotation are left
out. Classes are sorted by name; one with the name `ignored` is ignored.
"""

import functools
import pathlib
import re
import urllib.parse
from typing import Any

import numpy as np

from unet_jax.core.errors import UserError
from unet_jax.core.files import read_json
from unet_jax.data.annotations.areas import Patch, Size, fill_ellipse, fill_rings, place
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
from unet_jax.data.files.inputs import SUFFIXES

PREFIX = re.compile(r"^[0-9a-f]{8}-(?=.)")
OPAQUE = 128  # least alpha of a pixel of a brush stroke
UNLABELLED = ("brush", "polygon", "rectangle", "ellipse")  # regions apart from their labels
WITH_AREA = ("labels", *(f"{kind}labels" for kind in UNLABELLED))
WITHOUT_AREA = (
    "choices", "datetime", "keypoint", "keypointlabels", "number", "pairwise", "ranker", "rating",
    "relation", "taxonomy", "textarea", "vector", "vectorlabels",
)  # fmt: skip


def read_label_studio(request: Request) -> Annotations:
    """Reads an export of Label Studio.

    Raises:
      UserError: there is none or several, or it is not such an export.
    """
    path = find_one_json(request)
    content, form = read_json(path), "a JSON export of Label Studio"
    with refuse_malformed(path, form):
        if not isinstance(content, list) or not all("data" in task for task in content):
            raise ValueError("no list of tasks with 'data'; JSON-MIN is not read")
    found = Annotations()
    for task in content:
        where = f"{path}: task {task.get('id')}"
        try:
            with refuse_malformed(where, form):
                results = _results(task, where, found)
                if results is None:
                    continue
                image = find_image(_image_names(task), request, where)
                shapes, sizes = _shapes(results, where, found)
                if len(sizes) > 1:
                    raise ValueError(f"results of images of different sizes {sizes}")
                size = next(iter(sizes), None)
                found.images.append(Labelled(path, image.stem, image, size, shapes))
        except UserError as error:
            found.faults.append(str(error))
    return found


def _results(task: Any, where: str, found: Annotations) -> list[Any] | None:
    """Returns the results of the annotation that counts; None if the task has none."""
    given = [entry for entry in task["annotations"] if not entry.get("was_cancelled")]
    if not given:
        found.note("tasks without an annotation are left out", where)
        return None
    if len(given) > 1:
        found.note("of several annotations the ground truth counts, else the last", where)
    return ([entry for entry in given if entry.get("ground_truth")] or given)[-1]["result"]


def _image_names(task: Any) -> list[str]:
    """Returns the possible paths of a task's image, from its URL and the name of its upload."""
    named = []
    for value in task["data"].values():
        url = urllib.parse.urlsplit(value) if isinstance(value, str) else None
        if url is None:
            continue
        local = urllib.parse.parse_qs(url.query).get("d", [])  # of the local file storage
        names = [*local, urllib.parse.unquote(url.path).lstrip("/")]
        named += [name for name in names if pathlib.PurePath(name).suffix.lower() in SUFFIXES][:1]
    if len(set(named)) != 1:
        raise ValueError(f"{len(set(named))} images in its data")
    names = [named[0], *filter(None, [task.get("file_upload")])]
    without_prefix = [PREFIX.sub("", pathlib.PurePath(name).name) for name in names]
    return list(dict.fromkeys([*names, *without_prefix]))


def _shapes(
    results: list[Any], where: str, found: Annotations
) -> tuple[list[Shape], set[tuple[int, int]]]:
    """Returns the shapes of an annotation, and the (height, width) that its results state."""
    shapes, sizes = [], set()
    labelled = {
        result.get("id") for result in results if _labels(result) and result["type"] != "choices"
    }
    for result in results:
        kind, labels = result["type"], _labels(result)
        if kind in WITHOUT_AREA:
            found.note(f"results of the type {kind} are left out", where)
            continue
        if not labels and kind in UNLABELLED:
            if result.get("id") not in labelled:
                found.note("regions without a label are left out", where)
            continue
        with refuse_malformed(f"{where}, result {result.get('id')}", "a result of Label Studio"):
            if kind not in (*WITH_AREA, *UNLABELLED):
                raise ValueError(f"the unknown type {kind!r}")
            if len(labels) != 1:
                raise ValueError(f"the type {kind!r} with {len(labels)} labels")
            if result.get("image_rotation"):
                raise ValueError(f"an image rotated by {result['image_rotation']} degrees")
            size = int(result["original_height"]), int(result["original_width"])
            sizes.add(size)
            shapes.append(Shape(class_name(labels[0]), _area(result["value"], size)))
    return shapes, sizes


def _labels(result: Any) -> list[str]:
    value = result.get("value") or {}
    return value.get(result["type"]) or value.get("labels") or []


def _area(value: Any, size: Size) -> Any:
    """Returns the function that draws a region, whose coordinates are percentages of the image."""
    if "rle" in value:
        return functools.partial(_draw_brush, value["rle"])

    def pixels(percentages: Any) -> np.ndarray:
        return points(percentages) * size[::-1] / 100

    if "points" in value:
        corners = pixels(value["points"])
        if len(corners) < 3:
            raise ValueError("a polygon of fewer than three points")
        return functools.partial(fill_rings, [corners])
    (corner,) = pixels([(value["x"], value["y"])])
    degrees = float(value.get("rotation") or 0)
    if "radiusX" in value:
        (radii,) = pixels([(value["radiusX"], value["radiusY"])])
        return functools.partial(fill_ellipse, tuple(corner), tuple(radii), degrees)
    (sides,) = pixels([(value["width"], value["height"])])
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turned = np.array([(cos, sin), (-sin, cos)])  # clockwise around the first corner
    corners = corner + (np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * sides) @ turned
    return functools.partial(fill_rings, [corners])


def _draw_brush(rle: list[int], size: Size) -> Patch:
    alpha = decode_brush(bytes(rle), 4 * size[0] * size[1]).reshape(*size, 4)[..., 3]
    return place(0, 0, alpha >= OPAQUE, size)


def decode_brush(data: bytes, count: int) -> np.ndarray:
    """Decodes the run-length encoding of Label Studio's brush, which is that of @thi.ng/rle-pack.

    It is a sequence of bits: the number of values (32 bits), their number of bits less one (5), and
    four numbers of bits of run lengths, less one (4 each). Then, until there are enough values: 1
    for a run of one value or 0 for a run of different ones, which of the four numbers applies (2),
    the length of the run less one, and its value or values.

    Args:
      data: the encoded bytes.
      count: the expected number of values.

    Returns:
      The values, uint8 [count].

    Raises:
      ValueError: the data are damaged or encode another number of values.
    """
    position = 0

    def read(bits: int) -> int:
        nonlocal position
        end = position + bits
        if end > 8 * len(data):
            raise ValueError("brush RLE that is truncated")
        part = int.from_bytes(data[position // 8 : -(-end // 8)])
        position = end
        return part >> -end % 8 & ((1 << bits) - 1)

    total, word = read(32), read(5) + 1
    lengths = [read(4) + 1 for _ in range(4)]
    if total != count or word != 8:
        raise ValueError(f"brush RLE of {total} values of {word} bits; expected {count} of 8")
    values, done = np.zeros(count, np.uint8), 0
    while done < count:
        is_run, length = read(1), read(lengths[read(2)]) + 1
        if done + length > count:
            raise ValueError("brush RLE with more values than it states")
        if is_run:
            values[done : done + length] = read(8)
        else:
            literal = read(8 * length).to_bytes(length)
            values[done : done + length] = np.frombuffer(literal, np.uint8)
        done += length
    return values


FORMATS.register("label-studio")(Format(read_label_studio, options=("images",)))
