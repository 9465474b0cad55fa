"""HTML elements with escaped content: all text is escaped unless it is `Markup`.

A page is a single file that includes its style and script (`page.css`, `page.js`). Its content
security policy forbids it to load anything and to run any other script.
"""

import base64
import hashlib
import html
import io
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from unet_jax.reporting.sections import Part, Table, cell

HERE = pathlib.Path(__file__).parent
VOID = ("img", "meta")  # elements without a closing tag


class Markup(str):
    """Text that is already HTML and is not escaped."""


def tag(name: str, *children: str | None, **attributes: str | float | None) -> Markup:
    """Builds an element.

    Args:
      name: name of the element.
      *children: contents, which are escaped unless they are `Markup`; None is left out.
      **attributes: attributes of the element; None is left out. `class_` is the attribute class,
        `data_number` is data-number.

    Returns:
      The HTML of the element.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}>{join(children)}{'' if name in VOID else f'</{name}>'}")


def join(children: Iterable[str | None]) -> Markup:
    """Concatenates children without None; they are escaped unless they are `Markup`."""
    kept = (child for child in children if child is not None)
    return Markup("".join(c if isinstance(c, Markup) else html.escape(c) for c in kept))


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


def section(heading: str, *parts: Part) -> Markup | None:
    """Builds a section with a heading and an anchor; returns None if it has no parts."""
    if not parts:
        return None
    content = (
        table(part, heading)
        if isinstance(part, Table)
        else part
        if isinstance(part, Markup)
        else prose(part)
        for part in parts
    )
    return tag("section", tag("h2", heading), *content, id=anchor(heading))


def anchor(heading: str) -> str:
    """Returns the id of the section with this heading."""
    return re.sub(r"\W+", "-", heading.lower())


def table(content: Table, name: str, sortable: bool = False) -> Markup:
    """Builds a table in a scrollable box.

    Args:
      content: header and rows; numbers are formatted, and cells that are `<td>` markup are kept.
      name: name of the table for screen readers.
      sortable: whether a click on a column header sorts the rows.

    Returns:
      The HTML of the box.
    """
    heads = (
        tag("th", tag("button", head, type="button"), scope="col", aria_sort="none")
        if sortable
        else tag("th", head, scope="col")
        for head in content.header
    )
    rows = (
        tag("tr", tag("th", _named(row[0], content), scope="row"), *map(_td, row[1:]))
        for row in content.rows
    )
    whole = tag(
        "table",
        tag("thead", tag("tr", *heads)),
        tag("tbody", *rows),
        class_="sortable" if sortable else None,
    )
    return tag("div", whole, class_="scroll", tabindex=0, role="region", aria_label=name)


def _named(name: str, content: Table) -> str:
    return tag("code", name) if content.of_files and not isinstance(name, Markup) else name


def _td(value: Any) -> Markup:
    if isinstance(value, Markup) and value.startswith("<td"):
        return value
    if value is None:
        return tag("td", cell(value), class_="missing")
    if isinstance(value, (int, float)):
        text = f"{value:,}" if isinstance(value, int) else cell(value)
        return tag("td", text, data_number=value)
    return tag("td", value)


def picture(pixels: np.ndarray, what: str) -> Markup:
    """Embeds pixels as a JPEG or PNG data URL, whichever is smaller.

    Args:
      pixels: uint8 [H, W, 3].
      what: the alternative text.

    Returns:
      An image element.
    """
    encoded = {}
    # PNG's highest compression level takes three times as long and saves only a few per cent.
    for kind, options in (("jpeg", {"quality": 85}), ("png", {})):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind, **options)
        encoded[kind] = buffer.getvalue()
    kind = min(encoded, key=lambda kind: len(encoded[kind]))
    data = base64.b64encode(encoded[kind]).decode()
    height, width = pixels.shape[:2]
    return tag("img", src=f"data:image/{kind};base64,{data}", alt=what, width=width, height=height)


def document(title: str, *sections: Markup | None) -> str:
    """Builds a complete HTML page, with its style, script and content security policy."""
    style, script = ((HERE / name).read_text() for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("title", title),
        tag("style", Markup(style)),
    )
    body = tag("body", tag("main", *sections), tag("script", Markup(script)))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"
