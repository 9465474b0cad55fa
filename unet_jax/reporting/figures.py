"""Figures of images with their labels, predictions and errors, drawn with matplotlib."""

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from unet_jax import IGNORED, is_binary
from unet_jax.core.names import in_figure
from unet_jax.reporting.colours import palette
from unet_jax.reporting.overlays import OUTLINE, Overlay, displayed, hatched, legend, panels

LONGEST_SIDE = 1024  # largest side of a drawn image in pixels; larger images are decimated


def overlay_figure(overlays: Sequence[Overlay], classes: Sequence[str]) -> Figure:
    """Draws a row of `panels` for each overlay, with a legend of their colours."""
    width, gap, line = 3.0, 0.08, 0.28  # inches: width of a panel, gap, line of text
    rows = [panels(overlay, classes, LONGEST_SIDE) for overlay in overlays]
    handles = _handles(legend(overlays, classes))
    columns = max(map(len, rows), default=3)
    # Panels keep the image's aspect ratio, within limits for very wide and very high images.
    shapes = [overlay.label.shape for overlay in overlays]
    heights = [width * min(1.5, max(0.2, height / across)) for height, across in shapes]
    page = columns * width + (columns + 1) * gap
    top = sum(heights) + line * (2 * len(heights) + 1 + math.ceil(len(handles) / 5))
    figure = Figure(figsize=(page, top))

    def place(x: float, y: float) -> tuple[float, float]:
        return x / page, y / figure.get_figheight()

    for overlay, row, height in zip(overlays, rows, heights, strict=True):
        top -= 2 * line + height
        title = in_figure(overlay.title, 110)
        figure.text(*place(gap, top + height + line + 0.07), title, fontsize=9, weight="bold")
        for column, (what, panel) in enumerate(row.items()):
            left = gap + column * (width + gap)
            figure.text(*place(left, top + height + 0.07), in_figure(what, 50), fontsize=8)
            axes = figure.add_axes((*place(left, top), *place(width, height)))
            axes.imshow(panel)
            axes.set_axis_off()
    if handles:
        figure.legend(handles=handles, loc="lower center", ncols=5, fontsize=9, frameon=False)
    else:
        figure.text(0.5, 0.1, "no image was drawn", ha="center")
    return figure


def contact_sheet(
    groups: Mapping[str, Sequence[tuple[str, np.ndarray, np.ndarray]]], classes: Sequence[str]
) -> Figure:
    """Draws groups of labelled images under their titles, four images in a row.

    An image is a tuple of its name, its pixels ([H, W, C], see `displayed`) and its label
    (uint8 [H, W]). The outlines of all classes but the first are drawn; ignored pixels are hatched.
    """
    columns, panel, line = 4, 2.4, 0.3  # images per row; inches: panel, line of text
    rows = {title: math.ceil(len(images) / columns) for title, images in groups.items()}
    legend_rows = math.ceil((len(classes) - 1) / 7)
    height = sum(n * (panel + line) + line for n in rows.values()) + line * legend_rows
    figure = Figure(figsize=(columns * panel, height))
    colours = palette()
    top = height
    for title, images in groups.items():
        top -= line
        figure.text(0.5, (top + 0.05) / height, title, ha="center", weight="bold", fontsize=10)
        for place, (name, image, label) in enumerate(images):
            row, column = divmod(place, columns)
            bottom = top - (row + 1) * (panel + line)
            axes = figure.add_axes(
                (column / columns + 0.005, bottom / height, 0.99 / columns, panel / height)
            )
            step = math.ceil(max(label.shape) / (LONGEST_SIDE // 2))
            image, label = image[::step, ::step], label[::step, ::step]
            axes.imshow(hatched(displayed(image), label == IGNORED))
            axes.set_axis_off()
            axes.set_title(in_figure(name), fontsize=8, pad=3)
            for k in range(1, len(classes)):
                mask = label == k
                if mask.any() and not mask.all():
                    colour = OUTLINE if is_binary(len(classes)) else tuple(colours[k] / 255)
                    axes.contour(mask, levels=[0.5], colors=[colour], linewidths=0.6)
        top -= rows[title] * (panel + line)
    handles = [
        Line2D(
            [],
            [],
            color=OUTLINE if is_binary(len(classes)) else tuple(colours[k] / 255),
            label=label,
        )
        for k, label in enumerate(map(in_figure, classes))
        if k
    ]
    figure.legend(handles=handles, loc="lower center", ncols=7, fontsize=8, frameon=False)
    return figure


def heat_map(image: np.ndarray, values: np.ndarray, highest: float) -> np.ndarray:
    """Returns uint8 [H, W, 3]: values [H, W] in 0 to `highest` as a heat map over the image."""
    heat = matplotlib.colormaps["inferno"](values / max(highest, 1e-9))[..., :3] * 255
    return np.rint(0.25 * displayed(image) + 0.75 * heat).astype(np.uint8)


def _handles(meanings: Mapping[str, tuple[str, ...]]) -> list[Patch]:
    handles = [Patch(fc=c[0], ec=c[-1], label=in_figure(m)) for m, c in meanings.items()]
    for handle, colours in zip(handles, meanings.values(), strict=True):
        if len(colours) > 1:
            handle.set(hatch="////", linewidth=0)
    return handles
