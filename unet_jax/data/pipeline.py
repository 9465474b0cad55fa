"""Batches of training and evaluation examples, read with grain.

All randomness is derived from the seed and the example's position in the endless training
sequence. The batches are therefore the same for any number of workers, threads and hosts, and a
run can resume at any step.
"""

import collections
import functools
import multiprocessing
import os
import pathlib
import signal
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker

import cloudpickle
import grain
import numpy as np
from ml_collections import ConfigDict

from unet_jax import IGNORED
from unet_jax.core.files import set_error_filename
from unet_jax.core.stop import SIGNALS
from unet_jax.data.augment import transforms
from unet_jax.data.augment.transforms import FORCED, Augment
from unet_jax.data.augment.window import is_forced
from unet_jax.data.dataset import Example, Split
from unet_jax.data.fit import Fit

ENDLESS = 2**60  # examples; grain's own endless length overflows with batches of one
THREADS = 4  # threads that read batches ahead, in each reader process


def train_batches(
    split: Split,
    *,
    batch_size: int,
    augment: Augment,
    seed: int,
    foreground: float = 0.0,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset:
    """Builds the endless sequence of this host's training batches; element i is for step i.

    An epoch has every image once, in a new order and with new random augmentation.

    Args:
      split: the training images.
      batch_size: global batch size, over all hosts.
      augment: augmentation that makes the examples of one size.
      seed: seeds shuffling and augmentation.
      foreground: share of the windows that contain foreground, in [0, 1]; the rest are anywhere.
        The position in the sequence decides which these are (`window.is_forced`).
      process_index: this host, from 0.
      process_count: number of hosts; divides `batch_size`.

    Returns:
      Batches of B = batch_size / process_count examples: `image` [B, size, size, C], `label`
      [B, size, size], `index` [B] and, if the split has weights, `weight` [B, size, size].
    """
    dataset = grain.MapDataset.source(split).seed(seed).shuffle()
    if foreground:
        # Here the index counts on beyond an epoch: it is the position in the endless sequence.
        dataset = dataset.map_with_index(functools.partial(_mark_forced, foreground))
    dataset = dataset.random_map(augment).repeat()
    # Sliced only after all random transforms, or all hosts would draw the same random numbers.
    host_dataset = dataset[process_index:ENDLESS:process_count]
    return host_dataset.batch(batch_size // process_count)


def batches_of(
    config: ConfigDict,
    split: Split,
    *,
    batch_size: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset:
    """Builds the training batches of a resolved config; see `train_batches`.

    Args:
      config: the experiment.
      split: the training images.
      batch_size: global batch size; by default that of the config.
      process_index: this host, from 0.
      process_count: number of hosts.
    """
    return train_batches(
        split,
        batch_size=batch_size or config.batch_size,
        augment=transforms.of(config),
        seed=config.seed,
        foreground=config.data.foreground,
        process_index=process_index,
        process_count=process_count,
    )


def eval_batches(
    split: Split,
    *,
    batch_size: int,
    fit: Fit,
    indices: Sequence[int] | None = None,
) -> grain.MapDataset:
    """Builds the batches of a split, or of its images `indices`, with each image once.

    All batches are full: missing examples have only ignored pixels and index -1.

    Args:
      split: the images.
      batch_size: number of examples in a batch.
      fit: how images are resized or padded. A batch has one shape, and images of one shape keep
        their order.
      indices: positions in the split; all by default.

    Returns:
      Batches of `image` [B, H, W, C], `label` [B, H, W], `index` [B].
    """
    indices = range(len(split)) if indices is None else indices
    shape_of = fit.shapes(split.sizes)
    by_shape = collections.defaultdict(list)
    for index in indices:
        by_shape[shape_of[split.sizes[index]]].append(index)
    entries = []
    for shape, of_shape in by_shape.items():
        entries += [(index, shape) for index in of_shape + [-1] * (-len(of_shape) % batch_size)]
    return (
        grain.MapDataset.source(entries)
        .map(functools.partial(_read_or_fill, split, fit))
        .batch(batch_size)
    )


def read_ahead(batches: grain.MapDataset, workers: int = 0) -> grain.IterDataset:
    """Reads batches ahead, in threads of this process (`workers` = 0) or in `workers` processes."""
    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=2 * THREADS)
    if not workers:
        return batches.to_iter_dataset(options)
    _start_tracker()
    pickled = _PickledToFile(batches)
    iterator = grain.MapDataset.source(pickled).to_iter_dataset(options)
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
    init = functools.partial(_init_reader, pickled.path)
    return iterator.mp_prefetch(options, worker_init_fn=init)


def _start_tracker() -> None:
    """Starts Python's helper process for shared memory, which the end of a terminal would end.

    It ignores SIGTERM and Ctrl-C itself; a signal that is blocked here is blocked there for good.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _PickledToFile:
    """Batches that are pickled to a file for the reader processes; it is deleted with this object.

    Python would pickle them into a pipe, and would wait forever if the reader were killed before
    it had read more than the pipe's capacity.
    """

    def __init__(self, batches: grain.MapDataset):
        self.batches = batches
        handle, path = tempfile.mkstemp(prefix="unet_jax-", suffix=".pickle")
        self.path = pathlib.Path(path)
        weakref.finalize(self, self.path.unlink, missing_ok=True)
        with set_error_filename(self.path), open(handle, "wb") as file:
            cloudpickle.dump(batches, file)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Example | None:
        return self.batches[index]

    def __reduce__(self) -> tuple[Callable, tuple[pathlib.Path]]:
        return _read_batches, (self.path,)


def _read_batches(path: pathlib.Path) -> grain.MapDataset:
    return cloudpickle.loads(path.read_bytes())


def _init_reader(path: pathlib.Path, worker: int, workers: int) -> None:
    """Initialises a reader process: it ends only when its parent ends it or is gone.

    Ctrl-C and a scheduler's SIGTERM reach all processes of a run, but the parent still needs its
    readers to finish the step and save. A parent that was killed cannot end its readers or delete
    their file at `path`, so that the readers do both.
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


def _mark_forced(share: float, position: int, example: Example) -> Example:
    return {**example, FORCED: np.asarray(is_forced(position, share))}


def _read_or_fill(split: Split, fit: Fit, entry: tuple[int, tuple[int, int]]) -> Example:
    index, shape = entry
    if index >= 0:
        return fit.to_shape(split[index], *shape)
    image = split[0]["image"]
    return {
        "image": np.zeros((*shape, image.shape[-1]), image.dtype),
        "label": np.full(shape, IGNORED, np.uint8),
        "index": np.asarray(-1, np.int32),
    }
