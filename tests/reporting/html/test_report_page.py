"""Tests of unet_jax.reporting.html.report: what report.html says, and that a browser shows it."""

import re

import pytest
from made_reports import EVIL, make_history, make_overlay, make_report, overlays_of, statistics

from configs import base
from unet_jax.core.config import flatten
from unet_jax.reporting.html.report import render
from unet_jax.reporting.report import write_report


def page_of(report: dict, history=(), overlays=(), config=None, splits=None) -> str:
    return render(report, list(history), list(overlays), config or {}, splits or {}, report["name"])


def text_of(page: str) -> str:
    body = page.split("<main>")[1].split("<script>")[0]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body))


def cells(page: str, row: str) -> list[str]:
    """The texts of the table row of this name."""
    (found,) = re.findall(rf'<tr><th scope="row">{row}</th>(.*?)</tr>', page)
    return re.findall(r">([^<]+)<", found)


def test_the_heading_is_the_name_of_the_run(tmp_path, full):
    write_report(tmp_path / "lesions", full, [], [])
    page = (tmp_path / "lesions" / "report.html").read_text()
    assert "<h1>lesions <small>experiment isbi · " in page
    assert (tmp_path / "lesions" / "report.md").read_text().startswith("# lesions: test\n")


def test_the_page_says_what_was_measured(full):
    page = page_of(full, make_history(), [make_overlay()])
    text = text_of(page)
    assert "isbi test split · 2 images · checkpoint best of step 48 · threshold 0.5" in text
    tile = "Dice 0.9300 slice-11: 0.9200 slice-03: 0.9400 0.8300 0.9800"
    assert f"{tile} second observer 0.7800 trivial 0.8800 loss 0.1912" in text
    assert "loss 0.1912 slice-11: 0.2000 slice-03: 0.1000 0.1000 0.3000 IoU 0.8700" in text
    assert "Note : palette masks." in text
    assert cells(page, "Dice") == ["0.9300", "0.8300", "0.9800", "0.9300"]
    assert cells(page, "best on these images")[:3] == ["–", "–", "0.8000"]
    assert "The model is better than this in Dice." in text
    assert "A second observer labelled" in text
    assert "expected calibration error, 0.0321" in text
    assert "best: slice-03, Dice 0.94" in text
    assert "reported checkpoint, step 48" in text
    assert "1,942,481" in text and "0.10.2" in text
    for link, name in re.findall(r'<a href="#([^"]*)">([^<]*)</a>', page):
        assert f'<section id="{link}"><h2>{name}</h2>' in page
    assert len(re.findall("<section", page)) == 11


def test_a_small_report_has_a_small_page():
    report = {key: make_report()[key] for key in ("name", "split", "classes", "aggregate")}
    page = page_of(report)
    assert re.findall("<h2>(.*?)</h2>", page) == ["All metrics"]
    page_of(report | {"aggregate": {}})


def test_the_headline_of_many_classes_is_pooled(many):
    many["aggregate"]["mean_iou"]["pooled"] = 0.4321
    many["observer"] = {"aggregate": {"mean_iou": statistics(0.6) | {"pooled": 0.7}}}
    text = text_of(page_of(many))
    assert "mean IoU, pooled 0.4321" in text and "second observer 0.7000" in text


def test_confusion_is_counted_and_shared_by_row(full):
    page = page_of(full)
    pattern = r'<td class="share (\w+)" style="--shade: (\d+)%">([^<]*)<small>([\d,]+)'
    shares = re.findall(pattern, page)
    assert shares == [
        ("right", "61", "75.0 %", "750"),
        ("wrong", "35", "25.0 %", "250"),
        ("right", "70", "100.0 %", "4,000"),
    ]
    assert '</td><td data-number="1000">1,000</td></tr>' in page
    full["confusion"] = [[0, 0], [0, 5]]
    page = page_of(full).split("<h2>Confusion")[1]
    assert cells(page, "membrane") == ["–", "–", "0"]
    assert cells(page, "cell")[:2] == ["0", "100.0 %"]


def test_pooled_metrics_of_classes_are_not_in_a_table_with_means_over_images(full):
    full["per_class"]["membrane"] |= {"hd95": 3.5, "pq": None}
    full["per_class"]["cell"] |= {"hd95": 1.5, "pq": 0.25}
    section = text_of(page_of(full)).split("Scores per class ")[-1].split("Confusion")[0]
    pooled, means = section.split("Means over the images")
    assert pooled.startswith("Pooled over all pixels") and "class Dice IoU membrane 0.71" in pooled
    assert "class HD95, pixels PQ membrane 3.5000 –" in means
    assert "Dice" not in means and "HD95" not in pooled


def test_fields_that_differ_from_the_base_come_first(full):
    config = base.get_config().to_dict()
    config["model"]["width"] = 17
    config["loss"]["class_weights"] = [1.0, EVIL]
    del config["optim"]["clip_norm"]
    config["unknown"] = 3
    page = page_of(full, config=config).split("<h2>Configuration")[1]
    first, all_fields = page.split("<details>")[:2]
    assert "3 fields differ" in first
    names = ["loss.class_weights", "model.width", "unknown"]
    assert re.findall("<code>(.*?)</code>", first)[1:] == names
    assert "<td>17</td><td>64</td>" in first
    assert re.findall("<code>([^<]*) ≠</code>", all_fields) == names
    assert len(re.findall("<code>", all_fields)) == len(flatten(config)) > 60


def test_splits_are_counted_and_named(full):
    splits = {"train": ["a", EVIL], "validation": [], "test": ["c"], "seed": 0, "sha256": {}}
    page = page_of(full, splits=splits).split("<h2>Provenance")[1]
    rows = re.findall(r'scope="row">(\w+)</th><td data-number="(\d+)"', page)
    assert rows == [("train", "2"), ("validation", "0"), ("test", "1")]
    assert "a, &#60;script&#62;" in page and "seed" not in page


def test_nothing_in_the_data_becomes_markup(full, many):
    plain = page_of(many | {"notes": [], "name": "x"}, overlays=overlays_of(21))
    assert EVIL not in plain and plain.count("&lt;script") > 10
    full["per_image"] = {EVIL: {"dice": 1.0}}
    full["classes"] = ["a", EVIL]
    full["thresholds"][0]["rule"] = EVIL
    page = page_of(full, make_history(), overlays_of(2), {EVIL: EVIL}, {EVIL: [EVIL]})
    assert page.count("<script") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        ("two", 360, "light"),
        ("two", 1280, "dark"),
        ("many", 360, "dark"),
        ("many", 1280, "light"),
    ],
)
def test_a_browser_shows_it_whole_and_asks_for_nothing(browser, pages, name, width, scheme):
    browser.open(pages / f"{name}.html", width, prefers_color_scheme=scheme)
    assert browser.complaints() == []
    assert [url for url in browser.requests()[1:] if not url.startswith("data:")] == []
    assert browser.evaluate("innerWidth") == width
    browser.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert browser.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    images = "[...document.images]"
    assert browser.evaluate(f"{images}.length") == (9 if name == "two" else 12)
    assert browser.evaluate(f"{images}.every(i => i.naturalWidth === 150)")
    assert browser.evaluate("document.title") != "broken"
    paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    (red, *_) = map(int, re.findall(r"\d+", paper))
    assert red > 200 if scheme == "light" else red < 50
    # What is drawn has a colour that is not the paper's.
    strokes = browser.evaluate(
        "[...document.querySelectorAll('[style*=\"--c\"]')].map(p => getComputedStyle(p).stroke)"
    )
    colours = set(strokes) - {"none"}
    assert len(colours) >= 2 and paper not in colours


COLUMN = (
    "[...document.querySelectorAll('#scores-per-image tbody tr')].map(r => r.cells[{}].textContent)"
)


@pytest.mark.slow
def test_a_table_sorts_both_ways_and_keeps_missing_values_last(browser, pages):
    browser.open(pages / "many.html", 1280)
    head = "document.querySelectorAll('#scores-per-image th button')[{}]"
    state = (
        "[...document.querySelectorAll('#scores-per-image th')].map(h => h.ariaSort).slice(0, 5)"
    )
    unsorted = browser.evaluate(COLUMN.format(4))
    browser.evaluate(head.format(4) + ".click()")
    up = browser.evaluate(COLUMN.format(4))
    assert up != unsorted and up[:-1] == sorted(up[:-1]) and up[-1] == "–"
    assert browser.evaluate(state) == ["none"] * 4 + ["ascending"]
    browser.evaluate(head.format(4) + ".click()")
    down = browser.evaluate(COLUMN.format(4))
    assert down == [*sorted(up[:-1], reverse=True), "–"]
    assert browser.evaluate(state) == ["none"] * 4 + ["descending"]
    # Rows stay whole, and another column starts upwards.
    browser.evaluate(head.format(0) + ".click()")
    names = browser.evaluate(COLUMN.format(0))
    assert names.index("2007_000009") + 1 == names.index("2007_000010")
    assert browser.evaluate(state) == ["ascending"] + ["none"] * 4
    rows = dict(zip(names, browser.evaluate(COLUMN.format(4)), strict=True))
    assert rows["2007_000003"] == "–" and sorted(rows.values()) == sorted(up)


@pytest.mark.slow
def test_numbers_sort_as_numbers_and_by_the_keyboard(browser, tmp_path, full):
    losses = [9.5, 10.25, 1e-7, 1e-9, -3.0, -4.0]
    full["per_image"] = {f"slice-{8 + i}": {"loss": loss} for i, loss in enumerate(losses)}
    (tmp_path / "page.html").write_text(page_of(full))
    browser.open(tmp_path / "page.html", 1280)
    browser.evaluate("document.querySelectorAll('#scores-per-image th button')[1].focus()")
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r")
    by_loss = [f"slice-{8 + i}" for i in (5, 4, 3, 2, 0, 1)]
    assert browser.evaluate(COLUMN.format(0)) == by_loss
    browser.evaluate("document.querySelectorAll('#scores-per-image th button')[0].click()")
    assert browser.evaluate(COLUMN.format(0)) == list(full["per_image"])


@pytest.mark.slow
def test_the_point_near_the_pointer_says_what_it_is(browser, pages):
    browser.open(pages / "two.html", 360)
    browser.evaluate("document.querySelector('.chart').scrollIntoView()")
    place = browser.evaluate(
        "(b => ({x: b.x + 2, y: b.y + 2}))"
        "(document.querySelectorAll('.chart use[data-label]')[3].getBoundingClientRect())"
    )
    readout = "document.querySelector('.chart output').textContent"
    assert browser.evaluate(readout) == ""
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", **place)
    dot = "document.querySelectorAll('.chart use[data-label]')[3]"
    assert browser.evaluate(readout) == browser.evaluate(f"{dot}.dataset.label")
    assert browser.evaluate(readout).startswith("training, means of 3: 0.0")
    assert browser.evaluate(f"{dot}.classList.contains('near')")
    assert browser.evaluate("document.querySelectorAll('.near').length") == 1
    corner = browser.evaluate(
        "(b => ({x: b.right - 5, y: b.top + 5}))"
        "(document.querySelector('.chart svg').getBoundingClientRect())"
    )
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", **corner)
    assert browser.evaluate(readout) == ""


@pytest.mark.slow
def test_a_script_that_got_in_does_not_run(browser, pages):
    page = (pages / "two.html").read_text()
    (pages / "harmed.html").write_text(
        page.replace("<main>", f'<main>{EVIL}<img src="https://example.org/x.png">')
    )
    browser.open(pages / "harmed.html", 1280)
    assert browser.evaluate("document.title") == "isbi: test"
    assert len(browser.complaints()) >= 2
    assert not browser.evaluate("[...document.images].every(i => i.naturalWidth > 0)")


@pytest.mark.slow
def test_pages_stay_small(full):
    size = len(page_of(full, make_history(5000), overlays_of(2, (1280, 1918))))
    assert size < 3_000_000
