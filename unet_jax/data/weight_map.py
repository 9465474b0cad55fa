"""The weight map of the U-Net paper: Ronneberger et al. 2015, eq. 2.

w(x) = w_c(x) + w0 exp(-(d1(x) + d2(x))^2 / (2 sigma^2)), where w_c balances the frequencies of the
classes and d1, d2 are the distances to the nearest and the second nearest cell. It makes a
network learn the narrow gaps between cells that touch. The paper has w0 = 10, sigma = 5 pixels.
Here the losses divide by the sum of the weights, so that only their proportions matter.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import io
import math
import os
import pathlib
import sys
import time
from collections.abc import Sequence

import numpy as np
import rich.progress
from scipy import ndimage

from unet_jax import IGNORED
from unet_jax.data.dataset import Split
from unet_jax.files import write_all

CUT_OFF = 1e-4  # of w0: below it the border term may be taken for 0


def border_weights(label: np.ndarray, w0: float, sigma: float) -> np.ndarray:
    """The term of w0: uint8 [H, W] of two classes -> float32 [H, W], in [0, w0].

    The cells are the 4-connected components of class 1, and a distance is the Euclidean one to
    the nearest pixel of a cell, in pixels. Only class 0 has the term, as in the paper's figure
    3d: in a cell d1 is 0, so the term would say how near the next cell is and not where the two
    part. Ignored pixels are neither: they join no cells and weigh 0. With fewer than two cells
    the term is 0 everywhere. A diagonal line a pixel wide, such as a vessel, is many cells.

    Each cell's distances are computed only in its bounding box, grown by the distance at which
    the term is `CUT_OFF` w0: what is left out is a term below that, taken for one at most as
    large, so no value is wrong by more.
    """
    reach = math.ceil(sigma * math.sqrt(-2 * math.log(CUT_OFF)))
    cells, _ = ndimage.label(label == 1)
    first = np.full(label.shape, np.inf, np.float32)
    second = first.copy()
    for cell, box in enumerate(ndimage.find_objects(cells), 1):
        box = tuple(slice(max(side.start - reach, 0), side.stop + reach) for side in box)
        distance = np.asarray(ndimage.distance_transform_edt(cells[box] != cell), np.float32)
        np.minimum(second[box], np.maximum(first[box], distance), out=second[box])
        np.minimum(first[box], distance, out=first[box])
    term = w0 * np.exp(-((first + second) ** 2) / (2 * sigma**2))
    return np.where(label == 0, term, 0).astype(np.float32)


def class_balance(counts: Sequence[float]) -> tuple[float, ...]:
    """Each class's w_c from its number (or share) of pixels: sum(n) / (K n_k).

    K is the number of classes that occur, so that the mean weight of the pixels is 1. A class
    that does not occur has 1: no pixel will ask for it.
    """
    present = [n for n in counts if n]
    return tuple(sum(present) / (len(present) * n) if n else 1.0 for n in counts)


@dataclasses.dataclass(frozen=True)
class WeightMaps:
    """Index and label of an example -> its w, float32 [H, W], 0 at ignored pixels."""

    files: tuple[pathlib.Path, ...]  # each example's border term
    balance: tuple[float, ...]  # w_c of classes 0 and 1

    def __call__(self, index: int, label: np.ndarray) -> np.ndarray:
        of_class = np.zeros(IGNORED + 1, np.float32)
        of_class[: len(self.balance)] = self.balance
        return np.load(self.files[index]) + of_class[label]


def with_weights(split: Split, cache: pathlib.Path, w0: float, sigma: float) -> Split:
    """The split, of two classes, with a `weight` in each example: w, balanced over the split.

    The border terms are computed once and kept in the folder `cache`, a float32 file for each
    image. Its name has a digest of what it was computed from, so other labels or settings never
    find it, and it ends with its own digest: a damaged one is computed again. Prints a line.
    """
    began = time.perf_counter()
    cache.mkdir(parents=True, exist_ok=True)
    keep = functools.partial(_keep, split, cache, w0, sigma)
    files, counts, computed = [], np.zeros(2, np.int64), 0
    # Threads: files are decoded side by side, though the distances are not computed so.
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    try:
        kept = rich.progress.track(
            pool.map(keep, range(len(split))),
            "weight maps",
            len(split),
            transient=True,
            disable=not sys.stdout.isatty(),
        )
        for path, found, was_computed in kept:
            files.append(path)
            counts += found
            computed += was_computed
    finally:
        pool.shutdown(cancel_futures=True)  # or a stop would wait for all of them
    balance = class_balance(counts.tolist())
    print(
        f"weights      {len(files)} maps in {cache}, {computed} of them computed, in "
        f"{time.perf_counter() - began:.1f} s; of class 0 {balance[0]:.3g}, of class 1 "
        f"{balance[1]:.3g}, to the background between cells up to {w0:g} more",
        flush=True,
    )
    return dataclasses.replace(split, weight=WeightMaps(tuple(files), balance))


def _keep(
    split: Split, cache: pathlib.Path, w0: float, sigma: float, index: int
) -> tuple[pathlib.Path, np.ndarray, bool]:
    """An image's file, its pixels of classes 0 and 1, and whether the file had to be made."""
    _, label = split.read(index)
    source = repr((CUT_OFF, float(w0), float(sigma), label.shape)).encode() + label.tobytes()
    # The index too: two images with one label would write one file at the same time.
    path = cache / f"{index:05d}-{hashlib.sha256(source).hexdigest()[:16]}.npy"
    counts = np.bincount(label.ravel(), minlength=2)[:2]
    if _is_whole(path):
        return path, counts, False
    array = io.BytesIO()
    np.save(array, border_weights(label, w0, sigma))
    # `np.load` passes over what follows the array.
    write_all({path: array.getvalue() + hashlib.sha256(array.getvalue()).digest()})
    return path, counts, True


def _is_whole(path: pathlib.Path) -> bool:
    content = path.read_bytes() if path.exists() else b""
    return hashlib.sha256(content[:-32]).digest() == content[-32:]
