"""HTML pages from the Jinja2 templates in `templates/`, which escape everything they show.

A page is a single file that includes its style and script (`page.css`, `page.js`). Its content
security policy forbids it to load anything and to run any other script.
"""

import base64
import dataclasses
import functools
import hashlib
import html
import io
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from unet_jax.reporting import charts, sections
from unet_jax.reporting.charts import Chart, Line

TEMPLATES = pathlib.Path(__file__).parent / "templates"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A file beside the page that has an image and, to the right of it, the image with its mask."""

    address: str
    width: int  # of each of the two, pixels
    height: int


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table with more than a plain value."""

    text: str
    note: str | None = None  # small text below
    number: float | None = None  # by which the column is sorted
    kind: str | None = None  # CSS classes
    style: str | None = None  # CSS declarations
    link: str | None = None
    picture: Picture | None = None


@dataclasses.dataclass(frozen=True)
class Charts:
    """Charts side by side; each has its own legend unless they share one."""

    charts: Sequence[Chart]
    legend: Sequence[Line] = ()


@dataclasses.dataclass(frozen=True)
class PanelRow:
    """An image with its label, prediction and errors; see `overlays.panels`."""

    name: str
    title: str
    panels: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Overlays:
    """Rows of panels, and the meanings of their colours; see `overlays.legend`."""

    legend: Mapping[str, tuple[str, ...]]
    overlays: Sequence[PanelRow]


@dataclasses.dataclass(frozen=True)
class Details:
    """Parts that a click on the summary unfolds."""

    summary: str
    parts: Sequence["Part"]


Part = sections.Part | Charts | Overlays | Details


def render(
    template: str,
    title: str,
    parts: Mapping[str, Sequence[Part]],
    *,
    images_beside: bool = False,
    **context: Any,
) -> str:
    """Renders a page.

    Args:
      template: name of the template, which extends `page.html`.
      title: title of the page.
      parts: the parts of each section by its heading; sections without parts are left out.
      images_beside: whether the page may load images that lie beside it.
      **context: further variables of the template.

    Returns:
      The page as HTML.
    """
    style, script = ((TEMPLATES / name).read_text() for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    images = "data: 'self' file:" if images_beside else "data:"
    policy = (
        f"default-src 'none'; img-src {images}; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    return (
        _environment()
        .get_template(template)
        .render(
            title=title,
            sections=parts,
            style=Markup(style),
            script=Markup(script),
            policy=policy,
            **context,
        )
    )


def prose(text: str) -> Markup:
    """Converts the Markdown of a section to a paragraph or a list.

    Only the syntax that sections use is supported: - ** ` and the numeric character references of
    `names.in_markdown`, which HTML has too.
    """
    marked = re.sub(r"&amp;(#\d+;)", r"&\1", html.escape(text))
    marked = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", marked)
    marked = re.sub(r"`(.+?)`", r"<code>\1</code>", marked)
    if not marked.startswith("- "):
        return Markup(f"<p>{marked}</p>")
    items = (f"<li>{line.removeprefix('- ')}</li>" for line in marked.splitlines())
    return Markup(f"<ul>{''.join(items)}</ul>")


def anchor(heading: str) -> str:
    """Returns the id of the section with this heading."""
    return re.sub(r"\W+", "-", heading.lower())


def data_url(pixels: np.ndarray) -> str:
    """Encodes pixels, uint8 [H, W, 3], as a JPEG or PNG data URL, whichever is smaller."""
    encoded = {}
    # PNG's highest compression level takes three times as long and saves only a few per cent.
    for kind, options in (("jpeg", {"quality": 85}), ("png", {})):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind, **options)
        encoded[kind] = buffer.getvalue()
    kind = min(encoded, key=lambda kind: len(encoded[kind]))
    return f"data:image/{kind};base64,{base64.b64encode(encoded[kind]).decode()}"


def svg(chart: Chart) -> Markup:
    """Draws a chart; see `charts.svg`."""
    return Markup(charts.svg(chart))


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "anchor": anchor,
        "dash": sections.dash,
        "data_url": data_url,
        "formatted": sections.cell,
        "kind": lambda value: type(value).__name__,
        "prose": prose,
        "svg": svg,
    }
    return environment
