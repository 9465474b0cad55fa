"""Charts of lines, drawn with matplotlib: as SVG for HTML pages and as PNG for Markdown pages."""

import dataclasses
import io
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

from unet_jax.core.names import in_figure, printable
from unet_jax.metrics.registry import by_prominence
from unet_jax.reporting.colours import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION

COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
DASHES = ("solid", "dashed", "dotted")  # of the first six lines, the next six, ...
MOST_POINTS = 150  # most points of a line; longer series are averaged in groups
LARGEST_PNG = 1_500_000  # bytes; images of noisy tissue hardly compress
SVG = "{http://www.w3.org/2000/svg}"
ElementTree.register_namespace("", SVG[1:-1])
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a chart: points (x, y), and the number of its style, which sets colour and dash."""

    name: str
    points: Sequence[tuple[float, float]]
    style: int

    @property
    def colour(self) -> str:
        return COLOURS[self.style % len(COLOURS)]

    @property
    def dash(self) -> str:
        return DASHES[self.style // len(COLOURS) % len(DASHES)]

    @property
    def css(self) -> str:
        """The line's look as CSS, such as `dashed var(--c0)`; see `svg`."""
        return f"{self.dash} var(--c{self.style % len(COLOURS)})"


@dataclasses.dataclass(frozen=True)
class Chart:
    """Lines over one horizontal axis.

    Attributes:
      title: heading of the chart.
      lines: those without points are left out.
      x: label of the horizontal axis.
      y: label of the vertical axis; by default it has none.
      mark: position and name of a vertical line.
      diagonal: name of the line y = x, which is drawn if it is set; both axes then cover [0, 1].
      bars: heights at positions x, on a logarithmic axis of their own, and their label.
      logarithmic: makes the y axis logarithmic if all values are above 0 and max > 20 * min.
    """

    title: str
    lines: Sequence[Line]
    x: str = "epoch"
    y: str = ""
    mark: tuple[float, str] | None = None
    diagonal: str | None = None
    bars: tuple[Sequence[tuple[float, float]], str] | None = None
    logarithmic: bool = False

    @property
    def drawn(self) -> list[Line]:
        """The lines that have points."""
        return [line for line in self.lines if line.points]


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
    size = math.ceil(len(points) / MOST_POINTS)
    if size > 1:
        groups = [points[i : i + size] for i in range(0, len(points), size)]
        points = [(float(x), float(y)) for x, y in (np.mean(group, axis=0) for group in groups)]
        name = f"{name}, means of {size}"
    return Line(name, points, style)


def learning_curves(
    history: Sequence[Mapping[str, Any]], reported_step: int | None = None
) -> list[Chart]:
    """Returns the charts of the losses and of the prominent validation metrics over the epochs.

    Metrics with different units are in different charts. A run without validation has no metrics.

    Args:
      history: the records of `metrics.jsonl`.
      reported_step: the step of the reported checkpoint, which is marked if it is in the history.
    """
    epochs = {record["step"]: record["epoch"] for record in history if "epoch" in record}
    mark = None
    if reported_step in epochs:
        mark = epochs[reported_step], f"reported checkpoint, step {reported_step}"
    losses = [
        curve(history, split, "loss", name, style)
        for style, (split, name) in enumerate(
            {"train": "training", "validation": "validation"}.items()
        )
    ]
    metrics = [metric for metric in by_prominence() if metric.key != "loss"]
    values: dict[str, list[Line]] = {}
    for style, metric in enumerate(metrics):
        line = curve(history, "validation", metric.logged, metric.quoted(metric.label), style)
        if line.points:
            values.setdefault(metric.unit, []).append(line)
    return [
        Chart("Loss", losses, mark=mark, logarithmic=True),
        *(
            Chart(f"Validation metrics, {unit}" if unit else "Validation metrics", lines, mark=mark)
            for unit, lines in values.items()
        ),
    ]


def validation_charts(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Chart]:
    """Returns a chart of each quantity that any of several runs logged, with a line for each run.

    Args:
      histories: the records of `metrics.jsonl` by name of the run.
    """
    quantities = {("train", "loss"): "Training loss", ("validation", "loss"): "Validation loss"}
    metrics = [metric for metric in by_prominence() if metric.key != "loss"]
    quantities |= {("validation", m.logged): f"Validation: {m.quoted(m.title)}" for m in metrics}
    charts = []
    for (split, metric), title in quantities.items():
        lines = [
            curve(history, split, metric, name, style)
            for style, (name, history) in enumerate(histories.items())
        ]
        if any(line.points for line in lines):
            charts.append(Chart(title, lines, logarithmic=metric == "loss"))
    return charts


def calibration_chart(calibration: Mapping[str, Any], event: str) -> Chart:
    """Returns a reliability diagram with the number of pixels in each range of probability.

    Args:
      calibration: the result of `metrics.calibration.calibration`.
      event: the event whose predicted probability is assessed.
    """
    points = list(zip(calibration["predicted"], calibration["observed"], strict=True))
    pixels = list(zip(calibration["predicted"], calibration["pixels"], strict=True))
    return Chart(
        f"Calibration: {event}",
        [Line("model", points, 0)],
        x="predicted probability",
        y="observed share",
        diagonal="perfectly calibrated",
        bars=(pixels, "pixels, logarithmic"),
    )


def draw(axes: Axes, chart: Chart) -> None:
    """Draws a chart on matplotlib axes, without title and legend."""
    lines = chart.drawn
    if not lines:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center")
        axes.set(xticks=[], yticks=[])
        return
    for number, line in enumerate(lines):
        axes.plot(
            *zip(*line.points, strict=True),
            color=line.colour,
            linestyle=line.dash,
            marker="o",
            markersize=2.5,
            linewidth=1.2,
            label=in_figure(line.name),
            gid=f"line-{number}",
        )
    values = [y for line in lines for _, y in line.points]
    if chart.logarithmic and min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
    if chart.diagonal:
        axes.plot([0, 1], [0, 1], color=BLACK, linestyle=":", label=chart.diagonal)
        axes.set(xlim=(0, 1), ylim=(0, 1))
    elif min(x for line in lines for x, _ in line.points) >= 0 < axes.get_xlim()[1]:
        axes.set_xlim(left=0)
    if chart.mark:
        axes.axvline(chart.mark[0], color=BLACK, linestyle=":", label=chart.mark[1])
    if chart.bars:
        heights, label = chart.bars
        other = axes.twinx()
        other.bar(*zip(*heights, strict=True), width=0.03, color=SKY, alpha=0.4)
        other.set(ylabel=label, yscale="log")
        axes.set_zorder(other.get_zorder() + 1)  # the lines and the legend are above the bars
        axes.patch.set_visible(False)
    axes.set(xlabel=chart.x, ylabel=chart.y)
    axes.grid(alpha=0.25)


def _inside(
    chart: Chart, width: float, height: float, top: float
) -> tuple[float, float, float, float]:
    """Returns the place of a chart's axes as left, bottom, width and height, shares of its area.

    Fixed margins for the labels take half the time of a layout that measures each label.

    Args:
      chart: bars have labels at the right.
      width: of the chart's area, inches.
      height: of the chart's area, inches.
      top: margin for a title, inches.
    """
    left, right, bottom = 0.6, 0.8 if chart.bars else 0.1, 0.5  # inches
    return (
        left / width,
        bottom / height,
        (width - left - right) / width,
        (height - bottom - top) / height,
    )


def figure(charts: Sequence[Chart]) -> Figure:
    """Draws charts side by side, with titles and legends."""
    drawn = Figure(figsize=(5 * len(charts), 4))
    for number, chart in enumerate(charts):
        left, bottom, width, height = _inside(chart, 5, 4, top=0.35)
        place = ((number + left) / len(charts), bottom, width / len(charts), height)
        axes = drawn.add_axes(place)
        draw(axes, chart)
        axes.set_title(in_figure(chart.title, 55), fontsize="medium")
        if chart.drawn:
            axes.legend(fontsize="small")
    return drawn


def svg(chart: Chart) -> str:
    """Draws a chart as an SVG element for an HTML page, without title and legend.

    Text and axes have the colour and the font of the page, and lines the colours `--c0`, `--c1`,
    ... of its style. Each point has a `data-label` with its line, its value and its position.
    """
    with matplotlib.rc_context({"font.size": 8, "svg.fonttype": "none", "svg.hashsalt": "chart"}):
        drawn = Figure(figsize=(4.4, 2.9), facecolor="none")
        axes = drawn.add_axes(_inside(chart, 4.4, 2.9, top=0.1))
        axes.set_facecolor("none")
        draw(axes, chart)
        buffer = io.BytesIO()
        FigureCanvasSVG(drawn).print_svg(buffer)
    root = ElementTree.fromstring(buffer.getvalue())
    size, title = root.attrib["viewBox"], printable(chart.title)
    root.attrib = {"viewBox": size, "role": "img", "aria-label": title, "tabindex": "0"}
    for unused in (root.find(f"{SVG}metadata"), root.find(f"{SVG}defs")):
        if unused is not None and unused.find(f"{SVG}clipPath") is None:
            root.remove(unused)
    for number, line in enumerate(chart.drawn):
        group = root.find(f".//{SVG}g[@id='line-{number}']/{SVG}g")
        assert group is not None
        for point, (x, y) in zip(group, line.points, strict=True):
            group.set("style", point.attrib.pop("style"))
            label = f"{printable(line.name)}: {y:.4g} at {chart.x} {x:.4g}"
            point.set("data-label", label)
    text = ElementTree.tostring(root, encoding="unicode")
    text = re.sub(r" id=\"(?!p|m|C)[^\"]*\"| font-family: [^;\"]*;?", "", text)
    text = text.replace("#000000", "currentColor")
    for number, colour in enumerate(COLOURS):
        text = text.replace(colour.lower(), f"var(--c{number})")
    return text


def png(drawn: Figure) -> bytes:
    """Encodes the figure as PNG, in the best quality within `LARGEST_PNG` or else the lowest."""
    canvas, data = FigureCanvasAgg(drawn), b""
    # 32 levels halve the file size of noise, which masks the steps; the resolution is kept longer.
    for dpi, all_levels in ((150, (256, 32)), (120, (32,)), (96, (32,)), (72, (32,))):
        drawn.set_dpi(dpi)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
        for levels in all_levels:
            steps = np.rint(np.arange(256) / 255 * (levels - 1)) * (255 / (levels - 1))
            coarse = cv2.LUT(pixels, np.rint(steps).astype(np.uint8))
            buffer = io.BytesIO()
            # Pillow's default level, 6, takes twice as long for files 8 % smaller.
            Image.fromarray(coarse).save(buffer, "png", compress_level=4)
            data = buffer.getvalue()
            if len(data) <= LARGEST_PNG:
                return data
    return data
