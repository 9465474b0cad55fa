"""Where training windows are cut: anywhere, or so that they contain foreground.

Foreground is every class but class 0. This module does not import jax, because it runs in reader
processes.
"""

import fractions
import math

import cv2
import numpy as np

from unet_jax import IGNORED

cv2.setNumThreads(0)  # reader threads and processes already use the cores


def is_forced(position: int, share: float) -> bool:
    """Returns whether the window at a position of the training sequence must contain foreground.

    Of the first n windows, floor(n * share) must, for every n. No random number is used, so that
    hosts, reader processes and restarts change nothing.

    Args:
      position: position in the endless sequence of examples of all hosts, from 0.
      share: share of the windows that must contain foreground, in [0, 1].
    """
    exact = fractions.Fraction(str(share))  # as written in the config: 0.29 * 100 is 29
    return math.floor((position + 1) * exact) > math.floor(position * exact)


def uniform_corner(shape: tuple[int, ...], size: int, rng: np.random.Generator) -> tuple[int, int]:
    """Draws the upper left pixel (row, column) of a window, uniformly among those in the image.

    An image smaller than the window has one position along that axis: 0.

    Args:
      shape: (height, width) of the image, pixels.
      size: side of the window, pixels.
      rng: source of the random numbers.
    """
    room = [max(length - size, 0) + 1 for length in shape]
    return int(rng.integers(room[0])), int(rng.integers(room[1]))


def foreground_corner(
    label: np.ndarray, size: int, rng: np.random.Generator
) -> tuple[int, int] | None:
    """Draws the upper left pixel (row, column) of a window that contains a foreground pixel.

    The class is drawn uniformly from the foreground classes of the label, the pixel uniformly from
    those of the class, and the window uniformly from those in the image that contain the pixel.

    Args:
      label: classes, uint8 [H, W].
      size: side of the window, pixels.
      rng: source of the random numbers.

    Returns:
      The corner, or None if the label has no foreground.
    """
    pixel = _foreground_pixel(label, rng)
    if pixel is None:
        return None
    top, left = (
        int(rng.integers(max(at - size + 1, 0), min(at, max(length - size, 0)), endpoint=True))
        for at, length in zip(pixel, label.shape, strict=True)
    )
    return top, left


def _foreground_pixel(label: np.ndarray, rng: np.random.Generator) -> tuple[int, int] | None:
    # Counting by rows is much faster than listing the pixels; cv2's histogram than numpy's.
    histogram = cv2.calcHist([label], [0], None, [IGNORED], [0, IGNORED]).ravel()
    classes = np.flatnonzero(histogram[1:]) + 1
    if not len(classes):
        return None
    chosen = int(rng.choice(classes))
    of_class = (label == chosen).view(np.uint8)
    per_row = cv2.reduce(of_class, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
    ends = np.cumsum(per_row, dtype=np.int64)
    place = int(rng.integers(ends[-1]))
    row = int(np.searchsorted(ends, place, side="right"))
    column = np.flatnonzero(of_class[row])[place - (ends[row] - per_row[row])]
    return row, int(column)
