"""The gallery of a prediction: a page of thumbnails with measurements, and these as a table."""

import csv
import io
import itertools
import json
import pathlib
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from unet_jax.core.files import read_json, write_all
from unet_jax.core.lengths import MICROMETRES, unit_of
from unet_jax.inference.measurements import measure
from unet_jax.reporting.html.gallery import Entry, render
from unet_jax.reporting.overlays import displayed

FOLDER, PAGE, TABLE = "gallery", "gallery.html", "measurements.csv"
LONGEST_SIDE = 256  # pixels of a thumbnail
PIXELS = ("area_pixels", "perimeter_pixels", "components", "mean_probability")


class GalleryFile:
    """The measurements of a file's images, written as JSON when all of them are measured.

    Args:
      path: the JSON file.
      names: name of each class.
      pixel_size: height and width of a pixel, micrometres; () if unknown.
    """

    def __init__(self, path: pathlib.Path, names: Sequence[str], pixel_size: Sequence[float]):
        self._path, self._names, self._pixel_size = path, names, pixel_size
        self._images: list[dict[str, Any]] = []

    def add(self, mask: np.ndarray, sums: np.ndarray) -> None:
        """Measures the file's next image; see `measure` for the arguments."""
        size = dict(zip(("height", "width"), mask.shape, strict=True))
        self._images.append(size | {"classes": measure(mask, sums, self._names)})

    def close(self) -> None:
        """Writes the file."""
        content = {"pixel_size_um": [*self._pixel_size], "images": self._images}
        self._path.write_text(json.dumps(content))


def thumbnail(image: np.ndarray, painted: np.ndarray) -> Image.Image:
    """Returns an image beside the same with its mask, both of at most `LONGEST_SIDE` pixels.

    Args:
      image: stored values [H, W, C].
      painted: the image with its mask, uint8 [H, W, 3].
    """
    halves = [Image.fromarray(np.ascontiguousarray(x)) for x in (displayed(image), painted)]
    for half in halves:
        half.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return Image.fromarray(np.concatenate([np.asarray(half) for half in halves], axis=1))


class Predicted(NamedTuple):
    """The files of the gallery that belong to an input file."""

    name: str  # the file's name as it is shown, with the folders that distinguish it from others
    measurements: pathlib.Path  # what `GalleryFile` wrote
    pictures: Sequence[pathlib.Path]  # the thumbnail of each image


class Row(NamedTuple):
    """The measurements of a class in an image."""

    name: str
    page: int | None  # index of the image in a stack
    classes: list[dict[str, Any]]
    pixels: int  # of the image
    pixel_size: Sequence[float]
    picture: pathlib.Path


def write_gallery(output: pathlib.Path, files: Iterable[Predicted], title: str) -> None:
    """Writes the page and the table of all predicted images to the output folder.

    Args:
      output: the folder.
      files: the predicted files.
      title: heading of the page.
    """
    rows = [*itertools.chain.from_iterable(map(_rows, files))]
    sizes = [min(row.pixel_size) for row in rows if row.pixel_size]
    unit = unit_of(min(sizes)) if sizes else None
    entries = []
    for row in rows:
        with Image.open(io.BytesIO(row.picture.read_bytes())) as picture:
            size = picture.width // 2, picture.height
        entries.append(
            Entry(
                name=row.name if row.page is None else f"{row.name}, {row.page}",
                picture=urllib.parse.quote(row.picture.relative_to(output).as_posix()),
                picture_size=size,
                pixels=row.pixels,
                classes=[own | _in_unit(own, row.pixel_size, unit) for own in row.classes],
            )
        )
    contents = {
        output / TABLE: _table(rows, unit).encode(),
        output / PAGE: render(title, entries, unit).encode(),
    }
    write_all(contents)


def _rows(file: Predicted) -> Iterator[Row]:
    content = read_json(file.measurements)
    images, size = content["images"], content["pixel_size_um"]
    for number, (image, picture) in enumerate(zip(images, file.pictures, strict=True)):
        page = number if len(images) > 1 else None
        pixels = image["height"] * image["width"]
        yield Row(file.name, page, image["classes"], pixels, size, picture)


def _in_unit(
    measured: Mapping[str, Any], pixel_size: Sequence[float], unit: str | None
) -> dict[str, float | None]:
    """Returns area and perimeter in a unit; None if unknown, or for pixels that are not square."""
    if unit is None:
        return {}
    if not pixel_size:
        return {f"area_{unit}2": None, f"perimeter_{unit}": None}
    height, width = (side / MICROMETRES[unit] for side in pixel_size)
    is_square = abs(height - width) <= 0.001 * width
    return {
        f"area_{unit}2": measured["area_pixels"] * height * width,
        f"perimeter_{unit}": measured["perimeter_pixels"] * width if is_square else None,
    }


def _table(rows: Sequence[Row], unit: str | None) -> str:
    """Returns the measurements as CSV, a line for each class of each image."""
    file = io.StringIO()
    columns = ["file", "page", "class", *PIXELS]
    columns += [f"area_{unit}2", f"perimeter_{unit}"] if unit else []
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        for own in row.classes:
            values = {key: own[key] for key in PIXELS} | _in_unit(own, row.pixel_size, unit)
            place = {"file": row.name, "page": row.page, "class": own["name"]}
            writer.writerow(place | values)
    return file.getvalue()
