"""The weight map of the U-Net paper: Ronneberger et al. 2015, eq. 2.

w(x) = w_c(x) + w0 exp(-(d1(x) + d2(x))^2 / (2 sigma^2)), where w_c balances the class frequencies,
and d1 and d2 are the distances to the nearest and the second nearest cell. It makes a network
learn the narrow gaps between touching cells. The paper uses w0 = 10 and sigma = 5 pixels. The
losses divide by the sum of the weights, so that only the ratios of the weights matter.
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
import threading
import time
from collections.abc import Sequence

import numpy as np
import rich.progress
import scipy

from unet_jax import IGNORED
from unet_jax.core.bucket import is_bucket
from unet_jax.core.files import cache_folder, write_all
from unet_jax.data.dataset import Split

CUT_OFF = 1e-4  # share of w0 below which the border term may be set to 0


def border_weights(label: np.ndarray, w0: float, sigma: float) -> np.ndarray:
    """Computes the border term, w0 exp(-(d1 + d2)^2 / (2 sigma^2)).

    The cells are the 4-connected components of class 1; a distance is the Euclidean distance to a
    cell's nearest pixel. Only class 0 has the term, as in the paper's figure 3d: inside a cell d1
    is 0, so that the term would measure the distance to the next cell and not mark the gap.
    Ignored pixels connect no cells and have the term 0. With fewer than two cells the term is 0
    everywhere. A diagonal line of one pixel's width, such as a vessel, counts as many cells.

    A cell's distances are computed only in its bounding box, enlarged by the distance at which
    the term is `CUT_OFF` w0. This changes no value by more than `CUT_OFF` w0.

    Args:
      label: uint8 [H, W]: 0, 1, or 255 = ignored.
      w0: height of the term.
      sigma: its width, pixels.

    Returns:
      The term, float32 [H, W], in [0, w0].
    """
    reach = math.ceil(sigma * math.sqrt(-2 * math.log(CUT_OFF)))
    cells, _ = scipy.ndimage.label(label == 1)
    first = np.full(label.shape, np.inf, np.float32)
    second = first.copy()
    for cell, box in enumerate(scipy.ndimage.find_objects(cells), 1):
        box = tuple(slice(max(side.start - reach, 0), side.stop + reach) for side in box)
        distance = np.asarray(scipy.ndimage.distance_transform_edt(cells[box] != cell), np.float32)
        np.minimum(second[box], np.maximum(first[box], distance), out=second[box])
        np.minimum(first[box], distance, out=first[box])
    term = w0 * np.exp(-((first + second) ** 2) / (2 * sigma**2))
    return np.where(label == 0, term, 0).astype(np.float32)


def class_balance(counts: Sequence[float]) -> tuple[float, ...]:
    """Computes each class's w_c from its number (or share) of pixels: sum(n) / (K n_k).

    K is the number of classes that occur, so that the pixels' mean weight is 1. A class that does
    not occur gets 1, which no pixel uses.
    """
    present = [n for n in counts if n]
    return tuple(sum(present) / (len(present) * n) if n else 1.0 for n in counts)


# np.load parses a file's header as Python code, which CPython 3.11 sometimes refuses with a
# SystemError if several threads do it at once (https://github.com/python/cpython/issues/106905).
_NPY_HEADER = threading.Lock()


@dataclasses.dataclass(frozen=True)
class WeightMaps:
    """Maps an example's index and label to its weight map, float32 [H, W]; 0 at ignored pixels."""

    files: tuple[pathlib.Path, ...]  # border term of each example, in .npy files
    balance: tuple[float, ...]  # w_c of classes 0 and 1

    def __call__(self, index: int, label: np.ndarray) -> np.ndarray:
        class_weight = np.zeros(IGNORED + 1, np.float32)
        class_weight[: len(self.balance)] = self.balance
        with _NPY_HEADER:
            border = np.load(self.files[index])
        return border + class_weight[label]


def folder_of_maps(run: pathlib.Path) -> pathlib.Path:
    """Returns the folder of a run's cached border terms, which is local even if the run's is not.

    Args:
      run: the run's folder.
    """
    return (cache_folder() if is_bucket(run) else run) / "weights"


def with_weights(split: Split, cache: pathlib.Path, w0: float, sigma: float) -> Split:
    """Adds `weight`, the weight map, to each example of a split of two classes.

    The class weights w_c balance the whole split. The border terms are computed once and cached.
    A cached file's name contains a digest of label and settings, so that a change of either is
    never missed; the file ends with its own digest, so that a damaged one is computed again.
    Prints a summary line.

    Args:
      split: examples with labels 0, 1, or 255 = ignored.
      cache: folder of the border terms; created if missing.
      w0: height of the border term; the paper uses 10.
      sigma: width of the border term, pixels; the paper uses 5.

    Returns:
      The split with weight maps.
    """
    began = time.perf_counter()
    cache.mkdir(parents=True, exist_ok=True)
    border_term = functools.partial(_cached_border_term, split, cache, w0, sigma)
    files, counts, computed = [], np.zeros(2, np.int64), 0
    # Threads decode files in parallel; they do not speed up the distance transforms.
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    try:
        cached = rich.progress.track(
            pool.map(border_term, range(len(split))),
            "weight maps",
            len(split),
            transient=True,
            disable=not sys.stdout.isatty(),
        )
        for path, found, was_computed in cached:
            files.append(path)
            counts += found
            computed += was_computed
    finally:
        pool.shutdown(cancel_futures=True)  # without this, Ctrl-C would wait for all of them
    balance = class_balance(counts.tolist())
    print(
        f"weights      {len(files)} maps in {cache}, {computed} of them computed, in "
        f"{time.perf_counter() - began:.1f} s; class 0: {balance[0]:.3g}, class 1: "
        f"{balance[1]:.3g}, background between cells: up to {w0:g} more",
        flush=True,
    )
    return dataclasses.replace(split, weight=WeightMaps(tuple(files), balance))


def _cached_border_term(
    split: Split, cache: pathlib.Path, w0: float, sigma: float, index: int
) -> tuple[pathlib.Path, np.ndarray, bool]:
    """Returns an image's cache file, its pixels of classes 0 and 1, and if the file is new."""
    _, label = split.read(index)
    source = repr((CUT_OFF, float(w0), float(sigma), label.shape)).encode() + label.tobytes()
    # The index is part of the name, or images with equal labels would write the same file at once.
    path = cache / f"{index:05d}-{hashlib.sha256(source).hexdigest()[:16]}.npy"
    counts = np.bincount(label.ravel(), minlength=2)[:2]
    if _is_intact(path):
        return path, counts, False
    array = io.BytesIO()
    np.save(array, border_weights(label, w0, sigma))
    # `np.load` ignores bytes after the array.
    write_all({path: array.getvalue() + hashlib.sha256(array.getvalue()).digest()})
    return path, counts, True


def _is_intact(path: pathlib.Path) -> bool:
    content = path.read_bytes() if path.exists() else b""
    return hashlib.sha256(content[:-32]).digest() == content[-32:]
