"""What every data set is made of: splits of examples, with the names of its classes."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from unet_jax.errors import UserError

Example = dict[str, np.ndarray]
PARTS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Split:
    """A sequence of examples, decoded when they are asked for.

    An example is `image` (the file's integer type, [H, W, C]), `label` (uint8 [H, W], classes
    0 ... K-1, or `unet_jax.IGNORED`) and `index`, its place in the split; where the split has
    weights, also `weight` (float32 [H, W], 0 at ignored pixels). `read` maps an index to image
    and label; it is pickled to the reader processes, and so is `weight`.
    """

    names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]  # each image's height and width in pixels
    read: Callable[[int], tuple[np.ndarray, np.ndarray]]
    observer: Callable[[int], np.ndarray] | None = None  # a second human's classes, [H, W]
    weight: Callable[[int, np.ndarray], np.ndarray] | None = None  # of index and label

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Example:
        image, label = self.read(index)
        example = {"image": image, "label": label, "index": np.asarray(index, np.int32)}
        return example | {"weight": self.weight(index, label)} if self.weight else example


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set opened and checked: `splits` has `train`, `validation` and `test`."""

    splits: Mapping[str, Split]
    classes: tuple[str, ...]  # for two classes the second is the one that is segmented
    channels: int
    sha256: Mapping[str, str]  # ties a run to its data: of a stack's pixels, of a split's files
    cells: bool = False  # class 1 is cells that class 0 parts: V^Rand and V^Info have a meaning
    notes: tuple[str, ...] = ()  # what was recognised in the files, a line each


def random_split(
    names: Sequence[str],
    split: Sequence[float],
    seed: int,
    where: str,
    *,
    fold: int = 0,
    parts: Sequence[str] = PARTS,
    unit: str = "image",
) -> dict[str, list[int]]:
    """Deals names to `parts`: a seeded permutation of the sorted names.

    `split` has each part's number of names or, as floats, its share; an empty one deals nothing:
    all names are in every part but validation. Each `fold` of a cross-validation has other names
    in its last part. Returns each part's positions in `names`, in the sorted order of the names.
    Raises a `UserError` where the numbers do not add up or leave training or test without a name,
    or where there is no such fold.
    """
    split, by_name = tuple(split), sorted(range(len(names)), key=names.__getitem__)
    has = f"{where} has {len(names)} {unit}{'s' * (len(names) != 1)}"
    if not split:
        _check_fold(fold, 1, has, split)
        return {part: [] if part == "validation" else by_name for part in parts}
    counts = split
    if all(isinstance(share, float) for share in split) and math.isclose(sum(split), 1):
        counts = _round_shares(split, len(names))
    whole = all(isinstance(count, int) for count in counts) and min(split) >= 0
    if not whole or len(counts) != len(parts) or sum(counts) != len(names):
        raise UserError(
            f"data.split={split}: {has}; give numbers for {', '.join(parts)} that add up to that, "
            f"shares that add up to 1.0, or () for no split"
        )
    for part, count in zip(parts, counts, strict=True):
        if not count and part != "validation":
            raise UserError(f"data.split={split}: no {part} {unit}s; give at least 1")
    last = int(counts[-1])
    _check_fold(fold, len(names) // last if last else 1, has, split)
    # Turned by whole last parts, so that no name is in those of two folds.
    order = np.roll(np.random.default_rng(seed).permutation(len(names)), fold * last)
    ends = np.cumsum(counts)
    return {
        part: [by_name[i] for i in np.sort(order[end - count : end])]
        for part, count, end in zip(parts, counts, ends, strict=True)
    }


def random_group_split(
    groups: Sequence[str], split: Sequence[float], seed: int, where: str, *, fold: int, unit: str
) -> dict[str, list[int]]:
    """Deals whole groups as `random_split` deals names: `groups` has the group of each image.

    Returns each part's positions in `groups`, in ascending order.
    """
    names = sorted(set(groups))
    dealt = random_split(names, split, seed, where, fold=fold, unit=unit)
    return {
        part: np.flatnonzero(np.isin(groups, [names[i] for i in places])).tolist()
        for part, places in dealt.items()
    }


def _check_fold(fold: int, folds: int, has: str, split: Sequence[float]) -> None:
    if not 0 <= fold < folds:
        raise UserError(
            f"data.fold={fold}: {has}, of which data.split={split} makes {folds} "
            f"fold{'s' * (folds != 1)}, counted from 0"
        )


def _round_shares(shares: Sequence[float], total: int) -> tuple[int, ...]:
    """Whole numbers near shares * total: at least 1 for a share above 0, and adding up to total.

    Where there are more such shares than the total, they add up to more.
    """
    exact = total * np.asarray(shares)
    counts = np.where(exact > 0, np.maximum(np.floor(exact), 1), 0).astype(int)
    while counts.sum() < total:
        counts[np.argmax(exact - counts)] += 1
    while counts.sum() > total and counts.max() > 1:
        counts[np.argmax(np.where(counts > 1, counts - exact, -np.inf))] -= 1
    return tuple(counts.tolist())
