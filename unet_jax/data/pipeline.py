"""From a split to batches, by grain.

Everything random is drawn from the seed and the example's place in the endless sequence of
training examples, so that the batches are the same for any number of workers, threads and
hosts, and a run can go on at any step.
"""

import collections
import functools
import itertools
import multiprocessing
import os
import pathlib
import signal
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence

import cloudpickle
import grain
import numpy as np

from unet_jax import IGNORED
from unet_jax.data.augment import Augment
from unet_jax.data.dataset import Example, Split
from unet_jax.data.resize import pad, resize
from unet_jax.files import naming
from unet_jax.stop import SIGNALS

ENDLESS = 2**60  # examples; grain's own endless length overflows in batches of one
SHAPES = 4  # that whole images are padded to, at most
FEW_SIZES = 64  # different sizes; where there are more, they are rounded up first
THREADS = 4  # that read batches ahead, in each reader process


def train_batches(
    split: Split,
    *,
    batch_size: int,
    augment: Augment,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset:
    """The endless sequence of this host's training batches; element i is for step i.

    Every image is seen once before any is seen again, in an order of its own each time, and
    augmented anew. A batch has `batch_size` examples over all hosts: `image` [B, size, size, C],
    `label` [B, size, size], `index` [B], B = batch_size / process_count.
    """
    dataset = grain.MapDataset.source(split).seed(seed).shuffle().random_map(augment).repeat()
    # Sliced only here, or all hosts would draw the same random numbers.
    mine = dataset[process_index:ENDLESS:process_count]
    return mine.batch(batch_size // process_count)


def eval_batches(
    split: Split,
    *,
    batch_size: int,
    fit: str,
    size: int,
    indices: Sequence[int] | None = None,
) -> grain.MapDataset:
    """A split, or the images of it with the `indices`, each example once.

    Where `fit` is resize, images and labels have size x size pixels, else their own, padded to
    one of at most `SHAPES` shapes; a batch has one shape, and images of one shape come in order.
    All batches are full; missing examples are all-ignored ones with index -1.
    """
    indices = range(len(split)) if indices is None else indices
    if fit == "resize":
        shape_of = dict.fromkeys(split.sizes, (size, size))
        to_shape = resize
    else:
        shape_of = padded_shapes(split.sizes)
        to_shape = pad
    by_shape = collections.defaultdict(list)
    for index in indices:
        by_shape[shape_of[split.sizes[index]]].append(index)
    places = []
    for shape, members in by_shape.items():
        places += [(place, shape) for place in members + [-1] * (-len(members) % batch_size)]
    return (
        grain.MapDataset.source(places)
        .map(functools.partial(_read_or_fill, split, to_shape))
        .batch(batch_size)
    )


@functools.lru_cache(maxsize=8)
def padded_shapes(
    sizes: tuple[tuple[int, int], ...], most: int = SHAPES
) -> dict[tuple[int, int], tuple[int, int]]:
    """For each size, heights and widths, one of at most `most` shapes that hold it.

    Each shape that a network sees is compiled for, and each pixel of padding is computed. Starting
    from the sizes as they are, the two shapes are merged, again and again, whose merging pads the
    fewest pixels.
    """
    step, shape_of = 1, {size: size for size in sizes}
    while len(set(shape_of.values())) > FEW_SIZES:
        step *= 2
        shape_of = {(h, w): (h + -h % step, w + -w % step) for h, w in sizes}
    counts = collections.Counter(shape_of[size] for size in sizes)
    while len(counts) > most:
        padding = functools.partial(_merged_padding, counts)
        pair = min(itertools.combinations(counts, 2), key=padding)
        height, width = map(max, *pair)
        shape_of = {k: (height, width) if v in pair else v for k, v in shape_of.items()}
        counts = collections.Counter(shape_of[size] for size in sizes)
    return shape_of


def _merged_padding(
    counts: Mapping[tuple[int, int], int], pair: tuple[tuple[int, int], ...]
) -> int:
    """Pixels of padding that a common shape would add."""
    height, width = map(max, *pair)
    return sum(counts[h, w] * (height * width - h * w) for h, w in pair)


def read_ahead(batches: grain.MapDataset, workers: int = 0) -> grain.IterDataset:
    """Reads batches ahead in threads, of this process or of `workers` others."""
    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=2 * THREADS)
    if not workers:
        return batches.to_iter_dataset(options)
    handed = _InFile(batches)
    iterator = grain.MapDataset.source(handed).to_iter_dataset(options)
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
    serve = functools.partial(_serve, handed.path)
    return iterator.mp_prefetch(options, worker_init_fn=serve)


class _InFile:
    """Batches that reader processes get in a file, which is deleted with this object.

    Python would write them to a pipe, and wait for ever where a process is killed before it has
    read more than a pipe holds.
    """

    def __init__(self, batches: grain.MapDataset):
        self.batches = batches
        handle, path = tempfile.mkstemp(prefix="unet_jax-", suffix=".pickle")
        self.path = pathlib.Path(path)
        weakref.finalize(self, self.path.unlink, missing_ok=True)
        with naming(self.path), open(handle, "wb") as file:
            cloudpickle.dump(batches, file)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Example | None:
        return self.batches[index]

    def __reduce__(self) -> tuple[Callable, tuple[pathlib.Path]]:
        return _read_batches, (self.path,)


def _read_batches(path: pathlib.Path) -> grain.MapDataset:
    return cloudpickle.loads(path.read_bytes())


def _serve(path: pathlib.Path, worker: int, workers: int) -> None:
    """A reader process begins: it ends when its parent says so or is no more, and only then.

    Ctrl-C and a scheduler's SIGTERM go to all processes of a run, but the parent wants to end its
    step and to save; and nobody would end the readers of a parent that was killed, nor delete the
    file at `path` that they had from it.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(path,), daemon=True).start()


def _end_with_parent(path: pathlib.Path) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        path.unlink(missing_ok=True)
        os._exit(1)


def _read_or_fill(
    split: Split,
    to_shape: Callable[[Example, int, int], Example],
    place: tuple[int, tuple[int, int]],
) -> Example:
    index, shape = place
    if index >= 0:
        return to_shape(split[index], *shape)
    like = split[0]["image"]
    return {
        "image": np.zeros((*shape, like.shape[-1]), like.dtype),
        "label": np.full(shape, IGNORED, np.uint8),
        "index": np.asarray(-1, np.int32),
    }
