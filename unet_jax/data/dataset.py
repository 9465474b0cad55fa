"""Data sets: splits of examples with class names, and how images are dealt to the splits."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from unet_jax.core.errors import UserError
from unet_jax.core.lengths import MICROMETRES, unit_of

Example = dict[str, np.ndarray]
PARTS = ("train", "validation", "test")
RGB = ("red", "green", "blue")  # names of the channels of a colour image


@dataclasses.dataclass(frozen=True)
class Split:
    """A sequence of examples, decoded when they are accessed.

    An example has `image` ([H, W, C], of the file's type), `label` (uint8 [H, W]: classes
    0 ... K-1 or `unet_jax.IGNORED`), `index` (its position in the split) and, if the split has
    weights, `weight` (float32 [H, W], 0 at ignored pixels). `read` maps an index to image and
    label; `read` and `weight` are pickled to the reader processes.
    """

    names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]  # each image's height and width in pixels
    read: Callable[[int], tuple[np.ndarray, np.ndarray]]
    # Maps an index to the class ids of a second human observer, [H, W].
    observer: Callable[[int], np.ndarray] | None = None
    weight: Callable[[int, np.ndarray], np.ndarray] | None = None  # from index and label
    # Height and width of each image's pixels in micrometres; () if an image states none.
    pixel_sizes: tuple[tuple[float, float], ...] = ()
    # Maps an index to the ids of the label's objects, int32 [H, W]; 0 = none, also where the label
    # is ignored. With it, touching objects of one class are told from one another.
    instances: Callable[[int], np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Example:
        image, label = self.read(index)
        example = {"image": image, "label": label, "index": np.asarray(index, np.int32)}
        return example | {"weight": self.weight(index, label)} if self.weight else example

    def spacing(self, index: int, unit: str) -> tuple[float, float]:
        """Returns height and width of an image's pixels; `unit` is a key of `MICROMETRES`."""
        height, width = self.pixel_sizes[index]
        return height / MICROMETRES[unit], width / MICROMETRES[unit]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """An opened and checked data set; `splits` has `train`, `validation` and `test`."""

    splits: Mapping[str, Split]
    classes: tuple[str, ...]  # the second of two classes is the foreground
    channels: int
    sha256: Mapping[str, str]  # hashes of a stack's pixels or a split's files, kept with the run
    cells: bool = False  # class 1 is cells separated by class 0, so V^Rand and V^Info apply
    border: int = 0  # the class that is the border of the objects of class 1; 0: there is none
    notes: tuple[str, ...] = ()  # lines that describe what was recognised in the files
    channel_names: tuple[str, ...] = ()  # () stands for those of `default_channel_names`

    def __post_init__(self) -> None:
        names = self.channel_names or default_channel_names(self.channels)
        object.__setattr__(self, "channel_names", names)

    @property
    def final_split(self) -> str:
        """The split of a run's main report: test, or validation if there are no test images."""
        return "test" if len(self.splits["test"]) else "validation"

    @property
    def length_unit(self) -> str:
        """The unit of physical distances, a key of `MICROMETRES`.

        It is "" unless every image of every split states the size of its pixels.
        """
        splits = [split for split in self.splits.values() if len(split)]
        if not splits or not all(split.pixel_sizes for split in splits):
            return ""
        return unit_of(min(min(size) for split in splits for size in split.pixel_sizes))


def default_channel_names(channels: int, is_rgb: bool = True) -> tuple[str, ...]:
    """Returns the names of channels that the files do not name.

    Args:
      channels: their number.
      is_rgb: whether the first three of three or more channels are red, green and blue.
    """
    if channels == 1:
        return ("grey",)
    rgb = RGB if is_rgb and channels >= 3 else ()
    return (*rgb, *(f"channel {i + 1}" for i in range(len(rgb), channels)))


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
    """Deals names to the parts by a seeded permutation of the sorted names.

    Args:
      names: distinct names of images or groups.
      split: number of names of each part or, as floats, its share. () puts all names in every
        part except validation.
      seed: seeds the permutation.
      where: what has the names, for error messages.
      fold: fold of a cross-validation, from 0; the last parts of two folds are disjoint.
      parts: names of the parts.
      unit: what a name stands for, for error messages.

    Returns:
      Each part's positions in `names`, in the sorted order of the names.

    Raises:
      UserError: the numbers do not add up, leave training or test without a name, or there is no
        such fold.
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
    # Rotated by a multiple of the last part's length, so that the last parts of folds are disjoint.
    order = np.roll(np.random.default_rng(seed).permutation(len(names)), fold * last)
    ends = np.cumsum(counts)
    return {
        part: [by_name[i] for i in np.sort(order[end - count : end])]
        for part, count, end in zip(parts, counts, ends, strict=True)
    }


def random_group_split(
    groups: Sequence[str], split: Sequence[float], seed: int, where: str, *, fold: int, unit: str
) -> dict[str, list[int]]:
    """Deals whole groups of images to the parts, as `random_split` deals names.

    Args:
      groups: the group of each image.
      split: number or share of groups of each part.
      seed: seeds the permutation.
      where: what has the groups, for error messages.
      fold: fold of a cross-validation, from 0.
      unit: what a group is, for error messages.

    Returns:
      Each part's positions in `groups`, in ascending order.

    Raises:
      UserError: as `random_split`.
    """
    names = sorted(set(groups))
    dealt = random_split(names, split, seed, where, fold=fold, unit=unit)
    return {
        part: np.flatnonzero(np.isin(groups, [names[i] for i in dealt_names])).tolist()
        for part, dealt_names in dealt.items()
    }


def _check_fold(fold: int, folds: int, has: str, split: Sequence[float]) -> None:
    if not 0 <= fold < folds:
        raise UserError(
            f"data.fold={fold}: {has}, and data.split={split} gives {folds} "
            f"fold{'s' * (folds != 1)}, numbered from 0"
        )


def _round_shares(shares: Sequence[float], total: int) -> tuple[int, ...]:
    """Rounds shares * total to integers that add up to total; a share above 0 gets at least 1.

    If there are more such shares than the total, they add up to more.
    """
    exact = total * np.asarray(shares)
    counts = np.where(exact > 0, np.maximum(np.floor(exact), 1), 0).astype(int)
    while counts.sum() < total:
        counts[np.argmax(exact - counts)] += 1
    while counts.sum() > total and counts.max() > 1:
        counts[np.argmax(np.where(counts > 1, counts - exact, -np.inf))] -= 1
    return tuple(counts.tolist())
