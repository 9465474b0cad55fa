"""Draws a test image of each of several runs with its label and its prediction.

python -m benchmarks.examples runs/isbi:slice-15 runs/drive:05 --titles=ISBI,DRIVE --out=rows.jpg

A column has the central square of an image, the same with its label, and with the prediction of the
run's best checkpoint at the run's threshold. All classes but the first are tinted and outlined.
Cells have different colours; a predicted cell has that of the labelled cell that it overlaps most.
"""

import io
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
import scipy
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.overlays import predicted
from unet_jax import IGNORED, data
from unet_jax.core.command_help import command_parser
from unet_jax.core.errors import UserError, print_error
from unet_jax.core.files import write_all
from unet_jax.reporting.colours import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, YELLOW, rgb
from unet_jax.reporting.overlays import displayed
from unet_jax.runs.experiment import read_configs

ROWS = ("image", "label", "prediction")
PANEL, SIDE = 1.7, 250  # inches and pixels of a panel
OPACITY = 0.45  # of the tint


def main(arguments: Sequence[str]) -> None:
    parser = command_parser("python -m benchmarks.examples", __doc__)
    parser.add_argument("examples", nargs="+", help="RUN:IMAGE, such as runs/isbi:slice-15")
    parser.add_argument(
        "--titles",
        type=lambda text: text.split(","),
        required=True,
        help="titles of the columns, separated by commas",
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="JPEG file to write")
    options = parser.parse_args(arguments)
    if len(options.titles) != len(options.examples):
        raise UserError(f"--titles: expected {len(options.examples)} titles, one for each example")
    size = (PANEL * len(options.examples), PANEL * len(ROWS) + 0.3)
    figure = Figure(figsize=size, dpi=SIDE / PANEL, layout="constrained")
    axes = figure.subplots(len(ROWS), len(options.examples), squeeze=False)
    for example, title, column in zip(options.examples, options.titles, axes.T, strict=True):
        for panel, shown, row in zip(column, panels(example), ROWS, strict=True):
            panel.imshow(Image.fromarray(shown).resize((SIDE, SIDE)), interpolation="nearest")
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(False)
            if panel in axes[:, 0]:
                panel.set_ylabel(row)
        column[0].set_title(title, fontsize=10, parse_math=False)
    file = io.BytesIO()
    figure.savefig(file, format="jpg", pil_kwargs={"quality": 85})
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_all({options.out: file.getvalue()})


def panels(example: str) -> list[np.ndarray]:
    """Returns the central squares, uint8 [S, S, 3], of an example `RUN:IMAGE`, one for each row.

    Raises:
      UserError: there is no such run or image.
    """
    folder, _, name = example.rpartition(":")
    ((run, config),) = read_configs([pathlib.Path(folder)]).items()
    _, image, label, _, ids = next(predicted(run, config, "test", name))
    label = np.where(label == IGNORED, 0, label)
    if data.open_dataset(config.data).classes[1:] == ("cell",):
        label, ids = numbered(label, ids)
    side = min(label.shape)
    square = tuple(slice((n - side) // 2, (n - side) // 2 + side) for n in label.shape)
    shown = displayed(image)
    return [x[square] for x in (shown, tinted(shown, label), tinted(shown, ids))]


def numbered(label: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers the connected regions of class 1 in the label [H, W] and in the prediction [H, W].

    A predicted region gets the number of the labelled region that it overlaps most.
    """
    regions, predicted_regions = (scipy.ndimage.label(x)[0] for x in (label, ids))
    overlaps = np.zeros((predicted_regions.max() + 1, regions.max() + 1), np.int64)
    np.add.at(overlaps, (predicted_regions, regions), 1)
    overlaps[0, 1:] = 0  # outside of predicted regions is class 0
    overlaps[1:, 0] = 0  # a predicted region is no background
    return regions, overlaps.argmax(axis=1)[predicted_regions]


def tinted(image: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Returns uint8 [H, W, 3]: the image with its ids [H, W] but 0 tinted, and their outlines."""
    hues = np.stack([rgb(x) for x in (SKY, ORANGE, PURPLE, GREEN, YELLOW, BLUE, VERMILION)])
    edge = scipy.ndimage.maximum_filter(ids, 3) != scipy.ndimage.minimum_filter(ids, 3)
    edge &= ids > 0
    opacity = np.where(ids == 0, 0, np.where(edge, 1, OPACITY))[..., None]
    return np.rint(image * (1 - opacity) + hues[(ids - 1) % len(hues)] * opacity).astype(np.uint8)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(print_error(error))
