"""What every data set is made of: splits of examples, with the names of its classes."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from unet_jax.errors import UserError

Example = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Split:
    """A sequence of examples, decoded when they are asked for.

    An example is `image` (the file's integer type, [H, W, C]), `label` (uint8 [H, W], classes
    0 ... K-1, or `unet_jax.IGNORED`) and `index`, its place in the split. `read` maps an index
    to image and label; it is pickled to the reader processes.
    """

    names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]  # each image's height and width in pixels
    read: Callable[[int], tuple[np.ndarray, np.ndarray]]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Example:
        image, label = self.read(index)
        return {"image": image, "label": label, "index": np.asarray(index, np.int32)}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set opened and checked: `splits` has `train`, `validation` and `test`."""

    splits: Mapping[str, Split]
    classes: tuple[str, ...]  # for two classes the second is the one that is segmented
    channels: int
    sha256: Mapping[str, str]  # of the content (the pixels, not the files' bytes) by file name


def random_split(
    names: Sequence[str], counts: Sequence[int], seed: int, where: str
) -> dict[str, list[int]]:
    """Deals names to train, validation and test: a seeded permutation of the sorted names.

    Returns each split's positions in `names`, in the sorted order of the names. Raises a
    `UserError` where the counts do not add up or leave training or test without an image.
    """
    parts = ("train", "validation", "test")
    if len(counts) != len(parts) or min(counts) < 0 or sum(counts) != len(names):
        raise UserError(
            f"data.split={tuple(counts)}: {where} has {len(names)} images; give the numbers of "
            f"train, validation and test images, which must add up to that"
        )
    for part, count in zip(parts, counts, strict=True):
        if not count and part != "validation":
            raise UserError(f"data.split={tuple(counts)}: no {part} images; give at least 1")
    by_name = sorted(range(len(names)), key=names.__getitem__)
    order = np.random.default_rng(seed).permutation(len(names))
    ends = np.cumsum(counts)
    return {
        part: [by_name[i] for i in np.sort(order[end - count : end])]
        for part, count, end in zip(parts, counts, ends, strict=True)
    }
