"""The same image by several runs, side by side: python -m benchmarks.overlays RUN RUN ... --out=F

Each run's best checkpoint decides an image of its test split (`--image`, or the first), at the
run's threshold; of it is drawn a window of `--window` pixels a side from the middle. Above, what
was predicted; below, the errors in the second class. For runs of two classes on the same data.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from matplotlib.figure import Figure

from launch import read_configs
from unet_jax import data, parallel
from unet_jax.ensemble import one
from unet_jax.errors import UserError, print_error
from unet_jax.evaluate import Evaluator
from unet_jax.figures import error_colours, png
from unet_jax.files import write_all
from unet_jax.models import build
from unet_jax.predictor import restore

PANEL = 2.2  # inches


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overlays", description=__doc__)
    parser.add_argument("runs", nargs="+", type=pathlib.Path)
    parser.add_argument("--image", help="its name, such as slice-15")
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args(arguments)
    configs = read_configs(options.runs)
    figure = Figure(figsize=(PANEL * len(configs), 2.2 * PANEL), layout="constrained")
    axes = figure.subplots(2, len(configs), squeeze=False)
    mesh = parallel.local_mesh()
    for (run, config), (above, below) in zip(configs.items(), axes.T, strict=True):
        dataset = data.DATASETS[config.data.name](config.data)
        split = dataset.splits["test"]
        name = options.image or split.names[0]
        if name not in split.names:
            raise UserError(f"--image={name}: the test images are {', '.join(split.names)}")
        index = split.names.index(name)
        network = one(build(**config.model), config.data.input_range)
        evaluator = Evaluator(config, dataset, network, mesh)
        placed = parallel.replicate(restore(run, config, "best")[2], mesh)
        ((_, probabilities, _),) = evaluator.predictions(placed, split, [index])
        image, label = split.read(index)
        window = tuple(slice(*_middle(size, options.window)) for size in label.shape)
        prediction = evaluator.decide(probabilities)
        above.imshow(prediction[window], cmap="gray", vmin=0, vmax=1)
        below.imshow(error_colours(image[window], label[window], prediction[window], positive=1))
        above.set_title(run.name, fontsize=8, parse_math=False)
        for panel in (above, below):
            panel.set_axis_off()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_all({options.out: png(figure)})


def _middle(size: int, window: int) -> tuple[int, int]:
    start = max(0, (size - window) // 2)
    return start, min(size, start + window)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(print_error(error))
