"""SVG charts of a page: they scale, use the page's colours, and show the value of each point."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from unet_jax.reporting.html.markup import Markup, tag

COLOURS = 6  # number of colours: the classes c0 to c5 of page.css
DASHES = (None, "6 3", "2 2")  # dash patterns of the first to third line of a colour
WIDTH, HEIGHT = 420, 270  # size of a chart in SVG user units
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 10, 38  # margins around the axes, in the same units
MOST_POINTS = 150  # most points of a line; longer series are averaged in groups


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a chart: points (x, y), and the number of its style, which sets colour and dash."""

    name: str
    points: Sequence[tuple[float, float]]
    style: int

    @property
    def colour(self) -> str:
        """The CSS class of the line's colour in page.css."""
        return f"c{self.style % COLOURS}"

    @property
    def dash(self) -> str | None:
        """The dash pattern as an SVG attribute; None is a solid line."""
        return DASHES[self.style // COLOURS % len(DASHES)]


def curve(
    history: Iterable[Mapping[str, Any]], split: str, metric: str, name: str, style: int
) -> Line:
    """Extracts a metric over the epochs from a history.

    Args:
      history: the records of `metrics.jsonl`; those without a finite value are left out.
      split: name of the split.
      metric: key of the metric in the records.
      name: name of the line. If points are averaged, the number in each group is appended.
      style: number of the line's style.

    Returns:
      A line of at most `MOST_POINTS` points; if there are more, consecutive points are averaged.
    """
    values = [(r["epoch"], r.get(metric)) for r in history if r.get("split") == split]
    points = [(epoch, v) for epoch, v in values if v is not None and math.isfinite(v)]
    together = math.ceil(len(points) / MOST_POINTS)
    if together > 1:
        groups = [points[i : i + together] for i in range(0, len(points), together)]
        points = [(float(x), float(y)) for x, y in (np.mean(group, axis=0) for group in groups)]
        name = f"{name}, means of {together}"
    return Line(name, points, style)


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    x: str,
    mark: tuple[float, str] | None = None,
    diagonal: str | None = None,
    logarithmic: bool = False,
    named: bool = True,
) -> Markup:
    """Draws lines with axes.

    Args:
      title: caption of the chart.
      lines: lines to draw; those without points are left out.
      x: label of the horizontal axis.
      mark: position and name of a vertical line.
      diagonal: name of the line y = x, which is drawn if it is set; both axes then cover [0, 1].
      logarithmic: makes the y axis logarithmic if all values are above 0 and max > 20 * min.
      named: whether the chart has a legend.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return tag("figure", tag("figcaption", title), tag("p", "no record of it"))
    xs = [px for line in lines for px, _ in line.points] + ([mark[0]] if mark else [])
    ys = [py for line in lines for _, py in line.points]
    logarithmic = logarithmic and min(ys) > 0 and max(ys) > 20 * min(ys)
    x_ticks = _ticks([0, 1] if diagonal else [0, *xs])
    y_ticks = _log_ticks(ys) if logarithmic else _ticks([0, 1] if diagonal else ys)

    def at_x(value: float) -> float:
        share = (value - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def at_y(value: float) -> float:
        low, high = y_ticks[0], y_ticks[-1]
        if logarithmic:
            value, low, high = math.log(value), math.log(low), math.log(high)
        share = (value - low) / (high - low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    drawn = [
        *(_rule(at_x(t), TOP, at_x(t), bottom, class_="grid") for t in x_ticks),
        *(_rule(LEFT, at_y(t), right, at_y(t), class_="grid") for t in y_ticks),
        *(tag("text", f"{t:g}", x=at_x(t), y=bottom + 15, class_="tick-x") for t in x_ticks),
        *(tag("text", f"{t:g}", x=LEFT - 6, y=at_y(t) + 4, class_="tick-y") for t in y_ticks),
        tag("text", x, x=(LEFT + right) / 2, y=HEIGHT - 5, class_="tick-x"),
    ]
    keys = [_key(line.name, line.colour, line.dash) for line in lines]
    if mark:
        drawn.append(_rule(at_x(mark[0]), TOP, at_x(mark[0]), bottom, class_="mark"))
        keys.append(_key(mark[1], "mark", None))
    if diagonal:
        drawn.append(_rule(at_x(0), at_y(0), at_x(1), at_y(1), class_="mark"))
        keys.append(_key(diagonal, "mark", None))
    for line in lines:
        places = " ".join(f"{at_x(px)},{at_y(py)}" for px, py in line.points)
        style = {"class_": line.colour, "stroke_dasharray": line.dash}
        drawn.append(tag("polyline", points=places, **style))
        drawn += [
            tag(
                "circle",
                cx=at_x(px),
                cy=at_y(py),
                r=1.8,
                class_=line.colour,
                aria_label=f"{line.name}: {py:.4g} at {x} {px:.4g}",
            )
            for px, py in line.points
        ]
    return tag(
        "figure",
        tag("figcaption", title, " ", tag("output")),
        tag("svg", *drawn, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title),
        tag("ul", *keys, class_="legend") if named else None,
        class_="chart",
    )


def legend(lines: Iterable[Line]) -> Markup:
    """Builds the legend of lines that several charts share."""
    keys = (_key(line.name, line.colour, line.dash) for line in lines)
    return tag("ul", *keys, class_="legend")


def strip(values: Mapping[str, float]) -> Markup:
    """Draws a dot for each named value on a line from the lowest to the highest."""
    low, high = min(values.values()), max(values.values())
    dots = [
        tag("circle", tag("title", f"{name}: {value:.4f}"), cx=round(place, 1), cy=6, r=3.5)
        for name, value in values.items()
        for place in [6 + 188 * ((value - low) / (high - low) if high > low else 0.5)]
    ]
    rule = _rule(6, 6, 194, 6, class_="grid")
    return tag("svg", rule, *dots, viewBox="0 0 200 12", class_="strip", aria_hidden="true")


def _key(name: str, colour: str, dash: str | None) -> Markup:
    line = _rule(0, 5, 22, 5, class_=colour, stroke_dasharray=dash)
    sample = tag("svg", line, viewBox="0 0 22 10", width=22, height=10, aria_hidden="true")
    return tag("li", sample, " ", name)


def _rule(x1: float, y1: float, x2: float, y2: float, **attributes: str | None) -> Markup:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, **attributes)


def _ticks(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    if high == low:
        low, high = low - 0.5, high + 0.5
    return list(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))


def _log_ticks(values: Sequence[float]) -> list[float]:
    """Returns 1, 2 and 5 times powers of ten that enclose all values."""
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    ticks = [m * 10.0**power for power in powers for m in (1, 2, 5)]
    first = max(i for i, tick in enumerate(ticks) if tick <= min(values))
    last = min(i for i, tick in enumerate(ticks) if tick >= max(values))
    return ticks[first : last + 1]
