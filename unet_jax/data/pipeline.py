"""From a split to batches, by grain.

Everything random is drawn from the seed and the example's place in the endless sequence of
training examples, so that the batches are the same for any number of workers, threads and
hosts, and a run can go on at any step.
"""

import functools
from collections.abc import Callable, Sequence

import grain
import numpy as np

from unet_jax import IGNORED
from unet_jax.data import augment
from unet_jax.data.dataset import Example, Split
from unet_jax.data.resize import resize

FITS = ("crop", "resize")
ENDLESS = 2**60  # examples; grain's own endless length overflows in batches of one
THREADS = 4  # that read batches ahead, in each reader process


def train_batches(
    split: Split,
    *,
    batch_size: int,
    fit: str,
    size: int,
    transforms: Sequence[str],
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset:
    """The endless sequence of this host's training batches; element i is for step i.

    Every image is seen once before any is seen again, in an order of its own each time: a random
    window of size x size pixels (`fit` is crop), or all of it at that size (resize). A batch has
    `batch_size` examples over all hosts: `image` [B, size, size, C], `label` [B, size, size],
    `index` [B], B = batch_size / process_count.
    """
    dataset = (
        grain.MapDataset.source(split)
        .seed(seed)
        .shuffle()
        .random_map(functools.partial(_augment, fit=fit, size=size, transforms=tuple(transforms)))
        .repeat()
    )
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
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset:
    """This host's share of a split (or of its `indices`), each example once, in order.

    Where `fit` is resize, images and labels have size x size pixels, else their own, padded to
    those of the largest. Every host gets as many full batches;
    missing examples are all-ignored ones with index -1.
    """
    indices = range(len(split)) if indices is None else indices
    if fit == "resize":
        to_shape = functools.partial(resize, height=size, width=size)
    else:
        heights, widths = zip(*split.sizes, strict=True)
        to_shape = functools.partial(augment.pad, height=max(heights), width=max(widths))
    examples = -(-len(indices) // batch_size) * batch_size
    places = np.full(examples, -1)
    places[: len(indices)] = indices
    return (
        grain.MapDataset.source(places[process_index::process_count].tolist())
        .map(functools.partial(_read_or_fill, split, to_shape))
        .batch(batch_size // process_count)
    )


def read_ahead(batches: grain.MapDataset, workers: int) -> grain.IterDataset:
    """Reads batches ahead in threads, of this process or of `workers` others."""
    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=2 * THREADS)
    iterator = batches.to_iter_dataset(options)
    if not workers:
        return iterator
    return iterator.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
    )


def _augment(
    example: Example, rng: np.random.Generator, *, fit: str, size: int, transforms: Sequence[str]
) -> Example:
    if fit == "resize":
        example = resize(example, size, size)
    else:
        example = augment.crop(example, rng, size)
    for name in transforms:
        example = augment.TRANSFORMS[name](example, rng)
    return example


def _read_or_fill(split: Split, to_shape: Callable[[Example], Example], place: int) -> Example:
    if place >= 0:
        return to_shape(split[place])
    example = split[0]
    ignored = np.full_like(example["label"], IGNORED)
    return to_shape({**example, "label": ignored, "index": np.asarray(-1, np.int32)})
