"""Where the loss of runs lies: python -m benchmarks.borders RUN RUN ... [--split=validation]

For runs of two classes. Each run's best checkpoint predicts the images of a split; a table says how
much of the binary cross-entropy, and of the errors at 0.5, is how far from the other class. Labels
end where somebody drew a line: what a network cannot know of that is lost next to it. To compare,
`sigma` is the doubt about every border at which a predictor who knows all else would lose as much:
the standard deviation, in pixels, of a line's distance from where the predictor has it. A second
table has the loss if all that is predicted lay a pixel higher, lower or beside: labels may be drawn
beside what they outline, which a network that was trained on turned images cannot know.
"""

import argparse
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from scipy.optimize import root_scalar
from scipy.special import entr, ndtr

from benchmarks.overlays import predicted
from benchmarks.parity import table
from unet_jax import IGNORED
from unet_jax.errors import UserError, print_error
from unet_jax.workdir import read_configs

BANDS = (1, 2, 3, 5, 10, np.inf)  # pixels: up to the first, from there up to the second ...
MOST = 1e3  # pixels of doubt
SMALLEST = 1e-7  # probability, of the loss; the report's is of logits


def distances(label: np.ndarray) -> np.ndarray:
    """How far each pixel of a mask [H, W] of 0 and 1 is from the nearest of the other: float32.

    From centre to centre, so at least 1; ignored pixels are of neither.
    """
    to_class = [
        cv2.distanceTransform((label != of).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        for of in (0, 1)
    ]
    return np.where(label == 1, *to_class)


def doubt_loss(distance: np.ndarray, sigma: float) -> float:
    """Binary cross-entropy of a predictor to whom each border is a line with this uncertainty.

    A pixel so far from it is on its side with probability Phi(d / sigma); of the two loses such a
    predictor, whose probabilities are right, the entropy.
    """
    near = ndtr((distance - 0.5) / sigma)  # the line is half a pixel before the other's centre
    return float(np.mean(entr(near) + entr(1 - near)))


def doubt(distance: np.ndarray, loss: float) -> float:
    """The sigma, in pixels, whose `doubt_loss` is `loss`; infinite where none loses as much."""
    if doubt_loss(distance, MOST) <= loss:
        return math.inf
    return root_scalar(
        lambda sigma: doubt_loss(distance, sigma) - loss, bracket=(1e-3, MOST), xtol=1e-3
    ).root


def by_distance(
    distance: np.ndarray, second: np.ndarray, probability: np.ndarray
) -> list[dict[str, Any]]:
    """Rows for `BANDS`; `second` says which pixels are of the second class."""
    loss, wrong = -np.log(_right(second, probability)), (probability > 0.5) != second
    rows, low = [], 0.0
    for high in BANDS:
        here = (low < distance) & (distance <= high)
        rows.append(
            {
                "pixels from the other class": f"up to {high}" if np.isfinite(high) else "beyond",
                "share of the pixels": float(here.mean()),
                "mean loss": float(loss[here].mean()) if here.any() else 0.0,
                "share of the loss": float(loss[here].sum() / loss.sum()),
                "share of the errors": float(wrong[here].sum() / max(wrong.sum(), 1)),
            }
        )
        low = high
    return rows


def moved_losses(label: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Losses [3, 3] of a prediction [H, W] moved up, not, down, and left, not, right by a pixel.

    Means over the pixels whose neighbours are all in the image and that are not ignored.
    """
    height, width = label.shape
    inner = label[1:-1, 1:-1]
    losses = np.empty((3, 3))
    for row, column in np.ndindex(3, 3):
        top, left = 2 - row, 2 - column  # what moves down comes from above
        moved = probability[top : top + height - 2, left : left + width - 2]
        losses[row, column] = -np.log(_right(inner == 1, moved))[inner != IGNORED].mean()
    return losses


def moved_rows(losses: np.ndarray) -> list[dict[str, Any]]:
    names = ("moved by a pixel", "left", "-", "right")
    cells = [[f"{loss:.4f}" for loss in row] for row in losses]
    return [
        dict(zip(names, [way, *row], strict=True))
        for way, row in zip(("up", "-", "down"), cells, strict=True)
    ]


def _right(second: np.ndarray, probability: np.ndarray) -> np.ndarray:
    return np.clip(np.where(second, probability, 1 - probability), SMALLEST, 1)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.borders", description=__doc__)
    parser.add_argument("runs", nargs="+", type=pathlib.Path)
    parser.add_argument("--split", default="test")
    options = parser.parse_args(arguments)
    for run, config in read_configs(options.runs).items():
        if config.model.classes > 2:
            raise UserError(f"{run}: it has {config.model.classes} classes; this is for two")
        pixels, moved = [], []
        for _, _, label, probabilities in predicted(run, config, options.split):
            counted = label != IGNORED
            arrays = distances(label), label == 1, probabilities[..., -1]
            pixels.append([array[counted] for array in arrays])
            moved.append(moved_losses(label, probabilities[..., -1]))
        distance, second, probability = map(np.concatenate, zip(*pixels, strict=True))
        rows = by_distance(distance, second, probability)
        loss = sum(row["share of the pixels"] * row["mean loss"] for row in rows)
        print(f"{run}: loss {loss:.4f} of all pixels, sigma {doubt(distance, loss):.2f} pixels")
        print(table(rows), "\n")
        print(table(moved_rows(np.mean(moved, axis=0))))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(print_error(error))
