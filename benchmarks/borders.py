"""Analyses how the loss of runs depends on the distance from class borders.

python -m benchmarks.borders runs/isbi-seed0 runs/isbi-seed1 --split=validation

For runs of two classes. Each run's best checkpoint predicts the images of a split. The first table
splits the binary cross-entropy, and the errors at threshold 0.5, by the distance from the other
class. A label ends at a line that an annotator drew, and a network cannot predict the randomness of
that line. `sigma` expresses the loss as uncertainty of the borders: it is the standard deviation,
in pixels, of the border position at which an otherwise perfect predictor would have the same loss.
The second table tells borders that are drawn elsewhere from objects that are missed: it splits the
errors by the distance from the nearest true positive. `Dice without them` is that of all pixels of
the split together, if the errors up to that distance were corrected. The third table has the loss
after shifting the predictions by one pixel in each direction: labels may have a systematic offset,
which a network trained on rotated images cannot learn.
"""

import itertools
import math
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from scipy.optimize import root_scalar
from scipy.special import entr, ndtr

from benchmarks.overlays import predicted
from benchmarks.tables import table
from unet_jax import IGNORED
from unet_jax.core.command_help import command_parser
from unet_jax.core.errors import UserError, print_error
from unet_jax.runs.experiment import read_configs

BANDS = (1, 2, 3, 5, 10, np.inf)  # upper ends of the ranges of distance, pixels
LARGEST_SIGMA = 1e3  # largest finite sigma, pixels
SMALLEST = 1e-7  # smallest probability in the loss; the report computes it from logits


def distances(label: np.ndarray) -> np.ndarray:
    """Computes each pixel's distance to the nearest pixel of the other class.

    Distances are between pixel centres, so at least 1; ignored pixels have neither class.

    Args:
      label: uint8 [H, W]: 0, 1, or 255 = ignored.

    Returns:
      float32 [H, W], pixels.
    """
    to_class = [
        cv2.distanceTransform((label != of).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        for of in (0, 1)
    ]
    return np.where(label == 1, *to_class)


def border_loss(distance: np.ndarray, sigma: float) -> float:
    """Computes the binary cross-entropy of a predictor that is uncertain of the borders only.

    A pixel at distance d from a border, whose position is normally distributed, is on its side
    with probability Phi(d / sigma). These probabilities are calibrated, so that the expected loss
    is their entropy.
    """
    near = ndtr((distance - 0.5) / sigma)  # the border is half a pixel before the other's centre
    return float(np.mean(entr(near) + entr(1 - near)))


def equivalent_sigma(distance: np.ndarray, loss: float) -> float:
    """Returns the sigma, pixels, whose `border_loss` is `loss`; infinite if there is none."""
    if border_loss(distance, LARGEST_SIGMA) <= loss:
        return math.inf
    return root_scalar(
        lambda sigma: border_loss(distance, sigma) - loss, bracket=(1e-3, LARGEST_SIGMA), xtol=1e-3
    ).root


def by_distance(
    distance: np.ndarray, second: np.ndarray, probability: np.ndarray
) -> list[dict[str, Any]]:
    """Returns a row for each of `BANDS`; `second` marks the pixels of the second class."""
    loss, wrong = -np.log(_right(second, probability)), (probability > 0.5) != second
    rows = []
    for name, low, high in _bands():
        here = (low < distance) & (distance <= high)
        rows.append(
            {
                "pixels from the other class": name,
                "share of the pixels": float(here.mean()),
                "mean loss": float(loss[here].mean()) if here.any() else 0.0,
                "share of the loss": float(loss[here].sum() / loss.sum()),
                "share of the errors": float(wrong[here].sum() / max(wrong.sum(), 1)),
            }
        )
    return rows


def distances_to_found(label: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Computes each pixel's distance to the nearest true positive, float32 [H, W], pixels.

    It is infinite if there is none.
    """
    found = (label == 1) & (probability > 0.5)
    if not found.any():
        return np.full(label.shape, np.inf, np.float32)
    others = (~found).astype(np.uint8)
    return cv2.distanceTransform(others, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def by_distance_to_found(
    distance: np.ndarray, second: np.ndarray, probability: np.ndarray
) -> list[dict[str, Any]]:
    """Returns a row for each of `BANDS`; `distance` is that of `distances_to_found`."""
    positive = probability > 0.5
    missed, added = second & ~positive, positive & ~second
    found, wrong = (second & positive).sum(), max((second != positive).sum(), 1)
    rows = []
    for name, low, high in _bands():
        here, farther = (low < distance) & (distance <= high), distance > high
        corrected = found + (missed & ~farther).sum()
        remaining = ((missed | added) & farther).sum()
        rows.append(
            {
                "pixels from a true positive": name,
                "false negatives, share of the errors": float((missed & here).sum() / wrong),
                "false positives, share of the errors": float((added & here).sum() / wrong),
                "Dice without them": float(2 * corrected / max(2 * corrected + remaining, 1)),
            }
        )
    return rows


def _bands() -> Iterator[tuple[str, float, float]]:
    """Yields the name of each range of distance, and its ends, of which the lower is excluded."""
    for low, high in itertools.pairwise((0, *BANDS)):
        yield f"up to {high}" if np.isfinite(high) else "beyond", low, high


def moved_losses(label: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Computes the loss of a prediction [H, W] shifted by -1, 0, 1 rows and columns: [3, 3].

    The means are over the pixels that are not ignored and have all neighbours in the image.
    """
    height, width = label.shape
    inner = label[1:-1, 1:-1]
    losses = np.empty((3, 3))
    for row, column in np.ndindex(3, 3):
        top, left = 2 - row, 2 - column  # a shift down takes the values from above
        moved = probability[top : top + height - 2, left : left + width - 2]
        losses[row, column] = -np.log(_right(inner == 1, moved))[inner != IGNORED].mean()
    return losses


def moved_rows(losses: np.ndarray) -> list[dict[str, Any]]:
    names = ("shifted by a pixel", "left", "-", "right")
    cells = [[f"{loss:.4f}" for loss in row] for row in losses]
    return [
        dict(zip(names, [direction, *row], strict=True))
        for direction, row in zip(("up", "-", "down"), cells, strict=True)
    ]


def _right(second: np.ndarray, probability: np.ndarray) -> np.ndarray:
    return np.clip(np.where(second, probability, 1 - probability), SMALLEST, 1)


def main(arguments: Sequence[str]) -> None:
    parser = command_parser("python -m benchmarks.borders", __doc__)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", type=pathlib.Path, help="the folder of a run"
    )
    parser.add_argument("--split", default="test", help="the split whose images are predicted")
    options = parser.parse_args(arguments)
    for run, config in read_configs(options.runs).items():
        if config.model.classes > 2:
            raise UserError(f"{run}: has {config.model.classes} classes; give runs of two classes")
        pixels, moved = [], []
        for _, _, label, probabilities, _ in predicted(run, config, options.split):
            counted, likely = label != IGNORED, probabilities[..., -1]
            arrays = distances(label), distances_to_found(label, likely), label == 1, likely
            pixels.append([array[counted] for array in arrays])
            moved.append(moved_losses(label, likely))
        distance, away, second, probability = map(np.concatenate, zip(*pixels, strict=True))
        rows = by_distance(distance, second, probability)
        loss = sum(row["share of the pixels"] * row["mean loss"] for row in rows)
        print(f"{run}: mean loss {loss:.4f}, sigma {equivalent_sigma(distance, loss):.2f} pixels")
        print(table(rows), "\n")
        print(table(by_distance_to_found(away, second, probability)), "\n")
        print(table(moved_rows(np.mean(moved, axis=0))))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(print_error(error))
