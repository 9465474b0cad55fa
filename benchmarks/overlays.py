"""Plots the predictions of several runs for one image.

python -m benchmarks.overlays runs/isbi-seed0 runs/isbi-seed1 --out=overlays.png

Each run's best checkpoint predicts an image of its test split (`--image`, by default the first) at
the run's threshold. The figure shows a central window of `--window` pixels a side: the prediction
above, the errors in the second class below. For runs of two classes on the same data.
"""

import pathlib
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from unet_jax import data
from unet_jax.core.command_help import command_parser
from unet_jax.core.errors import UserError, print_error
from unet_jax.core.files import write_all
from unet_jax.core.intensities import Intensities
from unet_jax.data.resize import resize_smooth
from unet_jax.distributed import devices
from unet_jax.evaluation.evaluator import Evaluator
from unet_jax.inference.ensemble import single_network
from unet_jax.inference.predictor import decide, restore_decided
from unet_jax.models import build
from unet_jax.reporting.charts import png
from unet_jax.reporting.overlays import error_colours
from unet_jax.runs.experiment import read_configs

PANEL = 2.2  # inches
TITLE_CHARACTERS = 32  # that fit above a panel; run names break at hyphens


def main(arguments: Sequence[str]) -> None:
    parser = command_parser("python -m benchmarks.overlays", __doc__)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", type=pathlib.Path, help="the folder of a run"
    )
    parser.add_argument("--image", help="name of the image, such as slice-15; default: the first")
    parser.add_argument("--window", type=int, default=256, help="side of the window, pixels")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="PNG file to write")
    options = parser.parse_args(arguments)
    configs = read_configs(options.runs)
    columns, names = {}, [run.name for run in configs]
    for run, config in configs.items():
        _, image, label, _, ids = next(predicted(run, config, "test", options.image))
        title = run.name if names.count(run.name) == 1 else str(run)
        columns[title] = image, label, ids
    figure = side_by_side(columns, options.window)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_all({options.out: png(figure)})


def side_by_side(
    columns: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], window: int
) -> Figure:
    """Draws a column for each prediction of an image: the mask, and below its errors in class 1.

    Args:
      columns: image [H, W, C], label [H, W] and predicted class ids [H, W], by title.
      window: side of the central window that is shown, pixels.
    """
    figure = Figure(figsize=(PANEL * len(columns), 2.2 * PANEL), layout="constrained")
    axes = figure.subplots(2, len(columns), squeeze=False)
    for (title, arrays), (above, below) in zip(columns.items(), axes.T, strict=True):
        image, label, prediction = arrays
        shown = tuple(slice(*_middle(size, window)) for size in label.shape)
        above.imshow(prediction[shown], cmap="gray", vmin=0, vmax=1)
        below.imshow(error_colours(image[shown], label[shown], prediction[shown], positive=1))
        above.set_title(textwrap.fill(title, TITLE_CHARACTERS), fontsize=8, parse_math=False)
        for panel in (above, below):
            panel.set_axis_off()
    return figure


def predicted(
    run: pathlib.Path, config: ConfigDict, part: str, image: str | None = None
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Predicts the images of a run's split with its best checkpoint.

    Args:
      run: the run folder.
      config: its config.
      part: name of the split.
      image: name of the only image to predict; all by default.

    Yields:
      Name, image [H, W, C], label [H, W], probabilities [H, W, K] and predicted class ids [H, W].

    Raises:
      UserError: there is no such split or image.
    """
    devices.use_cores(config.eval.batch_size)
    dataset = data.open_dataset(config.data)
    if part not in dataset.splits:
        raise UserError(f"{run}: no split {part}; choose one of {', '.join(dataset.splits)}")
    split, mesh = dataset.splits[part], devices.local_mesh()
    if image is not None and image not in split.names:
        raise UserError(f"--image={image}: the {part} images are {', '.join(split.names)}")
    network = single_network(build(**config.model), Intensities.of(config.data))
    evaluator = Evaluator(config, dataset, network, mesh)
    best, threshold = restore_decided(run, config, "best")
    placed = devices.replicate(best.variables, mesh)
    indices = None if image is None else [split.names.index(image)]
    for index, probabilities, _ in evaluator.predictions(placed, split, indices):
        probabilities = resize_smooth(probabilities, *split.sizes[index])
        ids = decide(probabilities, threshold)
        yield split.names[index], *split.read(index), probabilities, ids


def _middle(size: int, window: int) -> tuple[int, int]:
    start = max(0, (size - window) // 2)
    return start, min(size, start + window)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(print_error(error))
