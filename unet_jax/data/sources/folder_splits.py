"""How the images of a user's folder are split: by folders, by lists, or at random.

Folders that are the splits, in any of these layouts (`val` may be `valid` or `validation`):

- `train/images`, `train/masks`, `val/images`, `val/masks`, ...
- `images/train`, `masks/train`, `images/val`, `masks/val`, ...
- `train`, `trainannot` (or `train_labels`, `train_masks`), `val`, `valannot`, ...
"""

import dataclasses
import difflib
import pathlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ml_collections import ConfigDict

from unet_jax.core.errors import UserError
from unet_jax.data.dataset import PARTS, random_group_split, random_split
from unet_jax.data.files.pairing import (
    IMAGES,
    MASKS,
    Files,
    compile_pattern,
    find_folder,
    pair_folders,
)
from unet_jax.data.files.pairs import Pair, is_junk
from unet_jax.data.labels.names import read_lines

# Usual names of the folders of given splits, in lower case.
GIVEN = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
SOURCE = "name the folder that contains images/ and masks/ with --config.data.root=..."
ANNOTATED = ("annot", *MASKS)  # what follows a split's name in that of the folder of its masks


@dataclasses.dataclass(frozen=True)
class Given:
    """The folders of given splits."""

    folders: Mapping[str, tuple[pathlib.Path, pathlib.Path]]  # images and masks by part
    names: str  # the folders' names, for messages


def find_given(root: pathlib.Path) -> Given | None:
    """Finds given splits in any of the layouts of this module's docstring.

    Returns:
      The folders by part, in the order of `PARTS`; None if there are none, or if `root` has a
      folder of images of its own.

    Raises:
      UserError: a folder is there under several of its usual names.
    """
    images, masks = find_folder(root, IMAGES), find_folder(root, MASKS)
    folders: dict[str, tuple[pathlib.Path, pathlib.Path]] = {}
    found: dict[str, pathlib.Path] = {}
    if images and _has_no_files(images):
        found = _parts(images)
        for part, folder in found.items():
            masks = masks or root / MASKS[0]
            folders[part] = folder, find_folder(masks, GIVEN[part]) or masks / folder.name
    elif not images:
        found = _parts(root)
        own = {part: find_folder(folder, IMAGES) for part, folder in found.items()}
        if any(own.values()):
            folders = {
                part: (images, find_folder(found[part], MASKS) or found[part] / MASKS[0])
                for part, images in own.items()
                if images
            }
        else:
            beside = {part: _annotated(folder) for part, folder in found.items()}
            folders = {part: (found[part], x) for part, x in beside.items() if x}
    names = (found[part].relative_to(root) for part in folders)
    return Given(folders, ", ".join(f"{name}/" for name in names)) if folders else None


def unused_splits(root: pathlib.Path) -> list[pathlib.Path]:
    """Returns folders with images that are named like splits, beside images of `root` itself."""
    return [folder for folder in _parts(root).values() if find_folder(folder, IMAGES)]


def pair_given(
    root: pathlib.Path, given: Given, data: ConfigDict
) -> tuple[dict[str, Files], list[str]]:
    """Pairs the images and masks of each given split.

    Args:
      root: the data folder, for messages.
      given: the folders.
      data: the section `data` of the config.

    Returns:
      The files of each split, and notes.

    Raises:
      UserError: the training images or both others are missing, files do not pair, or the config
        asks for a random split or for lists.
    """
    _check_parts(
        given.folders,
        f"{root}: has {given.names} with images",
        "train/ and at least one of val/ and test/",
        "add what is missing, or name a folder with images/ and masks/ to split at random",
    )
    if data.fold:
        raise UserError(
            f"data.fold={data.fold}: {root} has given splits ({given.names}); set it to 0"
        )
    files = {}
    notes = [f"the splits are those of the folders {given.names}; data.split is not used"]
    for part, (images, masks) in given.folders.items():
        files[part], more = pair_folders(
            images, masks, SOURCE, data.image_pattern, data.mask_pattern
        )
        notes += more
    return files, notes


def list_names(
    root: pathlib.Path, files: Files, data: ConfigDict
) -> tuple[dict[str, list[str]], list[str]]:
    """Reads which images the lists of splits name.

    Args:
      root: the data folder, to which relative paths of lists refer.
      files: image and mask of each name.
      data: the section `data` of the config.

    Returns:
      The names of each part that has a list, sorted, and notes; empty if there are no lists.

    Raises:
      UserError: a list cannot be read, names no image, one that does not exist or one twice; two
        lists name the same image; or too few lists are given.
    """
    lists = {part: data[f"{part}_list"] for part in PARTS if data[f"{part}_list"]}
    if not lists:
        return {}, []
    _check_parts(
        lists,
        " and ".join(f"data.{part}_list={name}" for part, name in lists.items()),
        "data.train_list and at least one of data.validation_list and data.test_list",
        "set them",
    )
    if data.fold:
        raise UserError(f"data.fold={data.fold}: the splits are given as lists; set it to 0")
    keys, seen, chosen = _by_any_name(files), {}, {}
    for part, name in lists.items():
        path = root / name
        if not path.is_file():
            raise UserError(
                f"data.{part}_list={name}: {path} is no file; a relative path refers to data.root"
            )
        for number, line in _entries(path):
            image, here = _find(line, keys, path, number), f"{path}: line {number}"
            if image in seen:
                raise UserError(
                    f"{here}: the image {image!r} is in {seen[image]} too; remove one of the lines"
                )
            seen[image] = f"line {number} of {path.name}"
            chosen.setdefault(part, []).append(image)
        if part not in chosen:
            raise UserError(f"{path}: names no image; write the name of an image on each line")
    notes = [f"the splits are those of {', '.join(lists.values())}; data.split is not used"]
    if unused := len(files) - len(seen):
        notes.append(f"{unused} of {len(files)} images are in no list and are not used")
    return {part: sorted(names) for part, names in chosen.items()}, notes


def split_pairs(pairs: Sequence[Pair], data: ConfigDict) -> dict[str, list[Pair]]:
    """Splits pairs at random as `data.split` says, whole groups of them if `data.group` is set."""
    names, root = [pair.name for pair in pairs], str(data.root)
    if data.group:
        groups = _groups(names, data.group)
        split = random_group_split(
            groups, data.split, data.split_seed, root, fold=data.fold, unit="group"
        )
    else:
        split = random_split(names, data.split, data.split_seed, root, fold=data.fold)
    return {part: [pairs[i] for i in indices] for part, indices in split.items()}


def hold_out(
    parts: Mapping[str, list[Pair]], data: ConfigDict
) -> tuple[dict[str, list[Pair]], list[str]]:
    """Holds out training images for validation, if given splits or lists have none.

    Args:
      parts: the pairs of each given split.
      data: the section `data` of the config: `data.validation_share` of the training images, or of
        their groups, rounded to a whole number, are held out.

    Returns:
      The pairs of each split, and notes on the splits that have no images of their own.
    """
    parts, notes = dict(parts), []
    if not parts["test"]:
        notes.append("no test images: the report at the end is of the validation images")
    if parts["validation"]:
        return parts, notes
    train, names = parts["train"], [pair.name for pair in parts["train"]]
    groups = _groups(names, data.group) if data.group else names
    distinct = sorted({*groups})
    count = round(data.validation_share * len(distinct))
    if not count:
        notes.append("no validation images: the last model is evaluated, not the best one")
        return parts, notes
    counts = count, len(distinct) - count
    order = "validation", "train"
    dealt = random_split(distinct, counts, data.split_seed, str(data.root), parts=order)
    held = {distinct[i] for i in dealt["validation"]}
    for part in order:
        own = zip(train, groups, strict=True)
        parts[part] = [pair for pair, group in own if (group in held) == (part == "validation")]
    notes.append(
        f"no validation images: {len(parts['validation'])} of {len(train)} training images are "
        f"held out for validation (data.validation_share={data.validation_share:g})"
    )
    return parts, notes


def check_groups(parts: Mapping[str, Sequence[Pair]], pattern: str) -> None:
    """Checks that the images of each group are in one of the given splits.

    Args:
      parts: the pairs of each split.
      pattern: `data.group`; "" checks nothing.

    Raises:
      UserError: a group is in two splits, or the pattern does not match an image.
    """
    part_of: dict[str, tuple[str, str]] = {}
    for part, pairs in parts.items() if pattern else ():
        names = [pair.name for pair in pairs]
        for name, group in zip(names, _groups(names, pattern), strict=True):
            other_part, other = part_of.setdefault(group, (part, name))
            if other_part != part:
                raise UserError(
                    f"data.group={pattern!r}: the group {group!r} is in {other_part} ({other}) and "
                    f"in {part} ({name}); move all its images into one of them"
                )


def _parts(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the folders that are named like splits, by part, in the order of `PARTS`."""
    folders = {part: find_folder(root, names) for part, names in GIVEN.items()}
    return {part: folder for part, folder in folders.items() if folder}


def _annotated(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the folder beside that of a split's images that has its masks, such as trainannot."""
    name = folder.name.casefold()
    usual = [f"{name}{between}{kind}" for kind in ANNOTATED for between in ("", "_", "-")]
    return find_folder(folder.parent, usual)


def _has_no_files(folder: pathlib.Path) -> bool:
    return not any(path.is_file() and not is_junk(path.name) for path in folder.iterdir())


def _check_parts(parts: Iterable[str], has: str, expected: str, advice: str) -> None:
    if "train" not in parts or len([*parts]) == 1:
        raise UserError(f"{has}; expected {expected}; {advice}")


def _entries(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """Yields number and text of each line of a list that is neither blank nor a comment."""
    return ((i, line) for i, line in read_lines(path).items() if not line.startswith("#"))


def _by_any_name(files: Files) -> dict[str, str]:
    """Returns the name of each image by all that a list may call it: name, file name and stem."""
    keys: dict[str, str] = {}
    for key_of in (lambda name, path: name, lambda _, path: path.name, lambda _, path: path.stem):
        for name, (image, _) in files.items():
            keys.setdefault(unicodedata.normalize("NFC", key_of(name, image)), name)
    return keys


def _find(line: str, keys: Mapping[str, str], path: pathlib.Path, number: int) -> str:
    """Returns the name of the image that a line of a list names, perhaps by its path."""
    wanted = unicodedata.normalize("NFC", line.replace("\\", "/").rpartition("/")[2])
    if wanted in keys:
        return keys[wanted]
    close = difflib.get_close_matches(wanted, keys, 1, 0)
    raise UserError(
        f"{path}: line {number} ({line[:80]!r}): no such image; the nearest is {close[0]}; fix the "
        f"line or add the image"
    )


def _groups(names: Sequence[str], pattern: str) -> list[str]:
    """Returns the group of each name."""
    form = compile_pattern("data.group", pattern)
    found = [(name, form.search(name)) for name in names]
    for name, match in found:
        if not match or match[1] is None:
            raise UserError(f"data.group={pattern!r}: does not match the image {name!r}")
    return [match[1] for _, match in found if match]
