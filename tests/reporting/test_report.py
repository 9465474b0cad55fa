"""Tests of unet_jax.report: what is written, what it says, and what is refused."""

import copy
import errno
import json
import pathlib
import struct

import numpy as np
import pytest
from made_reports import (
    make_history,
    make_overlay,
    make_probabilistic,
    make_report,
    make_trivial,
    statistics,
)

from unet_jax.core.names import in_markdown
from unet_jax.reporting import charts, overlays, sections
from unet_jax.reporting import report as reports
from unet_jax.reporting.figures import overlay_figure
from unet_jax.reporting.overlays import Overlay, error_colours
from unet_jax.reporting.report import write_report

pytestmark = pytest.mark.usefixtures("no_pictures")

FILES = {
    "report.json",
    "report.html",
    "report.md",
    "figures/report-curves.png",
    "figures/report-overlays.png",
}


@pytest.fixture
def report() -> dict:
    return make_report()


@pytest.fixture
def trivial() -> dict:
    return make_trivial()


@pytest.fixture
def probabilistic(report) -> dict:
    return make_probabilistic(report)


def test_metrics_without_a_value_for_some_images_are_named(tmp_path, report):
    write_report(tmp_path, report, make_history(), [])
    assert "Without a value" not in (tmp_path / "report.md").read_text()
    first, *_ = report["per_image"].values()
    first["dice"] = None
    write_report(tmp_path, report, make_history(), [])
    count = len(report["per_image"])
    for name in ("report.md", "report.html"):
        page = (tmp_path / name).read_text()
        assert f"Without a value for some of the {count} images" in page and "Dice (1)." in page


def test_thresholds_and_calibration_have_sections_and_a_picture(tmp_path, probabilistic):
    write_report(tmp_path, probabilistic, make_history(), [])
    page = (tmp_path / "report.md").read_text()
    assert "| used in this report | 0.5000 | 0.9000 | 0.8000 | 0.7000 | 0.6100 | 0.6200 |" in page
    assert "| best on these images | – | – | 0.8000 | 0.7000 | 0.6100 | 0.6200 |" in page
    assert "| rule | threshold | Dice | IoU | pixel accuracy | V^Rand | V^Info |" in page
    assert "chosen on validation" in page
    assert "at the best threshold, is 0.0543 here" in page
    assert "expected calibration error, 0.0321" in page
    assert (tmp_path / "figures/report-calibration.png").read_bytes().startswith(b"\x89PNG")


def test_no_calibration_no_picture(tmp_path, probabilistic):
    nothing = {"error": None, "predicted": [], "observed": [], "pixels": []}
    write_report(tmp_path, probabilistic | {"calibration": nothing}, make_history(), [])
    assert "Calibration" not in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "figures/report-calibration.png").exists()


def test_an_example_strip_shows_the_image_and_its_errors():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (600, 300, 1), dtype=np.uint8)
    label = np.zeros((600, 300), np.uint8)
    prediction = np.zeros_like(label)
    prediction[:30, :30] = 1  # false positives
    strip = overlays.example_strip(image, label, prediction, classes=2)
    assert strip.shape == (200, 200, 3)
    np.testing.assert_array_equal(strip[:, :100, 0], image[::3, ::3, 0])
    grey = strip[20:, 110:]
    assert (grey.min(-1) == grey.max(-1)).all()
    assert (strip[:10, 100:110, 0] > strip[:10, 100:110, 2] + 50).all()  # vermilion
    many = overlays.example_strip(image, label, prediction, classes=3)
    np.testing.assert_array_equal(many[:, 100:], overlays.class_colours(prediction[::3, ::3]))


def _files(folder: pathlib.Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def _page(folder: pathlib.Path, report: dict) -> str:
    write_report(folder, report, [], [])
    return (folder / "report.md").read_text()


def test_writes_the_five_files_and_nothing_else(real_pictures, tmp_path, report):
    write_report(tmp_path, report, make_history(), [make_overlay(), make_overlay(3)])
    assert _files(tmp_path) == FILES
    write_report(tmp_path, report, make_history(), [make_overlay()], stem="test")
    assert _files(tmp_path) == FILES | {name.replace("report", "test") for name in FILES}
    for picture in (tmp_path / "figures").iterdir():
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size < 1_500_000


def test_json_keeps_every_key_in_order_and_every_value(tmp_path, report):
    report |= {"unknown": {"deep": [1, None, "é"]}}
    write_report(tmp_path, report, [], [])
    text = (tmp_path / "report.json").read_text()
    assert json.loads(text) == report
    assert list(json.loads(text)) == list(report)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float64("nan")])
def test_what_is_not_finite_is_refused_by_its_place(tmp_path, report, value):
    report["per_image"]["slice-03"]["dice"] = value
    with pytest.raises(ValueError, match=r"report\['per_image'\]\['slice-03'\]\['dice'\] is"):
        write_report(tmp_path, report, [], [])
    report["per_image"] = {"slice-03": {"list": [0.0, value]}}
    with pytest.raises(ValueError, match=r"\['list'\]\[1\] is"):
        write_report(tmp_path, report, [], [])
    assert not _files(tmp_path)


def test_page_says_what_was_measured(tmp_path, report):
    write_report(tmp_path, report, make_history(), [make_overlay()])
    page = (tmp_path / "report.md").read_text()
    assert "The **test** split of isbi, 2 images" in page
    assert "checkpoint `best` of step 48" in page
    assert "the class **cell**, predicted with the threshold 0.5" in page
    assert "| Dice | 0.9300 | 0.8300 | 0.9800 | 0.9300 |" in page
    assert "| loss | 0.1912 | 0.1000 | 0.3000 | – |" in page
    assert "| membrane | 0.7100 | 0.5500 |" in page
    assert "1,942,481" in page and "ab12" in page
    assert "1. `slice-03`: best: slice-03, Dice 0.94" in page
    for name in FILES - {"report.json", "report.html", "report.md"}:
        assert f"]({name})" in page


def with_intervals(report, images=2):
    """The report with confidence intervals, of so many images."""
    report["bootstrap"] = {"level": 0.95, "draws": 1000, "seed": 0}
    rows = [report["per_image"]["slice-03"]] * images
    report["per_image"] = {f"slice-{i:02d}": row for i, row in enumerate(rows)}
    for values in report["aggregate"].values():
        values["interval"] = [0.91, 0.94] if images > 1 else None
        if values["pooled"] is not None:
            values["pooled_interval"] = [0.92, 0.96] if images > 1 else None
    report["observer"] = {"aggregate": {"dice": statistics(0.78)}, "per_image": {}}
    return report


def test_confidence_intervals_are_shown_and_explained(tmp_path, report):
    page = _page(tmp_path, with_intervals(report, 30))
    assert (
        "| metric | mean | 95 % CI of the mean | min | max | pooled | 95 % CI of the pooled |"
        in page
    )
    dice = "| Dice | 0.9300 | 0.9100 – 0.9400 | 0.8300 | 0.9800 | 0.9300 | 0.9200 – 0.9600 |"
    assert dice in page
    assert "| loss | 0.1912 | 0.9100 – 0.9400 | 0.1000 | 0.3000 | – | – |" in page
    assert "1,000 times, 30 of them are drawn with replacement (seed 0)" in page
    assert f"| Dice, mean | {in_markdown('0.9300 [0.9100, 0.9400]')} | 0.7800 |" in page
    assert "too narrow.**" not in page
    assert "In brackets: 95 % confidence intervals." in page
    web = (tmp_path / "report.html").read_text()
    assert 'over the images">CI 0.9100 – 0.9400</p>' in web and 'href="#all-metrics"' in web


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (3, "**With only 3 images, the intervals are too narrow.**"),
        (1, "A confidence interval over the images needs at least two; this split has one."),
    ],
)
def test_few_images_are_warned_of(tmp_path, report, images, text):
    assert text in _page(tmp_path, with_intervals(report, images))


def test_page_lists_every_image_by_name_with_dashes_for_none(tmp_path, report):
    page = _page(tmp_path, report)
    rows = ["| `slice-03` | 0.1000 | 0.9400 | 0.9900 |", "| `slice-11` | 0.2000 | 0.9200 | – |"]
    assert "\n".join(rows) in page


def test_names_cannot_break_a_table(tmp_path, report):
    report["per_image"] = {"a|b": {"dice": 1.0}}
    assert "| `a\\|b` | 1.0000 |" in _page(tmp_path, report)


def test_unknown_and_absent_keys_do_no_harm(tmp_path, report, trivial):
    small = {key: report[key] for key in ("name", "split", "classes", "aggregate")}
    page = _page(tmp_path, small)
    assert "## Each" not in page and "## Made" not in page
    note = {"note": "a word"}
    extra = {"sharpness": statistics(0.5) | {"median": 0.5}}
    for part in ("aggregate", "per_class", "per_image"):
        report[part] |= note
    trivial["aggregate"] |= note
    report["aggregate"] |= extra
    page = _page(tmp_path, report | {"trivial": trivial, "extra": 1})
    assert "| sharpness | 0.5000 | 0.4000 | 0.5500 | 0.5000 |" in page


def test_trivial_predictor_appears_only_where_given(tmp_path, report, trivial):
    assert "trivial" not in _page(tmp_path / "run", report).lower()
    assert "trivial" not in _page(tmp_path / "run", report | {"trivial": None}).lower()
    page = _page(tmp_path / "run", report | {"trivial": trivial})
    assert "same class, here all cell. The model is better than this in Dice. " in page
    assert "| Dice, mean over images | 0.9300 | 0.8800 | +0.0500 |" in page
    assert "| Dice of membrane, pooled | 0.7100 | 0.0000 | +0.7100 |" in page
    assert "not better" not in page


@pytest.mark.parametrize("mean", [0.93, 0.95])
def test_page_says_so_when_the_model_is_not_better(tmp_path, report, trivial, mean):
    trivial["aggregate"]["dice"] = statistics(mean)
    page = _page(tmp_path, report | {"trivial": trivial})
    assert "**The model is not better than this in Dice.**" in page
    assert "The model is better" not in page


def test_page_judges_nothing_by_a_metric_without_meaning(tmp_path, report, trivial):
    trivial["aggregate"]["dice"]["mean"] = None
    page = _page(tmp_path, report | {"trivial": trivial})
    assert "| Dice, mean over images | 0.9300 | – | – |" in page
    assert "better than this" not in page


def test_many_classes_have_no_threshold_and_pool_the_headline(tmp_path, report):
    report |= {"classes": ["background", "cat", "dog"], "threshold": None}
    write_report(tmp_path, report, make_history(), [make_overlay(3)])
    page = (tmp_path / "report.md").read_text()
    assert "most probable of 3 classes" in page and "headline IoU is the pooled one" in page
    assert "threshold" not in page.split("## What")[0]


def test_the_page_has_the_fields_of_the_evaluation_and_the_splits_of_the_run(tmp_path, report):
    (tmp_path / "config.json").write_text('{"config": {"model": {"width": 18}}}')
    write_report(tmp_path, report, [], [])
    assert "Configuration" not in (tmp_path / "report.html").read_text()
    (tmp_path / "split.json").write_text('{"train": ["slice-08"], "seed": 5}')
    write_report(tmp_path, report, [], [], stem="test", config={"model": {"width": 17}})
    page = (tmp_path / "test.html").read_text()
    assert "<code>model.width</code></th><td>17</td>" in page and "slice-08" in page


def test_empty_history_and_no_overlays_are_drawn_as_such(tmp_path, report):
    write_report(tmp_path, report, [], [])
    assert _files(tmp_path) == FILES


def test_errors_are_coloured_on_a_hand_made_case():
    image = np.full((4, 4, 1), 101, np.uint8)
    label = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [255, 255, 255, 255]], np.uint8)
    prediction = np.array([[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0]], np.uint8)
    shown = error_colours(image, label, prediction, positive=1)
    assert shown.shape == (4, 4, 3) and shown.dtype == np.uint8
    grey = 178  # half way from 101 to white
    vermilion, blue = np.array([0xD5, 0x5E, 0x00]), np.array([0x00, 0x72, 0xB2])
    np.testing.assert_array_equal(shown[0, 2], np.rint(0.15 * grey + 0.85 * vermilion))
    np.testing.assert_array_equal(shown[0, 1], np.rint(0.15 * grey + 0.85 * blue))
    right = (label == prediction) & (label != 255)
    assert right.sum() == 10
    assert (shown[right] == grey).all()
    assert {tuple(pixel) for pixel in shown[3]} == {(0x6E,) * 3, (0xB4,) * 3}

    swapped = error_colours(image, label, prediction, positive=0)
    np.testing.assert_array_equal(swapped[0, 1], shown[0, 2])
    np.testing.assert_array_equal(swapped[0, 2], shown[0, 1])


def test_images_of_16_bits_fill_their_own_range():
    image = np.array([[[1000], [1500], [2000]]], np.uint16)
    empty = np.zeros((1, 3), np.uint8)
    dark, _, light = error_colours(image, empty, empty, 1)[0, :, 0]
    assert (dark, light) == (128, 255)
    left = overlay_figure([Overlay("a", "a", image, empty, empty)], ["a", "b"]).axes[0]
    np.testing.assert_array_equal(left.images[0].get_array()[0, :, 0], [0, 128, 255])
    constant = error_colours(np.full_like(image, 7), empty, empty, 1)
    assert len(np.unique(constant)) == 1


@pytest.mark.parametrize("classes", [["a", "b"], ["a", "b", "c"]])
@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (3, np.uint8), (1, np.uint16)])
def test_every_kind_of_image_is_drawn(channels, dtype, classes):
    overlay = make_overlay(channels, dtype)
    figure = overlay_figure([overlay, overlay], classes)
    expected = [panel for _ in range(2) for panel in overlays.panels(overlay, classes, 99).values()]
    for axes, panel in zip(figure.axes, expected, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), panel)
    legend = [text.get_text() for text in figure.legends[0].texts]
    assert legend[-1] == "ignored, counted nowhere"
    assert "b missed (FN)" in legend if len(classes) == 2 else legend[:2] == ["a", "b"]


def test_titles_that_are_long_or_look_like_mathematics_are_drawn(real_pictures, tmp_path, report):
    overlay = make_overlay()
    odd = Overlay("odd", "$x_ and $^ " + "y" * 200, overlay.image, overlay.label, overlay.label)
    write_report(tmp_path, report, [], [odd])


def test_large_images_are_decimated():
    overlay = make_overlay(1, np.uint8, (1100, 2100))
    panel = overlay_figure([overlay], ["a", "b"]).axes[0].images[0].get_array()
    assert panel.shape == (367, 700, 3)


@pytest.mark.slow
def test_noisy_pictures_stay_small(real_pictures, tmp_path, report, monkeypatch):
    monkeypatch.setattr(charts, "LARGEST_PNG", 200_000)
    write_report(tmp_path, report, [], [make_overlay(1, np.uint8, (400, 400))])
    data = (tmp_path / "figures/report-overlays.png").read_bytes()
    width, _ = struct.unpack(">2I", data[16:24])
    assert len(data) <= 200_000 and 72 * 9 <= width < 150 * 9


def test_overlay_of_different_sizes_is_refused(tmp_path, report):
    overlay = make_overlay()
    odd = Overlay("odd", "odd", overlay.image, overlay.label, overlay.label[:5])
    with pytest.raises(ValueError, match="overlay 'odd' differ in size"):
        write_report(tmp_path, report, [], [odd])


@pytest.mark.parametrize(
    ("broken", "lost"),
    [
        ("overlay_figure", {"figures/report-overlays.png"}),
        ("charts", {"figures/report-curves.png"}),
        ("png", {"figures/report-overlays.png", "figures/report-curves.png"}),
        ("_markdown", {"report.md"}),
        ("page", {"report.html"}),
    ],
)
def test_what_cannot_be_rendered_costs_no_number(
    tmp_path, report, monkeypatch, capsys, broken, lost
):
    write_report(tmp_path, report, [], [])

    def fail(*_):
        raise RuntimeError("no more ink")

    if broken == "page":
        monkeypatch.setattr(reports.html_report, "render", fail)
    elif broken == "charts":
        monkeypatch.setattr(charts, "figure", fail)
    else:
        monkeypatch.setattr(charts if broken == "png" else reports, broken, fail)
    changed = copy.deepcopy(report) | {"loss": 0.5}
    write_report(tmp_path, changed, make_history(), [])
    assert json.loads((tmp_path / "report.json").read_text()) == changed
    # What is there is of these numbers: the old picture is gone too, and the page does not show it.
    assert _files(tmp_path) == FILES - lost
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(lost)
    for name, line in zip(sorted(lost), sorted(lines), strict=True):
        assert line.startswith(f"error: {tmp_path / name}: could not be made (RuntimeError: no ")
    if "report.md" not in lost:
        text = (tmp_path / "report.md").read_text()
        assert "0.5000" in text
        for name in lost:
            assert name not in text


def test_a_failure_while_writing_leaves_no_temporary_file(tmp_path, report, monkeypatch):
    write_report(tmp_path, report, [], [])
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    write_bytes = pathlib.Path.write_bytes

    def disk_full(path: pathlib.Path, data: bytes) -> int:
        write_bytes(path, data[:10])
        if ".md" in path.name:
            raise OSError(errno.ENOSPC, "no space left")
        return len(data)

    monkeypatch.setattr(pathlib.Path, "write_bytes", disk_full)
    with pytest.raises(OSError, match="no space"):
        write_report(tmp_path, report | {"loss": 0.5}, [], [])
    assert {name: (tmp_path / name).read_bytes() for name in _files(tmp_path)} == before


def test_a_report_of_one_image_says_that_it_says_little():
    report = {"per_image": {"a": {}}}
    assert sections.image_count(report) == "1 image, too few to rely on the scores"
    assert sections.image_count({"per_image": {"a": {}, "b": {}}}) == "2 images"
    assert [sections.rounded(x) for x in (0.5, 0.19140625, None)] == ["0.5", "0.1914", "–"]
