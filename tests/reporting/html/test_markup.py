"""Tests of the pages' markup: nothing that is shown can break a page or fetch anything."""

import base64
import hashlib
import html.parser
import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unet_jax.reporting.html.markup import (
    Markup,
    document,
    join,
    picture,
    prose,
    section,
    table,
    tag,
)
from unet_jax.reporting.sections import Table

fast = settings(max_examples=50, deadline=None, derandomize=True)


class Reader(html.parser.HTMLParser):
    """What a browser would see: the tags with their attributes, and the text."""

    def __init__(self, markup: str):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, name, attributes):
        self.tags.append((name, dict(attributes)))

    def handle_data(self, data):
        self.text += data


printable = st.text(st.characters(exclude_categories=["C"], exclude_characters="\r"), max_size=30)


@fast
@given(printable, printable)
def test_any_text_arrives_as_it_is_and_makes_no_tag(text, value):
    seen = Reader(tag("p", text, "<b>", title=value))
    assert seen.tags == [("p", {"title": value})]
    assert seen.text == f"{text}<b>"


@fast
@given(printable)
def test_prose_makes_no_tag_but_its_own(text):
    seen = Reader(prose(f"{text}<script>alert(1)</script>"))
    assert {name for name, _ in seen.tags} <= {"p", "ul", "li", "strong", "code"}


def test_prose_knows_the_marks_of_sections():
    assert prose("a **b** `c<d`") == "<p>a <strong>b</strong> <code>c&lt;d</code></p>"
    assert prose("- **a**: b\n- c - d") == "<ul><li><strong>a</strong>: b</li><li>c - d</li></ul>"


def test_markup_is_kept_and_none_is_left_out():
    inner = tag("b", "&", None, class_="x", data_sort=None)
    assert inner == '<b class="x">&amp;</b>' and isinstance(inner, Markup)
    assert tag("p", inner, "<") == f"<p>{inner}&lt;</p>"
    assert join(["<", None, inner]) == f"&lt;{inner}"
    assert tag("meta", charset="utf-8") == '<meta charset="utf-8">'


def test_a_section_is_named_and_an_empty_one_is_none():
    assert (
        section("Each image", "a")
        == '<section id="each-image"><h2>Each image</h2><p>a</p></section>'
    )
    assert section("Each image") is None


def test_a_table_says_what_its_cells_are():
    content = Table(
        ["image", "Dice", "pixels"], [["a<b", 0.123456, 1234567], ["c", None, "x"]], True
    )
    plain, sortable = table(content, "n"), table(content, "n", sortable=True)
    for markup in (plain, sortable):
        assert '<th scope="row"><code>a&lt;b</code></th>' in markup
        assert (
            '<td data-number="0.123456">0.1235</td><td data-number="1234567">1,234,567</td>'
            in markup
        )
        assert '<td class="missing">–</td><td>x</td>' in markup
        assert markup.startswith('<div class="scroll" tabindex="0" role="region" aria-label="n">')
    assert "button" not in plain
    assert sortable.count('aria-sort="none"><button type="button">') == 3
    assert "<code>" not in table(Table(["a"], [["b"]]), "n")


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_picture_is_inside_the_page_in_the_smaller_format(kind):
    rng = np.random.default_rng(0)
    pixels = np.full((40, 60, 3), 7, np.uint8)
    pixels[20:, :, 1] = 200
    if kind == "jpeg":
        pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    ((name, attributes),) = Reader(picture(pixels, 'a "b"')).tags
    assert (name, attributes["alt"]) == ("img", 'a "b"')
    assert (attributes["width"], attributes["height"]) == ("60", "40")
    head, data = attributes["src"].split(",")
    assert head == f"data:image/{kind};base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.format.lower() == kind
    assert np.abs(np.asarray(image).astype(int).mean() - pixels.mean()) < 3


def test_a_document_allows_its_own_script_alone():
    page = document("a<b", tag("p", "x"), None)
    assert page.startswith("<!doctype html>\n") and "<title>a&lt;b</title>" in page
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    ((_, policy),) = [t for t in Reader(page).tags if "http-equiv" in t[1]]
    assert policy["content"].startswith("default-src 'none'; ")
    assert policy["content"].endswith(f"; script-src 'sha256-{digest}'")
    assert page.count("<script") == 1
