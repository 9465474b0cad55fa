"""The page of a prediction's images: thumbnails, a slider for their masks, and measurements."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from unet_jax.core.lengths import LABELS
from unet_jax.reporting.html import page
from unet_jax.reporting.html.page import Cell, Picture
from unet_jax.reporting.sections import Table


class Entry(NamedTuple):
    """An image of the gallery.

    Attributes:
      name: the image's name.
      picture: address of its thumbnail: the image, and to the right of it the image with its mask.
      picture_size: (width, height) of each of the two, pixels.
      pixels: number of pixels of the image.
      classes: the measurements of each class; see `inference.measurements`.
    """

    name: str
    picture: str
    picture_size: tuple[int, int]
    pixels: int
    classes: Sequence[Mapping[str, Any]]


def render(title: str, entries: Sequence[Entry], unit: str | None) -> str:
    """Renders the page.

    Args:
      title: its heading.
      entries: the images.
      unit: a key of `LABELS`, in which lengths are known, or None.
    """
    columns = _columns(unit)
    names = [own["name"] for own in entries[0].classes] if entries else []
    several = len(names) > 1
    header = ["image"]
    for name in names:
        header += [f"{name}: {column}" if several else column for column in columns]
    rows = []
    for entry in entries:
        picture = Picture(entry.picture, *entry.picture_size)
        cells: list[Any] = [Cell(entry.name, picture=picture)]
        for own in entry.classes:
            share = {"share": 100 * own["area_pixels"] / entry.pixels}
            cells += [_cell(key, {**own, **share}[key]) for key in columns.values()]
        rows.append(tuple(cells))
    table = Table(header=tuple(header), rows=rows, sortable=True)
    return page.render(
        "gallery.html",
        title,
        {"Images": [table]},
        images_beside=True,
        count=len(entries),
        measured=names,
    )


def _cell(key: str, value: float | None) -> Any:
    """Returns a measurement as it is shown; it is sorted by its exact value."""
    if value is None or isinstance(value, int):
        return value
    digits = 4 if key == "mean_probability" else 1 if value >= 1000 else 2
    return Cell(f"{value:,.{digits}f}", number=value)


def _columns(unit: str | None) -> dict[str, str]:
    """Maps the columns of a class to keys of its measurements."""
    columns = {
        "area, %": "share",
        "area, pixels": "area_pixels",
        "components": "components",
        "perimeter, pixels": "perimeter_pixels",
        "mean probability": "mean_probability",
    }
    if unit:
        columns[f"area, {LABELS[unit]}²"] = f"area_{unit}2"
        columns[f"perimeter, {LABELS[unit]}"] = f"perimeter_{unit}"
    return columns
