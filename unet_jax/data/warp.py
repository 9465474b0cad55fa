"""One map from a window's pixels to an image's, and one resampling of all that an example holds.

However many geometric transforms an example gets, each pixel is interpolated once.
"""

import dataclasses
import math

import cv2
import numpy as np

from unet_jax import IGNORED
from unet_jax.data.dataset import Example
from unet_jax.data.resize import pad

cv2.setNumThreads(0)  # reader threads and processes use the cores already

OUTSIDES = ("ignored", "black")
REACH = 3  # pixels around a source that interpolation may read
CHANNELS = 4  # that cv2.remap takes at once


@dataclasses.dataclass(frozen=True, eq=False)
class Warp:
    """Where the pixels of a window come from, as (row, column) in pixels of the image.

    source = centre + matrix @ (x + displacement(x)) + shift, x and centre being counted from the
    window's middle and that of its place in the image.
    """

    matrix: np.ndarray = dataclasses.field(default_factory=lambda: np.eye(2))
    shift: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(2))
    displacement: np.ndarray | None = None  # float32 [2, size, size]

    def then(self, other: "Warp") -> "Warp":
        """Both as one: the picture turned by this matrix, then by the other's.

        Shifts are along the image's axes and displacements along the window's, so that they add
        in any order.
        """
        fields = [w.displacement for w in (self, other) if w.displacement is not None]
        return Warp(
            self.matrix @ other.matrix,
            self.shift + other.shift,
            np.sum(fields, axis=0) if fields else None,
        )

    @property
    def on_grid(self) -> bool:
        """Whether it only flips and turns by right angles: no pixel lies between others."""
        still = self.displacement is None or not self.displacement.any()
        turned = np.abs(self.matrix)
        right_angles = (turned == np.eye(2)).all() or (turned == np.eye(2)[::-1]).all()
        return still and not self.shift.any() and bool(right_angles)

    def sources(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns, float32 [size, size], counted from the centre."""
        x = np.arange(size, dtype=np.float32) - (size - 1) / 2
        rows, columns = x[:, None], x[None]
        if self.displacement is not None:
            rows, columns = rows + self.displacement[0], columns + self.displacement[1]
        (a, b), (c, d) = self.matrix.tolist()
        down, right = self.shift.tolist()
        return a * rows + b * columns + down, c * rows + d * columns + right


def rotate(degrees: float) -> np.ndarray:
    """The matrix that turns a picture counterclockwise, as np.rot90 does."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, sin], [-sin, cos]])


def shear(x: float, y: float) -> np.ndarray:
    """The matrix that slants a picture: x columns for each row, y rows for each column."""
    return np.array([[1, y], [x, 1]])


def cut(
    example: Example, warp: Warp, corner: tuple[int, int], size: int, outside: str = "ignored"
) -> Example:
    """The window of size x size pixels whose upper left one, unwarped, lies at `corner`.

    A warp on the grid slices; any other interpolates: the image cubically, to float32 within the
    range of its type; the label from the nearest pixel; `weight`, where there is one, linearly.
    Outside the image it is mirrored there, the label is `IGNORED` and the weight 0; `outside` =
    black has zeros in image and label instead.
    """
    shape = example["label"].shape
    covered = all(c >= 0 and c + size <= n for c, n in zip(corner, shape, strict=True))
    if warp.on_grid and (covered or outside == "ignored"):
        return _slice(example, warp, corner, size)
    return _resample(example, warp, corner, size, outside)


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
    example: Example, warp: Warp, corner: tuple[int, int], size: int, outside: str
) -> Example:
    image, label = example["image"], example["label"]
    top, left = (c + (size - 1) / 2 for c in corner)
    rows, columns = warp.sources(size)
    # cv2 takes at most 32767 pixels a side: it gets the part of the image that is read.
    box = _read(rows, top, label.shape[0]), _read(columns, left, label.shape[1])
    rows += top - box[0].start
    columns += left - box[1].start

    def remap(array: np.ndarray, interpolation: int, border: int, value: int = 0) -> np.ndarray:
        # A label stays what it is; an image is rounded once, at the end of all transforms.
        kind = array.dtype if interpolation == cv2.INTER_NEAREST else np.float32
        source = np.ascontiguousarray(array[box], kind)
        values = (value,) * CHANNELS
        return cv2.remap(source, columns, rows, interpolation, None, border, values)

    beyond = cv2.BORDER_CONSTANT if outside == "black" else cv2.BORDER_REFLECT
    channels = [
        remap(image[..., i : i + CHANNELS], cv2.INTER_CUBIC, beyond)
        for i in range(0, image.shape[-1], CHANNELS)
    ]
    smooth = np.concatenate([part.reshape(size, size, -1) for part in channels], axis=-1)
    np.clip(smooth, 0, np.iinfo(image.dtype).max, out=smooth)
    unknown = 0 if outside == "black" else IGNORED
    nearest = remap(label, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT, unknown)
    example = {**example, "image": smooth, "label": nearest}
    if "weight" in example:
        # Half a pixel beyond the outermost pixels' middles is still inside.
        inside = remap(np.ones_like(label), cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)
        weight = remap(example["weight"], cv2.INTER_LINEAR, cv2.BORDER_REFLECT)
        example["weight"] = weight * inside
    return example


def _read(sources: np.ndarray, centre: float, length: int) -> slice:
    """The rows (or columns) of an image of `length` rows that interpolation and mirroring read."""
    low = math.floor(float(sources.min()) + centre) - REACH
    high = math.ceil(float(sources.max()) + centre) + REACH
    # Row -1 - k is row k in the mirror, row length + k is row length - 1 - k.
    first = min(low, 2 * length - 1 - high)
    last = max(high, -1 - low)
    return slice(max(first, 0), min(last + 1, length))
