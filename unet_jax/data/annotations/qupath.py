"""QuPath: a GeoJSON file per image, with the image's name, beside the images.

The file of `a.tif` is `a.geojson` (or `a.json`, `a.tif.geojson`), as QuPath's "Export objects as
GeoJSON" writes it. Polygons and MultiPolygons are areas, without their holes; lines and points have
none and are left out. Where objects overlap, the later one in the file counts. The class is the
object's classification: objects without one are left out, and `Ignore*` is ignored. Classes are
sorted by name.
"""

import functools
import pathlib
from typing import Any

from unet_jax.core.errors import UserError
from unet_jax.core.files import read_json
from unet_jax.data.annotations.areas import fill_rings
from unet_jax.data.annotations.registry import (
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
from unet_jax.data.files.inputs import SUFFIXES
from unet_jax.data.labels.names import VOID

SPECIAL = {"Ignore*": VOID}
WITHOUT_AREA = ("Point", "MultiPoint", "LineString", "MultiLineString")


def read_qupath(request: Request) -> Annotations:
    """Reads a folder of GeoJSON files, or one of them.

    Raises:
      UserError: there are none.
    """
    found = Annotations()
    images = list_images(request.image_folders)
    unlabelled = dict.fromkeys(images)
    for path in find_json(request, (".geojson", ".json")):
        try:
            image = find_image(_names(path, images), request, path)
            unlabelled.pop(image, None)
            with refuse_malformed(path, "a GeoJSON file of QuPath"):
                shapes = _read_shapes(path, found)
            found.images.append(Labelled(path, image.stem, image, None, shapes))
        except UserError as error:
            found.faults.append(str(error))
    for image in unlabelled if request.root.is_dir() else ():
        found.note("images without a GeoJSON file are left out", image)
    return found


def _names(path: pathlib.Path, images: list[pathlib.Path]) -> list[str]:
    """Returns the possible names of the image of a GeoJSON file; the first one is for messages."""
    if pathlib.Path(path.stem).suffix.lower() in SUFFIXES:
        return [path.stem]
    names = [image.name for image in images if image.stem == path.stem]
    if len(set(names)) > 1:
        raise UserError(
            f"{path}: the image may be {names[0]} or {names[1]}; rename one of them, or the file "
            f"to {names[0]}{path.suffix}"
        )
    return names or [f"{path.stem}.tif"]


def _read_shapes(path: pathlib.Path, found: Annotations) -> list[Shape]:
    content = read_json(path)
    if isinstance(content, dict):
        is_collection = content["type"] == "FeatureCollection"
        content = content["features"] if is_collection else [content]
    shapes = []
    for number, feature in enumerate(content):
        where = f"{path}: feature {number}"
        with refuse_malformed(where, "a GeoJSON object of QuPath"):
            label = _classification(feature.get("properties") or {})
            rings = _polygons(feature["geometry"])
        if label is None:
            found.note("objects without a classification are left out", where)
        elif not rings:
            found.note("lines and points, which have no area, are left out", where)
        else:
            shapes += [Shape(label, functools.partial(fill_rings, polygon)) for polygon in rings]
    return shapes


def _classification(properties: Any) -> str | None:
    """Returns the class of an object; QuPath writes derived classes as a list of names."""
    found = properties.get("classification") or {}
    name = found.get("name") or ": ".join(found.get("names", ()))
    return SPECIAL.get(name, class_name(name)) if name else None


def _polygons(geometry: Any) -> list[list[Any]]:
    """Returns the rings of each polygon of a geometry: the outer one, then its holes."""
    kind, plane = geometry["type"], geometry.get("plane") or {}
    if plane.get("z") or plane.get("t"):
        raise ValueError("an object in a stack; export the objects of one plane")
    if kind in WITHOUT_AREA:
        return []
    if kind == "GeometryCollection":
        return [polygon for part in geometry["geometries"] for polygon in _polygons(part)]
    if kind not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"the unknown geometry {kind!r}")
    coordinates = geometry["coordinates"]
    polygons = [coordinates] if kind == "Polygon" else coordinates
    return [
        [points([corner[:2] for corner in ring]) for ring in polygon]
        for polygon in polygons
        if polygon
    ]


FORMATS.register("qupath")(Format(read_qupath, options=("images",)))
