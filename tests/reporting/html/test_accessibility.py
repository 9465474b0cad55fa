"""Every page is accessible: WCAG 2.2 A and AA as axe-core checks it, keyboard, print, dark mode.

The variable AXE_CORE names axe.min.js: npm pack axe-core && tar -xzf axe-core-*.tgz
"""

import json
import os
import pathlib

import pytest
from browser import Browser
from made_reports import make_history, make_report

from unet_jax.reporting import comparison
from unet_jax.reporting.html import gallery

pytestmark = pytest.mark.slow

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
CONTRAST = "color-contrast"
# Unfolds details and leaves the first rows of each table, because the others are like them.
PREPARE = """
document.querySelectorAll('details').forEach(details => { details.open = true })
document.querySelectorAll('tbody tr:nth-child(n + 6)').forEach(row => row.remove())
"""
# Shows tables as a whole: axe cannot judge the contrast of text that is scrolled out of sight.
UNROLL = """
document.head.appendChild(document.createElement('style')).textContent =
  '.scroll { overflow: visible; max-height: none } th { position: static !important }'
"""


@pytest.fixture(scope="session")
def axe() -> str:
    path = pathlib.Path(os.environ.get("AXE_CORE", "axe.min.js"))
    if not path.is_file():
        pytest.skip("no axe-core to check pages with; set AXE_CORE to its axe.min.js")
    return path.read_text()


@pytest.fixture
def all_pages(pages) -> pathlib.Path:
    """The folder of the pages of reports, of a comparison and of a prediction."""
    runs = [
        comparison.Run(name, pages / name, make_report(), make_history(), {"seed": seed})
        for seed, name in enumerate(("a", "b"))
    ]
    (pages / "comparison.html").write_text(comparison.render(runs, pages))
    measured = {"name": "cell", "area_pixels": 7, "components": 1, "perimeter_pixels": 9.5}
    classes = [measured | {"mean_probability": 0.9}, measured | {"mean_probability": None}]
    entries = [gallery.Entry(f"{i}.png", f"{i}.jpg", (20, 10), 200, classes) for i in range(9)]
    (pages / "gallery.html").write_text(gallery.render("run: images", entries, None))
    return pages


def violations(browser: Browser, **options) -> list[tuple[str, str]]:
    """What axe-core objects to on the open page: rules, and the first element of each."""
    settings = json.dumps(options | {"resultTypes": ["violations"]})
    answer = browser.call(
        "Runtime.evaluate",
        expression=f"axe.run(document, {settings}).then(r => JSON.stringify(r.violations))",
        awaitPromise=True,
        returnByValue=True,
    )
    found = json.loads(answer["result"]["value"])
    return [(rule["id"], rule["nodes"][0]["html"]) for rule in found]


def test_no_page_violates_wcag(browser, axe, all_pages):
    found = {}
    for path in sorted(all_pages.glob("*.html")):
        browser.open(path, 375)
        browser.evaluate(f"{axe}; {PREPARE}; 0")
        found[path.stem] = violations(browser, runOnly=RULES, rules={CONTRAST: {"enabled": False}})
        browser.evaluate(UNROLL)
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            browser.call("Emulation.setEmulatedMedia", features=features)
            found[path.stem] += violations(browser, runOnly=[CONTRAST])
    assert len(found) == 4
    assert not any(found.values()), str(found)


def press(browser: Browser, key: str) -> None:
    for kind in ("keyDown", "keyUp"):
        code = {"Tab": 9, "ArrowLeft": 37, "ArrowRight": 39}[key]
        browser.call(
            "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code
        )


def test_the_keyboard_reaches_every_control(browser, pages):
    browser.open(pages / "two.html", 1280)
    controls = "[...document.querySelectorAll('a, button, summary, svg[role=img], .scroll')]"
    visible = f"{controls}.filter(e => e.checkVisibility())"
    browser.evaluate(f"window.left = new Set({visible})")
    count = browser.evaluate("left.size")
    assert count > 20
    for _ in range(count):
        press(browser, "Tab")
        browser.evaluate("left.delete(document.activeElement)")
        assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert browser.evaluate("left.size") == 0


def test_arrow_keys_read_the_points_of_a_chart(browser, pages):
    browser.open(pages / "two.html", 1280)
    browser.evaluate("document.querySelector('.chart svg').focus()")
    labels = browser.evaluate(
        "[...document.querySelector('.chart').querySelectorAll('use[data-label]')]"
        ".map(u => u.dataset.label)"
    )
    read = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowLeft"):
        press(browser, key)
        read.append(browser.evaluate("document.querySelector('.chart output').textContent"))
    assert read == [labels[0], labels[1], labels[0], labels[-1]]


def test_a_page_is_printed_whole_and_on_white_paper(browser, pages):
    browser.open(pages / "many.html", 700)
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.call("Emulation.setEmulatedMedia", media="print", features=dark)
    assert browser.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    browser.call("Emulation.setEmulatedMedia", media="")
    assert paper == "rgb(255, 255, 255)"
