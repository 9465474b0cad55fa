"""Figures of images with their labels, predictions and errors."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image
from scipy import ndimage

from unet_jax import IGNORED, is_binary
from unet_jax.core.names import in_figure
from unet_jax.reporting.charts import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
)

LONGEST_SIDE = 1024  # largest side of a drawn image in pixels; larger images are decimated
FALSE_POSITIVE, FALSE_NEGATIVE, OUTLINE = VERMILION, BLUE, YELLOW
HATCH = ("#6E6E6E", "#B4B4B4")  # colours of the stripes that mark ignored pixels


@dataclasses.dataclass(frozen=True)
class Overlay:
    """An image to be drawn with its label and prediction."""

    name: str
    title: str  # e.g. 'best: slice-07, Dice 0.961'
    image: np.ndarray  # [H, W, C] integer, C is 1 or 3
    label: np.ndarray  # uint8 [H, W], 255 = ignored
    prediction: np.ndarray  # uint8 [H, W], class ids


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

    An image is a tuple of its name, its pixels (integer [H, W, 1 or 3]) and its label (uint8
    [H, W]). The outlines of all classes but the first are drawn; ignored pixels are hatched.
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
            axes.imshow(_hatched(_displayed(image), label == IGNORED))
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
    return np.rint(0.25 * _displayed(image) + 0.75 * heat).astype(np.uint8)


def error_colours(
    image: np.ndarray, label: np.ndarray, prediction: np.ndarray, positive: int
) -> np.ndarray:
    """Returns uint8 [H, W, 3]: the image in light grey, its errors in class `positive` coloured.

    `image` is [H, W, 1 or 3] integer, `label` uint8 [H, W] with 255 = ignored, `prediction`
    uint8 [H, W]. False positives are vermilion, false negatives blue and correct pixels grey;
    ignored pixels are hatched in two greys.
    """
    counted, wanted, found = label != IGNORED, label == positive, prediction == positive
    luminance = _displayed(image) @ np.array([0.299, 0.587, 0.114])
    # Blending with white makes thin errors visible in dark images too.
    shown = np.repeat(127.5 + luminance[..., None] / 2, 3, axis=2)
    for wrong, colour in ((found & ~wanted, FALSE_POSITIVE), (wanted & ~found, FALSE_NEGATIVE)):
        shown[wrong] = 0.15 * shown[wrong] + 0.85 * _rgb(colour)
    return _hatched(np.rint(shown).astype(np.uint8), ~counted)


def example_strip(
    image: np.ndarray, label: np.ndarray, prediction: np.ndarray, classes: int
) -> np.ndarray:
    """Returns uint8 [H, 2W, 3]: the image beside its errors, decimated to 256 pixels a side.

    With more than two classes, the predicted classes in fixed colours replace the errors. The
    arrays are as in `Overlay`.
    """
    step = math.ceil(max(label.shape) / 256)
    image, label, prediction = (array[::step, ::step] for array in (image, label, prediction))
    if is_binary(classes):
        shown = error_colours(image, label, prediction, positive=1)
    else:
        shown = class_colours(prediction)
    return np.concatenate([_displayed(image), shown], axis=1)


def class_colours(ids: np.ndarray) -> np.ndarray:
    """Returns uint8 [H, W, 3]: the class ids (uint8 [H, W], 255 = ignored) in fixed colours."""
    return _hatched(palette()[ids], ids == IGNORED)


def painted(image: np.ndarray, ids: np.ndarray, classes: int) -> np.ndarray:
    """Returns uint8 [H, W, 3]: the image with the outlines of all classes but the first.

    `image` is [H, W, 1 or 3] integer, `ids` uint8 [H, W]. The area inside an outline is tinted in
    the colour of its class.
    """
    edge, colours = np.zeros(ids.shape, bool), palette()
    if is_binary(classes):
        colours[1] = _rgb(SKY)  # stands out from grey and from stained tissue
    for differs, here in ((ids[1:] != ids[:-1], edge), ((ids[:, 1:] != ids[:, :-1]).T, edge.T)):
        here[1:] |= differs
        here[:-1] |= differs
    opacity = np.where(ids == 0, 0, np.where(edge, 1, 0.2))[..., None]
    return np.rint(_displayed(image) * (1 - opacity) + colours[ids] * opacity).astype(np.uint8)


def panels(overlay: Overlay, classes: Sequence[str], longest: int) -> dict[str, np.ndarray]:
    """Returns the panels of an overlay by their captions, each uint8 [H, W, 3].

    With two classes: the image, the second class's outline on it, and the errors in that class.
    With more: image, label and prediction in fixed colours, and all wrong pixels. Above `longest`
    pixels a side, class ids are decimated; image and errors are averaged to keep thin errors.
    """
    image, label, prediction = overlay.image, overlay.label, overlay.prediction
    step = math.ceil(max(label.shape) / longest)
    small = _averaged(_displayed(image), step)
    if is_binary(len(classes)):
        errors = error_colours(image, label, prediction, positive=1)
        mask = label[::step, ::step] == 1
        edge = ndimage.maximum_filter(mask, 3) != ndimage.minimum_filter(mask, 3)
        middle = {
            f"label: outline of {classes[1]}": np.where(edge[..., None], _rgb(OUTLINE), small)
        }
        last = f"errors in {classes[1]}"
    else:
        wrong = (label != prediction).astype(np.uint8)
        errors = error_colours(image, np.where(label == IGNORED, label, 0), wrong, positive=1)
        middle = {
            "label": class_colours(label[::step, ::step]),
            "prediction": class_colours(prediction[::step, ::step]),
        }
        last = "wrong pixels"
    return {
        "image": small,
        **middle,
        last: _averaged(errors, step),
    }


def _averaged(shown: np.ndarray, step: int) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(shown)).reduce(step))


def legend(overlays: Sequence[Overlay], classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Maps the meanings of the overlays' colours to the colours; two colours are a hatching."""
    present = {int(i) for o in overlays for ids in (o.label, o.prediction) for i in np.unique(ids)}
    meanings: dict[str, tuple[str, ...]] = {}
    if is_binary(len(classes)) and overlays:
        meanings[f"outline of {classes[1]} in the label"] = (OUTLINE,)
        meanings[f"{classes[0]} taken for {classes[1]} (FP)"] = (FALSE_POSITIVE,)
        meanings[f"{classes[1]} missed (FN)"] = (FALSE_NEGATIVE,)
    elif overlays:
        for i in sorted(present - {IGNORED}):
            meanings[classes[i]] = (matplotlib.colors.to_hex(palette()[i] / 255),)
    if IGNORED in present:
        meanings["ignored, counted nowhere"] = HATCH
    return meanings


def _handles(meanings: Mapping[str, tuple[str, ...]]) -> list[Patch]:
    handles = [Patch(fc=c[0], ec=c[-1], label=in_figure(m)) for m, c in meanings.items()]
    for handle, colours in zip(handles, meanings.values(), strict=True):
        if len(colours) > 1:
            handle.set(hatch="////", linewidth=0)
    return handles


def check_sizes(overlay: Overlay) -> None:
    """Raises ValueError if the arrays of an overlay differ in size."""
    arrays = {name: getattr(overlay, name) for name in ("image", "label", "prediction")}
    sizes = {name: array.shape[:2] for name, array in arrays.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"the arrays of the overlay '{overlay.name}' differ in size: {sizes}")


def _displayed(image: np.ndarray) -> np.ndarray:
    """Returns uint8 [H, W, 3]; types other than uint8 are scaled from the image's own range."""
    if image.dtype != np.uint8:
        values = image.astype(np.float64) - image.min()
        image = np.rint(values * (255 / max(values.max(), 1))).astype(np.uint8)
    return np.broadcast_to(image, (*image.shape[:2], 3))


def _hatched(shown: np.ndarray, where: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(where.shape)
    stripe = max(1, max(where.shape) // 64)
    stripes = np.stack([_rgb(colour) for colour in HATCH])[(rows + columns) // stripe % 2]
    return np.where(where[..., None], stripes, shown)


def _rgb(colour: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)


def palette() -> np.ndarray:
    """Returns uint8 [256, 3]: Okabe and Ito's colours, their light and dark shades, repeated."""
    hues = (ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE)
    full = np.stack([_rgb(colour) for colour in hues]).astype(np.float64)
    colours = np.concatenate([[_rgb(BLACK)], full, 255 - (255 - full) * 0.45, full * 0.5])
    return colours[np.arange(256) % len(colours)].astype(np.uint8)
