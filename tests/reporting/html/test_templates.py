"""Templates escape what they show, and a page can fetch nothing and run no other script."""

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

from unet_jax.reporting.html import page
from unet_jax.reporting.html.page import Cell, Details, Overlays, PanelRow, data_url, prose
from unet_jax.reporting.sections import Table

fast = settings(max_examples=50, deadline=None, derandomize=True)
printable = st.text(st.characters(exclude_categories=["C"], exclude_characters="\r"), max_size=30)


class Reader(html.parser.HTMLParser):
    """The tags with their attributes, and the text, as a browser would see them."""

    def __init__(self, markup: str):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, name, attributes):
        self.tags.append((name, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def render(*parts) -> str:
    return page.render("comparison.html", "title", {"Each thing": parts}, warnings=[])


def body(*parts) -> str:
    return render(*parts).split("<main>")[1].split("</main>")[0]


@fast
@given(printable, printable, printable)
def test_any_text_arrives_as_it_is_and_makes_no_tag(head, text, other):
    def page_of(head, text, other):
        table = Table([head], [[text, Cell(other, text)]], of_files=True)
        return Reader(body(table, Details(text, [table])))

    seen, plain = page_of(head, text, other), page_of("h", "t", "o")
    assert [name for name, _ in seen.tags] == [name for name, _ in plain.tags]
    for shown in (head, text, other):
        assert shown in seen.text


@fast
@given(printable)
def test_prose_makes_no_tag_but_its_own(text):
    seen = Reader(prose(f"{text}<script>alert(1)</script>"))
    assert {name for name, _ in seen.tags} <= {"p", "ul", "li", "strong", "code"}


def test_prose_has_bold_text_code_and_lists():
    assert prose("a **b** `c<d`") == "<p>a <strong>b</strong> <code>c&lt;d</code></p>"
    assert prose("- **a**: b\n- c - d") == "<ul><li><strong>a</strong>: b</li><li>c - d</li></ul>"


def test_a_section_has_an_anchor_and_an_empty_one_is_left_out():
    assert '<section id="each-thing"><h2>Each thing</h2>' in render("a")
    assert "<section" not in render()


def test_cells_hold_numbers_for_sorting():
    rows = [["a<b", 0.123456, 1234567], ["c", None, "x"]]
    for sortable in (False, True):
        markup = body(Table(["image", "Dice", "pixels"], rows, True, sortable))
        assert '<th scope="row"><code>a&lt;b</code></th>' in markup
        assert '<td data-number="0.123456">0.1235</td>' in markup
        assert '<td data-number="1234567">1,234,567</td>' in markup
        assert '<td class="missing">–</td><td>x</td>' in markup
        assert markup.count('aria-sort="none"><button type="button">') == 3 * sortable


def test_a_cell_may_have_a_note_a_colour_and_a_link():
    shares = Cell("50 %", "3", 0.5, kind="share right", style="--shade: 9%")
    markup = body(Table(["", ""], [[Cell("run<", link="../a%20b/report.html"), shares]]))
    assert '<a href="../a%20b/report.html">run&lt;</a>' in markup
    ((_, attributes),) = [tag for tag in Reader(markup).tags if tag[0] == "td"]
    assert attributes == {"class": "share right", "data-number": "0.5", "style": "--shade: 9%"}
    assert "50 %<small>3</small>" in markup


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_picture_is_inside_the_page_in_the_smaller_format(kind):
    rng = np.random.default_rng(0)
    pixels = np.full((40, 60, 3), 7, np.uint8)
    pixels[20:, :, 1] = 200
    if kind == "jpeg":
        pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    row = PanelRow('a "b"', "title", {"image": pixels})
    markup = body(Overlays({"wrong": ("#000000",)}, [row]))
    ((_, attributes),) = [tag for tag in Reader(markup).tags if tag[0] == "img"]
    assert attributes["alt"] == 'a "b", image'
    assert (attributes["width"], attributes["height"]) == ("60", "40")
    assert attributes["src"] == data_url(pixels)
    head, data = attributes["src"].split(",")
    assert head == f"data:image/{kind};base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.format.lower() == kind
    assert np.abs(np.asarray(image).astype(int).mean() - pixels.mean()) < 3


def test_a_page_allows_its_own_script_alone():
    whole = page.render("comparison.html", "a<b", {}, warnings=["x"])
    assert whole.startswith("<!doctype html>\n") and "<title>a&lt;b</title>" in whole
    script = re.search(r"<script>(.*?)</script>", whole, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    ((_, policy),) = [t for t in Reader(whole).tags if "http-equiv" in t[1]]
    assert policy["content"].startswith("default-src 'none'; ")
    assert policy["content"].endswith(f"; script-src 'sha256-{digest}'")
    assert whole.count("<script") == 1
