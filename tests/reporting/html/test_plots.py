"""Tests of unet_jax.reporting.html.plots: points lie where their values are, whatever these are."""

import itertools
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unet_jax.reporting.html.plots import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MOST_POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Line,
    chart,
    curve,
    legend,
    strip,
)

numbers = st.floats(-1e6, 1e6, allow_subnormal=False)


def points_of(markup: str) -> list[list[tuple[float, float]]]:
    lines = re.findall(r'<polyline points="([^"]*)"', markup)
    return [[tuple(map(float, p.split(","))) for p in line.split()] for line in lines]


def test_points_lie_where_the_axes_say():
    markup = chart("t", [Line("a", [(0, 0.0), (5, 1.0), (10, 0.5)], 0)], x="epoch")
    inner = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    middle = LEFT + inner[0] / 2, TOP + inner[1] / 2
    ((first, second, third),) = points_of(markup)
    assert first == (LEFT, HEIGHT - BOTTOM)
    assert second == (pytest.approx(middle[0], abs=0.1), TOP)
    assert third == (WIDTH - RIGHT, pytest.approx(middle[1], abs=0.1))
    assert re.findall(r'class="tick-x">([\d.]+)<', markup) == ["0", "2", "4", "6", "8", "10"]
    assert re.findall(r'class="tick-y">([\d.]+)<', markup) == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
    assert 'aria-label="a: 0.5 at epoch 10"' in markup
    circles = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', markup)
    assert [tuple(map(float, place)) for place in circles] == [first, second, third]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(0, 1e4), numbers), min_size=1, max_size=20), st.booleans())
@example([(0.0, 0.0)], True)
@example([(1.0, 1e-7), (2.0, 1e5)], True)
@example([(1.0, 0.7), (2.0, 0.7)], False)
@example([(1.0, 2e-5), (2.0, 1e-3)], True)
def test_every_point_is_inside_the_axes_and_in_order(points, logarithmic):
    markup = chart("t", [Line("a", points, 0)], x="epoch", logarithmic=logarithmic, mark=(3, "m"))
    (places,) = points_of(markup)
    assert len(places) == len(points)
    for x, y in places:
        assert LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT - BOTTOM
    for axis, sign in ((0, 1), (1, -1)):
        pairs = sorted(
            (p[axis], sign * place[axis]) for p, place in zip(points, places, strict=True)
        )
        assert all(a[1] <= b[1] for a, b in itertools.pairwise(pairs))


def test_only_a_wide_range_above_zero_is_logarithmic():
    def ticks(values):
        markup = chart("t", [Line("a", list(enumerate(values)), 0)], x="epoch", logarithmic=True)
        return [float(tick) for tick in re.findall(r'class="tick-y">([\d.e-]+)<', markup)]

    assert ticks([0.03, 3.0]) == [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]
    assert ticks([0.05, 2.0]) == [0.05, 0.1, 0.2, 0.5, 1, 2]
    assert ticks([0.1, 2.0]) == [0, 0.5, 1, 1.5, 2]
    assert ticks([0.0, 2.0]) == [0, 0.5, 1, 1.5, 2]


def test_epochs_are_shown_from_the_first():
    markup = chart("t", [Line("a", [(6, 0.2), (8, 0.4)], 0)], x="epoch")
    assert re.findall(r'class="tick-x">([\d.]+)<', markup) == ["0", "2", "4", "6", "8"]


def test_marks_diagonals_and_names():
    lines = [Line("a<b", [(0, 0.2)], 0), Line("none", [], 1), Line("c", [(1, 0.4)], 7)]
    markup = chart("t", lines, x="p", mark=(0.5, "here"), diagonal="perfect")
    assert re.findall(r"</svg> (.*?)</li>", markup) == ["a&lt;b", "c", "here", "perfect"]
    assert markup.count("<polyline") == 2
    assert re.findall(r'class="c(\d)" stroke-dasharray="([\d ]+)"/?>', markup)[0] == ("1", "6 3")
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    (mark, diagonal) = re.findall(r'x1="([\d.]+)"[^>]*class="mark"', markup.split("legend")[0])
    assert float(mark) == middle and float(diagonal) == LEFT
    assert "legend" not in chart("t", lines, x="p", named=False)
    assert re.findall(r"</svg> (.*?)</li>", legend(lines)) == ["a&lt;b", "none", "c"]


def test_no_point_is_said():
    assert "no record of it" in chart("t", [Line("a", [], 0)], x="epoch")


def test_styles_of_eighteen_lines_differ():
    styles = {(line.colour, line.dash) for line in (Line("", [], i) for i in range(18))}
    assert len(styles) == 18


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


def test_a_strip_goes_from_the_lowest_to_the_highest():
    markup = strip({"a<": 0.5, "b": 0.7, "c": 0.55})
    assert re.findall(r'<circle cx="([\d.]+)"', markup) == ["6.0", "194.0", "53.0"]
    assert "<title>a&lt;: 0.5000</title>" in markup
    assert re.findall(r'<circle cx="([\d.]+)"', strip({"a": 0.5})) == ["100.0"]
