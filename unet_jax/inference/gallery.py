"""The gallery of a prediction: a page of thumbnails with measurements, and these as a table."""

import contextlib
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

from unet_jax import is_binary
from unet_jax.core.files import read_json, write_all
from unet_jax.core.lengths import MICROMETRES, unit_of
from unet_jax.data.files.pages import stated_size
from unet_jax.inference.measurements import measure
from unet_jax.inference.output_file import Extra
from unet_jax.inference.pictures import Pictures
from unet_jax.inference.predicted_image import PredictedImage
from unet_jax.reporting.html.gallery import Entry, render
from unet_jax.reporting.overlays import displayed

FOLDER, PAGE, TABLE = "gallery", "gallery.html", "measurements.csv"
LONGEST_SIDE = 256  # pixels of a thumbnail
PIXELS = ("area_pixels", "perimeter_pixels", "components", "mean_probability")


class Measurements(Extra):
    """The measurements of a file's images, `gallery/NAME.json`.

    Args:
      folder: the output folder.
      name: the outputs' path in the folder, without suffix.
      names: name of each class.
      source: the input file, which may state the size of a pixel.
    """

    needs_mask = True

    def __init__(self, folder: pathlib.Path, name: str, names: Sequence[str], source: pathlib.Path):
        super().__init__(folder / FOLDER / f"{name}.json")
        self._names, self._source = names, source

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        content = {"pixel_size_um": [*stated_size(self._source)], "images": []}
        self._images = content["images"]
        yield
        self.unfinished.write_text(json.dumps(content))

    def begin_image(self, size: tuple[int, int], georeference: Mapping[str, Any]) -> None:
        self._sums = np.zeros(len(self._names))  # of the probability of each pixel's class

    def add_rows(self, top: int, band: np.ndarray, ids: np.ndarray) -> None:
        if is_binary(len(self._names)):
            self._sums[1] += band[..., -1].sum(where=ids == 1, dtype=np.float64)
            return
        own = np.take_along_axis(band, ids[..., None], axis=-1)
        self._sums += np.bincount(ids.ravel(), own.ravel(), len(self._names))

    def end_image(self, image: PredictedImage) -> None:
        size = dict(zip(("height", "width"), image.mask.shape, strict=True))
        self._images.append(size | {"classes": measure(image.mask, self._sums, self._names)})


class Thumbnails(Pictures):
    """An image beside the same with its mask, both of at most `LONGEST_SIDE` pixels.

    They are `gallery/NAME.jpg`, or of a stack `gallery/NAME/0000.jpg` etc.
    """

    place = FOLDER
    suffix = ".jpg"

    def save(self, image: PredictedImage, path: pathlib.Path) -> None:
        arrays = displayed(image.pixels), image.overlay
        halves = [Image.fromarray(np.ascontiguousarray(array)) for array in arrays]
        for half in halves:
            half.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        both = np.concatenate([np.asarray(half) for half in halves], axis=1)
        Image.fromarray(both).save(path, format="JPEG", quality=85)


class Predicted(NamedTuple):
    """The files of the gallery that belong to an input file."""

    name: str  # the file's name as it is shown, with the folders that distinguish it from others
    measurements: pathlib.Path  # what `Measurements` wrote
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
