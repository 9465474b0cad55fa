"""Geometric transforms of an example, composed into one warp and applied by one resampling.

Each pixel is interpolated only once, however many transforms an example gets.
"""

import dataclasses
import math

import cv2
import numpy as np

from unet_jax import IGNORED
from unet_jax.data.dataset import Example
from unet_jax.data.resize import pad

cv2.setNumThreads(0)  # reader threads and processes already use the cores

OUTSIDES = ("ignored", "black")
REACH = 3  # pixels around a source position that interpolation may read
CHANNELS = 4  # the most channels that cv2.remap takes at once


@dataclasses.dataclass(frozen=True, eq=False)
class Warp:
    """Maps the pixels of a window to their sources in the image, (row, column) in pixels.

    source = centre + matrix @ (x + displacement(x)) + shift, where x is the position relative to
    the window's centre, and centre is that of the window's position in the image.
    """

    matrix: np.ndarray = dataclasses.field(default_factory=lambda: np.eye(2))
    shift: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(2))
    displacement: np.ndarray | None = None  # float32 [2, size, size]

    def then(self, other: "Warp") -> "Warp":
        """Composes two warps: the image is transformed by this matrix, then by the other's.

        Shifts are along the image's axes and displacements along the window's, so that each of
        them adds up in any order.
        """
        fields = [w.displacement for w in (self, other) if w.displacement is not None]
        return Warp(
            self.matrix @ other.matrix,
            self.shift + other.shift,
            np.sum(fields, axis=0) if fields else None,
        )

    @property
    def on_grid(self) -> bool:
        """Whether every source is a pixel centre: only flips and rotations by right angles."""
        still = self.displacement is None or not self.displacement.any()
        turned = np.abs(self.matrix)
        right_angles = (turned == np.eye(2)).all() or (turned == np.eye(2)[::-1]).all()
        return still and not self.shift.any() and bool(right_angles)

    def sources(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns source rows and columns relative to the centre: two float32 [size, size]."""
        x = np.arange(size, dtype=np.float32) - (size - 1) / 2
        rows, columns = x[:, None], x[None]
        if self.displacement is not None:
            rows, columns = rows + self.displacement[0], columns + self.displacement[1]
        (a, b), (c, d) = self.matrix.tolist()
        down, right = self.shift.tolist()
        return a * rows + b * columns + down, c * rows + d * columns + right


def rotate(degrees: float) -> np.ndarray:
    """Returns the matrix [2, 2] that rotates an image counterclockwise, as np.rot90 does."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, sin], [-sin, cos]])


def shear(x: float, y: float) -> np.ndarray:
    """Returns the matrix [2, 2] that shears by `x` columns per row and `y` rows per column."""
    return np.array([[1, y], [x, 1]])


def cut(
    example: Example,
    warp: Warp,
    corner: tuple[int, int],
    size: int,
    outside: str = "ignored",
    black: np.ndarray | float = 0,
) -> Example:
    """Cuts a warped window out of an example.

    A warp on the grid copies pixels. Any other interpolates: the image bicubically, clipped to
    the range of its type; the label from the nearest pixel; the weight bilinearly.

    Args:
      example: `image` [H, W, C], `label` [H, W] and, optionally, `weight` [H, W].
      warp: the transform, about the window's centre.
      corner: (row, column) of the window's upper left pixel before warping.
      size: side of the window, pixels.
      outside: how to fill pixels from outside the image. ignored: the image is mirrored, the label
        is `IGNORED`, the weight 0. black: the image is `black`, label and weight are 0.
      black: the darkest stored value, [C] or one number.

    Returns:
      The example with arrays of `size` x `size` pixels; an interpolated image is float32.
    """
    shape = example["label"].shape
    covered = all(c >= 0 and c + size <= n for c, n in zip(corner, shape, strict=True))
    if warp.on_grid and (covered or outside == "ignored"):
        return _slice(example, warp, corner, size)
    return _resample(example, warp, corner, size, outside, black)


def _slice(example: Example, warp: Warp, corner: tuple[int, int], size: int) -> Example:
    (top, left), (height, width) = corner, example["label"].shape
    example = pad(example, max(height, top + size), max(width, left + size))
    down, right = warp.matrix.sum(axis=1).astype(int)
    turned = warp.matrix[0, 0] == 0

    def take(array: np.ndarray) -> np.ndarray:
        window = array[top : top + size, left : left + size][::down, ::right]
        return window.swapaxes(0, 1) if turned else window

    return {k: take(v) if k in ("image", "label", "weight") else v for k, v in example.items()}


def _resample(
    example: Example,
    warp: Warp,
    corner: tuple[int, int],
    size: int,
    outside: str,
    black: np.ndarray | float,
) -> Example:
    image, label = example["image"], example["label"]
    rows, columns = warp.sources(size)
    rows, some_rows, beyond = _within(rows, corner[0] + (size - 1) / 2, label.shape[0])
    columns, some_columns, beside = _within(columns, corner[1] + (size - 1) / 2, label.shape[1])
    beyond |= beside

    def remap(array: np.ndarray, dtype: type, interpolation: int) -> np.ndarray:
        # cv2 takes at most 32767 pixels a side, so it gets only the part that is read.
        part = np.ascontiguousarray(array[some_rows, some_columns], dtype)
        return cv2.remap(part, columns, rows, interpolation, None, cv2.BORDER_REFLECT)

    channels = [
        remap(image[..., i : i + CHANNELS], np.float32, cv2.INTER_CUBIC).reshape(size, size, -1)
        for i in range(0, image.shape[-1], CHANNELS)
    ]
    smooth = np.concatenate(channels, axis=-1) if len(channels) > 1 else channels[0]
    if image.dtype.kind != "f":  # cubic interpolation overshoots
        np.clip(smooth, np.iinfo(image.dtype).min, np.iinfo(image.dtype).max, out=smooth)
    nearest = remap(label, np.uint8, cv2.INTER_NEAREST)
    nearest[beyond] = IGNORED
    if outside == "black":
        smooth[beyond], nearest[beyond] = black, 0
    example = {**example, "image": smooth, "label": nearest}
    if "weight" in example:
        example["weight"] = remap(example["weight"], np.float32, cv2.INTER_LINEAR)
        example["weight"][beyond] = 0
    return example


def _within(
    sources: np.ndarray, centre: float, length: int
) -> tuple[np.ndarray, slice, np.ndarray]:
    """Mirrors source rows (or columns) into an image and finds the slice that they read.

    Args:
      sources: rows relative to `centre`.
      centre: the centre's row in the image.
      length: number of the image's rows.

    Returns:
      The mirrored rows, counted from the start of the slice; the slice of rows that interpolation
      reads; and a mask of the sources outside the image, whose edge is half a pixel beyond the
      outermost pixel centre.
    """
    low, high = -0.5 - centre, length - 0.5 - centre
    beyond = (sources < low) | (sources > high)
    if beyond.any():
        sources = sources.copy()
        # A triangular wave: beyond one image length, cv2's own mirroring is wrong (5.0).
        offset = sources[beyond].astype(np.float64) - low
        sources[beyond] = np.abs(offset - 2 * length * np.rint(offset / (2 * length))) + low
    first = max(math.floor(float(sources.min()) + centre) - REACH, 0)
    last = min(math.ceil(float(sources.max()) + centre) + REACH, length - 1)
    return sources + (centre - first), slice(first, last + 1), beyond
