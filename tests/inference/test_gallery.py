"""The gallery of a prediction: its measurements are those of its masks, and its page shows them."""

import csv
import json
import pathlib
import re
import time

import numpy as np
import pytest
import scipy
import tifffile
from made_files import noise, save
from made_runs import make_run, predict_files, small_config
from PIL import Image

from unet_jax.core.errors import UserError
from unet_jax.inference.measurements import measure
from unet_jax.reporting.html.gallery import Entry, render


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run", small_config(), 1, calm=True)


def rows_of(output: pathlib.Path) -> list[dict[str, str]]:
    with open(output / "measurements.csv", newline="") as file:
        return list(csv.DictReader(file))


def components(mask: np.ndarray) -> int:
    return scipy.ndimage.label(mask, np.ones((3, 3)))[1]


def test_a_disc_and_a_square_are_measured():
    rows, columns = np.indices((100, 120))
    mask = ((rows - 50) ** 2 + (columns - 40) ** 2 <= 30**2).astype(np.uint8)
    mask[10:20, 90:110] = mask[20:30, 110:120] = 2  # they touch at a corner
    disc, two, absent = measure(mask, np.array([0, 0.8, 0.4, 0]) * 1000, ["no", "a", "b", "c"])
    assert disc["area_pixels"] == (mask == 1).sum()
    assert disc["perimeter_pixels"] == pytest.approx(2 * np.pi * 30, rel=0.02)
    assert disc["mean_probability"] == pytest.approx(800 / disc["area_pixels"])
    assert (two["area_pixels"], two["components"], disc["components"]) == (300, 1, 1)
    nothing = {"area_pixels": 0, "perimeter_pixels": 0, "components": 0, "mean_probability": None}
    assert absent == {"name": "c"} | nothing


def test_files_and_stacks_are_measured_and_shown(run, tmp_path, monkeypatch):
    folder, output, config = tmp_path / "in", tmp_path / "out", small_config(eval__threshold=0.3)
    save(folder / "a&b.png", noise((300, 40)))
    page = {
        "photometric": "minisblack",
        "resolution": (2, 2),
        "metadata": {"unit": "um", "axes": "ZYX"},
    }
    tifffile.imwrite(folder / "stack.tif", noise((3, 20, 24), seed=1), imagej=True, **page)
    (folder / "bad.png").write_text("no image")
    options = {"gallery": True, "side": 64}
    assert predict_files(run, config, folder, output, **options) == 1
    rows = rows_of(output)
    assert [(row["file"], row["page"]) for row in rows] == [
        ("a&b.png", ""),
        *(("stack.tif", str(number)) for number in range(3)),
    ]
    masks = [np.asarray(Image.open(output / "a&b.png")), *tifffile.imread(output / "stack.tif")]
    floats = output / "probabilities"
    probabilities = [tifffile.imread(floats / "a&b.tif"), *tifffile.imread(floats / "stack.tif")]
    for row, mask, values in zip(rows, masks, probabilities, strict=True):
        region = mask == 255
        assert (row["class"], int(row["area_pixels"])) == ("class-1", region.sum())
        assert int(row["components"]) == components(region)
        assert float(row["mean_probability"]) == pytest.approx(values[region].mean(), rel=1e-5)
        assert float(row["perimeter_pixels"]) > 0
    assert rows[0]["area_um2"] == rows[0]["perimeter_um"] == ""
    for row in rows[1:]:
        assert float(row["area_um2"]) == pytest.approx(int(row["area_pixels"]) / 4)
        assert float(row["perimeter_um"]) == pytest.approx(float(row["perimeter_pixels"]) / 2)
    text = (output / "gallery.html").read_text()
    sources = re.findall(r'src="([^"]+)" loading="lazy"', text)
    assert (
        sources[::2]
        == sources[1::2]
        == [
            "gallery/a%26b.jpg",
            *(f"gallery/stack/{number:04d}.jpg" for number in range(3)),
        ]
    )
    with Image.open(output / "gallery/a&b.jpg") as thumbnail:
        assert thumbnail.size == (2 * 34, 256)
    assert "a&amp;b.png" in text and "area, µm²" in text
    share = 100 * int(rows[0]["area_pixels"]) / (300 * 40)
    assert f'<td data-number="{share}">{share:.2f}</td>' in text
    # Rerunning the command predicts nothing, and the page is the same.
    monkeypatch.setattr("unet_jax.inference.outputs.Outputs.write", None)
    (output / "gallery.html").unlink()
    assert predict_files(run, config, folder, output, **options) == 1
    assert (output / "gallery.html").read_text() == text


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 4])
def test_each_class_is_measured(classes, tmp_path):
    config = small_config(model__classes=classes, model__depth=1, data__fit="resize")
    run = make_run(tmp_path / "run", config, 3, calm=True)
    (run / "split.json").write_text(json.dumps({"classes": ["<none>", *"abc"[: classes - 1]]}))
    save(tmp_path / "in" / "x.png", noise((30, 50, 3)))
    output = tmp_path / "out"
    assert predict_files(run, config, tmp_path / "in", output, gallery=True, overlays=True) == 0
    mask = np.asarray(Image.open(output / "x.png")) // (255 if classes == 2 else 1)
    probabilities = tifffile.imread(output / "probabilities" / "x.tif")
    rows = rows_of(output)
    assert [row["class"] for row in rows] == [*"abc"[: classes - 1]]
    for value, row in enumerate(rows, 1):
        region = mask == value
        assert int(row["area_pixels"]) == region.sum()
        values = probabilities if classes == 2 else probabilities[value]
        mean = float(row["mean_probability"]) if region.any() else np.nan
        expected = values[region].mean() if region.any() else np.nan
        np.testing.assert_allclose(mean, expected, rtol=1e-5)
    assert "area_um2" not in rows[0]


def test_files_of_one_name_are_told_apart_by_their_folders(run, tmp_path):
    for patient in ("p1", "p2"):
        save(tmp_path / patient / "slice.png", noise((20, 24)))
    output, config = tmp_path / "out", small_config()
    assert predict_files(run, config, tmp_path / "p*" / "*.png", output, gallery=True) == 0
    names = ["p1/slice.png", "p2/slice.png"]
    assert [row["file"] for row in rows_of(output)] == names
    page = (output / "gallery.html").read_text()
    assert all(name in page for name in names)


def test_an_input_with_the_name_of_the_page_is_refused(run, tmp_path):
    save(tmp_path / "in" / "gallery.html" / "x.png", noise((8, 8)))
    save(tmp_path / "in" / "y.png", noise((8, 8)))
    wanted = tmp_path / "in" / "**" / "*.png"
    with pytest.raises(UserError, match="of which only one can exist"):
        predict_files(run, small_config(), wanted, tmp_path / "out", gallery=True)


def make_page(folder: pathlib.Path, count: int) -> pathlib.Path:
    """A page of `count` images, each with a thumbnail of its own."""
    entries = []
    for number in range(count):
        pixels = noise((48, 128, 3), seed=number)
        pixels[:, :64] //= 4
        save(folder / "gallery" / f"{number}.jpg", pixels)
        own = {"name": "cell", "area_pixels": (number * 7919) % 3072, "components": number % 5}
        own |= {"perimeter_pixels": 10.5 + number, "mean_probability": 0.9 if number else None}
        entries.append(Entry(f"image {number}", f"gallery/{number}.jpg", (64, 48), 3072, [own]))
    path = folder / "gallery.html"
    path.write_text(render("cells: scans", entries, None))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2000])
def test_the_page_loads_what_is_looked_at(browser, tmp_path, count):
    page = make_page(tmp_path, count)
    assert page.stat().st_size < 1500 * count + 20_000
    for width in (1200, 400):
        browser.open(page, width)
        loaded = "document.images[0].complete && document.images[0].naturalWidth"
        waited = time.monotonic()
        while not browser.evaluate(loaded) and time.monotonic() < waited + 20:
            time.sleep(0.05)
        assert browser.evaluate(loaded) == 128
        first, *pictures = browser.requests()
        assert first.endswith("gallery.html")
        assert {address.startswith("file:") for address in pictures} == {True}
        assert 1 <= len(pictures) <= min(count, 80)
        assert browser.complaints() == []
        wide = browser.evaluate("document.documentElement.scrollWidth")
        assert wide <= width
        browser.evaluate("window.scrollTo(0, 1e6)")
        box = "document.querySelector('{}').getBoundingClientRect()"
        gap = f"{box.format('.scroll')}.top - {box.format('.reveal')}.bottom"
        assert browser.evaluate(gap) >= 0  # the slider does not hide the heads of the columns
    names = "[...document.querySelectorAll('tbody th')].slice(0, 2).map(x => x.innerText.trim())"
    assert browser.evaluate(names) == ["image 0", "image 1"][:count]
    browser.evaluate("document.querySelectorAll('th button')[2].click()")
    areas = "[...document.querySelectorAll('tbody td:nth-child(3)')].map(x => +x.dataset.number)"
    found = browser.evaluate(areas)
    assert found == sorted(found) and len(found) == count
    clip = "getComputedStyle(document.querySelector('.pair .mask')).clipPath"
    assert browser.evaluate(clip).startswith("inset(0px")
    slide = (
        "(() => { const slider = document.querySelector('input[data-reveal]'); slider.value = 25;"
        "slider.dispatchEvent(new Event('input')); })()"
    )
    before = browser.evaluate(clip)
    browser.evaluate(slide)
    after = browser.evaluate(clip)
    assert "75%" in after and before != after
    assert browser.complaints() == []
    browser.screenshot(tmp_path / "page.png")
