"""Charts show the points that they are given, as SVG and as PNG."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_reports import make_history
from matplotlib.figure import Figure

from unet_jax.reporting import charts
from unet_jax.reporting.charts import (
    MOST_POINTS,
    SVG,
    Chart,
    Line,
    curve,
    learning_curves,
    svg,
    validation_charts,
)

values = st.floats(-1e6, 1e6, allow_subnormal=False)


def drawn(chart: Chart):
    axes = Figure().subplots()
    charts.draw(axes, chart)
    return axes


def points_of(markup: str) -> list[tuple[float, float]]:
    uses = ElementTree.fromstring(markup).findall(f".//{SVG}use[@data-label]")
    return [(float(use.get("x", "nan")), float(use.get("y", "nan"))) for use in uses]


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(0, 1e4), values), min_size=1, max_size=20), st.booleans())
@example([(0.0, 0.0)], True)
@example([(1.0, 1e-7), (2.0, 1e5)], True)
@example([(1.0, 0.7), (2.0, 0.7)], False)
def test_every_point_of_a_line_is_in_the_svg_in_order(points, logarithmic):
    markup = svg(Chart("t", [Line("a", points, 0)], logarithmic=logarithmic, mark=(3, "m")))
    width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', markup)[0])
    places = points_of(markup)
    assert len(places) == len(points)
    assert all(0 <= x <= width and 0 <= y <= height for x, y in places)
    for axis, sign in ((0, 1), (1, -1)):
        order = np.argsort([point[axis] for point in points], kind="stable")
        along = sign * np.array(places)[order, axis]
        assert (np.diff(along) >= -1e-3).all()


def test_a_point_has_its_line_value_and_position_as_label():
    markup = svg(Chart("a<b", [Line("x<y & $z", [(10, 0.5)], 0), Line("none", [], 1)], x="step"))
    labels = [use.get("data-label") for use in ElementTree.fromstring(markup).iter(f"{SVG}use")]
    assert [label for label in labels if label] == ["x<y & $z: 0.5 at step 10"]
    assert ElementTree.fromstring(markup).get("aria-label") == "a<b"
    assert "var(--c0)" in markup and "currentColor" in markup and "#ffffff" not in markup


def test_an_svg_is_the_same_every_time():
    chart = Chart("t", [Line("a", [(0, 1.0), (1, 2.0)], 0)], diagonal="d")
    assert svg(chart) == svg(chart)


def test_only_a_wide_range_above_zero_is_logarithmic():
    def scale(*values):
        lines = [Line("a", list(enumerate(values)), 0)]
        return drawn(Chart("t", lines, logarithmic=True)).get_yscale()

    assert scale(0.03, 3.0) == "log"
    assert scale(0.1, 2.0) == scale(0.0, 2.0) == scale(-1.0, 100.0) == "linear"


def test_epochs_are_shown_from_the_first():
    assert drawn(Chart("t", [Line("a", [(6, 0.2), (8, 0.4)], 0)])).get_xlim()[0] == 0


def test_marks_diagonals_and_bars_are_drawn():
    lines = [Line("a", [(0, 0.2)], 0), Line("none", [], 1), Line("c", [(1, 0.4)], 7)]
    chart = Chart("t", lines, mark=(0.5, "here"), diagonal="perfect", bars=([(0.1, 7)], "pixels"))
    axes = drawn(chart)
    assert [line.get_label() for line in axes.lines] == ["a", "c", "perfect", "here"]
    assert axes.get_xlim() == axes.get_ylim() == (0, 1)
    assert axes.lines[1].get_linestyle() == "--"
    (bars,) = (other for other in axes.figure.axes if other is not axes)
    assert [bar.get_height() for bar in bars.patches] == [7]


def test_a_chart_without_points_is_drawn_as_such():
    (text,) = drawn(Chart("t", [Line("a", [], 0)])).texts
    assert text.get_text() == "not recorded"
    assert "not recorded" in svg(Chart("t", []))


def test_styles_of_eighteen_lines_differ():
    lines = [Line("", [], i) for i in range(18)]
    assert len({(line.colour, line.dash) for line in lines}) == 18
    assert len({line.css for line in lines}) == 18 and lines[7].css == "dashed var(--c1)"


def test_a_curve_takes_what_is_finite_of_its_split():
    history = [
        {"epoch": 1.0, "split": "train", "loss": 0.0},
        {"epoch": 2.0, "split": "train", "loss": float("nan")},
        {"epoch": 3.0, "split": "train", "loss": None},
        {"epoch": 3.0, "split": "train"},
        {"epoch": 4.0, "split": "train", "loss": 0.5},
        {"epoch": 4.0, "split": "validation", "loss": 0.7},
    ]
    assert curve(history, "train", "loss", "a", 3) == Line("a", [(1.0, 0.0), (4.0, 0.5)], 3)
    assert curve(history, "validation", "dice", "a", 3) == Line("a", [], 3)


def test_a_long_curve_is_averaged_and_says_so():
    count = 2 * MOST_POINTS + 1
    history = [{"epoch": i, "split": "train", "loss": 2 * i} for i in range(count)]
    line = curve(history, "train", "loss", "a", 0)
    assert line.name == "a, means of 3"
    assert line.points[0] == (1.0, 2.0) and line.points[1] == (4.0, 8.0)
    assert len(line.points) == -(-count // 3) <= MOST_POINTS
    assert line.points[-1] == (count - 1.0, 2 * (count - 1.0))  # one is left over
    assert curve(history[:MOST_POINTS], "train", "loss", "a", 0).name == "a"


def test_learning_curves_show_losses_metrics_and_the_reported_step():
    losses, metrics = learning_curves(make_history(), reported_step=48)
    assert [line.name for line in losses.drawn] == ["training", "validation"]
    assert [line.name for line in metrics.drawn] == ["Dice", "IoU"]  # one is None
    assert losses.mark == metrics.mark == (4.0, "reported checkpoint, step 48")
    assert all(chart.mark is None for chart in learning_curves(make_history(), reported_step=7777))
    assert all(not chart.drawn for chart in learning_curves([], reported_step=3))


@pytest.mark.parametrize("logged", [{"iou/mean": 0.4}, {"iou/mean": 0.4, "mean_iou": 0.9}])
def test_the_curve_is_of_the_statistic_that_selects_the_model(logged):
    """The pooled mean IoU, of which the best model has the highest, not its mean over images."""
    history = [{"step": 8, "epoch": 1.0, "split": "validation", "loss": 0.2} | logged]
    _, metrics = learning_curves(history, reported_step=8)
    assert [(line.name, line.points) for line in metrics.lines] == [
        ("mean IoU, pooled", [(1.0, 0.4)])
    ]
    chart = validation_charts({"run": history})[-1]
    assert (chart.title, chart.lines[0].points) == ("Validation: mean IoU, pooled", [(1.0, 0.4)])


@pytest.mark.parametrize("validated", [True, False])
def test_a_figure_has_the_charts_side_by_side(validated):
    history = [x for x in make_history() if validated or x["split"] == "train"]
    figure = charts.figure(learning_curves(history, 48))
    titles = ["Loss", "Validation metrics"] if validated else ["Loss"]
    assert [axes.get_title() for axes in figure.axes] == titles
    assert all(axes.get_legend() for axes in figure.axes)
    assert charts.png(figure).startswith(b"\x89PNG")


def test_the_calibration_chart_has_the_points_it_is_given():
    calibration = {"predicted": [0.1, 0.9], "observed": [0.2, 0.8], "pixels": [100, 300]}
    chart = charts.calibration_chart(calibration, "the pixel is cell")
    assert chart.lines[0].points == [(0.1, 0.2), (0.9, 0.8)]
    assert chart.bars == ([(0.1, 100), (0.9, 300)], "pixels, logarithmic")


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(0, 1)), min_size=2, max_size=9))
def test_every_point_is_inside_the_axes(points):
    axes = drawn(Chart("a", [Line("b", points, 0)]))
    low, high = axes.get_xlim()
    assert low <= min(x for x, _ in points) and max(x for x, _ in points) <= high


@pytest.mark.parametrize(
    "event", ["the pixel is cell", "the pixel is " + "membrane of a cell " * 9]
)
def test_all_text_of_a_calibration_figure_is_inside_it(event):
    calibration = {"predicted": [0.1, 0.9], "observed": [0.2, 0.8], "pixels": [100, 300]}
    figure = charts.figure([charts.calibration_chart(calibration, event)])
    charts.png(figure)  # places the text
    for axes in figure.axes:
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
            place = text.get_window_extent()
            assert figure.bbox.x0 <= place.x0 and place.x1 <= figure.bbox.x1, text
            assert figure.bbox.y0 <= place.y0 and place.y1 <= figure.bbox.y1, text
    assert figure.axes[0].get_ylabel() == "observed share"
