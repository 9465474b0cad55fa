"""Images and masks of a folder, paired by their names as people choose them.

The folders may have any of the usual names, in any case. A pair has the same name, or names that
differ by the usual suffixes and prefixes, by case, or by how accents are encoded; or all masks have
the name of their image with the same addition, or all images that of their mask; or regular
expressions say which part of a file name is the name.
"""

import difflib
import pathlib
import re
import unicodedata
from collections.abc import Collection, Mapping

from unet_jax.core.errors import UserError
from unet_jax.core.files import printable
from unet_jax.data.files.pairs import is_junk

IMAGES = ("images", "imgs", "image", "img")
MASKS = ("masks", "mask", "labels", "label", "annotations", "annotation", "gt")
EXPECTED = "PNG, JPEG, TIFF, BMP and GIF files"
_FILE = re.compile(r"(.+?)(?:_mask)?\.(?i:png|jpe?g|tiff?|bmp|gif)")
_WORD = r"(?:masks?|labels?|seg(?:mentation)?s?|gt|ground_?truth|annotations?|images?|imgs?)"
# nnU-Net appends _0000 to images; Cellpose writes masks NAME_cp_masks.
_SUFFIX = re.compile(rf"(?<=.)[ _.-](?:{_WORD}|0000|cp)$")
_PREFIX = re.compile(rf"^{_WORD}[ _.-](?=.)")

Files = dict[str, tuple[pathlib.Path, pathlib.Path]]  # image and mask of each name


def find_folder(root: pathlib.Path, names: Collection[str]) -> pathlib.Path | None:
    """Finds a subfolder by its usual names, in any case; the first of them is preferred.

    Args:
      root: the folder that contains it.
      names: the usual names, in lower case.

    Returns:
      The folder, or None if there is none.

    Raises:
      UserError: there are several.
    """
    if not root.is_dir():
        return None
    found = [path for path in sorted(root.iterdir()) if path.name.casefold() in names]
    found = [path for path in found if path.is_dir()]
    preferred = [path for path in found if path.name == next(iter(names))]
    if len(found) > 1 and not preferred:
        raise UserError(
            f"{root}: has {' and '.join(path.name for path in found)}; keep one of them there"
        )
    return (preferred or found or [None])[0]


def pair_files(
    root: pathlib.Path, source: str, image_pattern: str = "", mask_pattern: str = ""
) -> tuple[Files, list[str]]:
    """Pairs the images and the masks of a folder by name.

    Args:
      root: the folder that contains the folders of images and of masks.
      source: how to get the data, for error messages.
      image_pattern: regular expression that is searched in the file names of images, whose first
        group is the name; other files are ignored. "": the usual names.
      mask_pattern: the same for masks.

    Returns:
      The files by name, sorted by name, and notes on how they were paired.

    Raises:
      UserError: a folder is missing or empty, a file is not an image, two files have the same
        name, or a file has no partner.
    """
    images, masks = (find_folder(root, names) or root / names[0] for names in (IMAGES, MASKS))
    return pair_folders(images, masks, source, image_pattern, mask_pattern)


def pair_folders(
    image_folder: pathlib.Path,
    mask_folder: pathlib.Path,
    source: str,
    image_pattern: str = "",
    mask_pattern: str = "",
) -> tuple[Files, list[str]]:
    """Pairs the images of one folder and the masks of another, as `pair_files` does."""
    notes: list[str] = []
    images = _list(image_folder, image_pattern, "data.image_pattern", source, notes)
    masks = _list(mask_folder, mask_pattern, "data.mask_pattern", source, notes)
    matched = {key: (path, masks[key][1]) for key, (_, path) in images.items() if key in masks}
    rest = [
        {key: named for key, named in files.items() if key not in matched}
        for files in (images, masks)
    ]
    if any(rest) and not (image_pattern or mask_pattern):
        common_images, common_masks = map(_by_common_name, rest)
        for common in common_images.keys() & common_masks.keys():
            key, other = common_images[common], common_masks[common]
            matched[key] = (images[key][1], masks[other][1])
            del rest[0][key], rest[1][other]
        added = {mask: image for image, mask in _by_addition(rest[1], rest[0]).items()}
        for key, other in (_by_addition(*rest) or added).items():
            matched[key] = (images[key][1], masks[other][1])
            del rest[0][key], rest[1][other]
        if different := [pair for pair in matched.values() if pair[0].stem != pair[1].stem]:
            image, mask = min(different)
            notes.append(
                f"{len(different)} images and masks are paired by the common part of their names, "
                f"such as {image.name} and {mask.name}"
            )
    _check_partners(rest[0], rest[1] or masks, "mask")
    _check_partners(rest[1], rest[0] or images, "image")
    named = {images[key][0]: files for key, files in matched.items()}
    return dict(sorted(named.items())), notes


def _list(
    folder: pathlib.Path,
    pattern: str,
    field: str,
    source: str,
    notes: list[str],
) -> dict[str, tuple[str, pathlib.Path]]:
    """Returns the name and path of each file of a folder, by the normalised name."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {source}")
    form = compile_pattern(field, pattern) if pattern else _FILE
    files: dict[str, tuple[str, pathlib.Path]] = {}
    passed = []
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if is_junk(path.name):
            continue
        match = form.search(path.name) if pattern else form.fullmatch(path.name)
        if match and match[1]:
            name = printable(match[1])
            key = unicodedata.normalize("NFC", name)
            if key in files:
                other = files[key][1].name
                raise UserError(f"{path}: has the same name as {other}; keep only one of them")
            files[key] = name, path
        elif pattern:
            passed.append(path)
        else:
            raise UserError(f"{path}: unexpected file; expected only {EXPECTED}; move it elsewhere")
    if not files and passed:
        raise UserError(f"{field}={pattern!r}: does not match {passed[0]} or any other file there")
    if not files:
        raise UserError(f"{folder}: is empty; expected {EXPECTED}; {source}")
    if passed:
        notes.append(
            f"{len(passed)} files of {folder} do not match {field}, such as {passed[0].name}"
        )
    return files


def compile_pattern(field: str, pattern: str) -> re.Pattern[str]:
    """Compiles a regular expression of the config.

    Args:
      field: the field's name.
      pattern: its value.

    Raises:
      UserError: it is not a regular expression, or has no group.
    """
    example = "; for NAME_lesion.png it is (.+)_lesion" if field.endswith("_pattern") else ""
    try:
        form = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"{field}={pattern!r}: is not a regular expression ({error}){example}"
        ) from None
    if not form.groups:
        raise UserError(f"{field}={pattern!r}: has no group; put the name in parentheses{example}")
    return form


def _common_name(name: str) -> str:
    """Returns a name in lower case without the usual prefixes and suffixes."""
    name, before = unicodedata.normalize("NFC", name.casefold()), ""
    while name != before:
        name, before = _PREFIX.sub("", _SUFFIX.sub("", name)), name
    return name


def _by_common_name(files: Mapping[str, tuple[str, pathlib.Path]]) -> dict[str, str]:
    """Returns the normalised name of each common name; raises if two files have the same."""
    found: dict[str, str] = {}
    for key, (_, path) in files.items():
        common = _common_name(key)
        if common in found:
            raise UserError(
                f"{path}: has the common name {common!r}, like {files[found[common]][1].name}; "
                f"rename one of them, or set data.image_pattern and data.mask_pattern"
            )
        found[common] = key
    return found


def _by_addition(names: Collection[str], longer: Collection[str]) -> dict[str, str]:
    """Pairs names with longer ones that have the same addition, such as `_lesion`, in any case.

    Returns:
      The longer name by the name; {} unless each has a partner, by a single addition that a space,
      underscore, full stop or hyphen separates from the name.
    """
    of_short, of_long = ({name.casefold(): name for name in each} for each in (names, longer))
    if not names or not len(names) == len(longer) == len(of_short) == len(of_long):
        return {}
    first, found = min(of_short), {}
    for name in of_long:
        for start in (m.start() for m in re.finditer(f"(?={re.escape(first)})", name)):
            before, after = name[:start], name[start + len(first) :]
            separated = re.fullmatch(r"(.*[ _.-])?", before) and re.fullmatch(r"([ _.-].*)?", after)
            pairs = {short: f"{before}{short}{after}" for short in of_short}
            if separated and {*pairs.values()} == {*of_long}:
                found[before, after] = {of_short[x]: of_long[y] for x, y in pairs.items()}
    return next(iter(found.values())) if len(found) == 1 else {}


def _check_partners(
    rest: Mapping[str, tuple[str, pathlib.Path]],
    others: Mapping[str, tuple[str, pathlib.Path]],
    missing: str,
) -> None:
    """Raises if a file has no partner, with the name looked for and the nearest that is there."""
    if not rest:
        return
    key, (_, path) = next(iter(rest.items()))
    folder = next(iter(others.values()))[1].parent
    commons = {_common_name(other): file.name for other, (_, file) in others.items()}
    close = difflib.get_close_matches(_common_name(key), commons, 1, 0)
    more = f" (nor do {len(rest) - 1} others)" if len(rest) > 1 else ""
    raise UserError(
        f"{path}: has no {missing} in {folder}{more}; looked for the name {_common_name(key)!r}, "
        f"the nearest there is {commons[close[0]]}; add what is missing there, move these files "
        f"elsewhere, or set data.image_pattern and data.mask_pattern (such as (.+)_lesion for "
        f"NAME_lesion.png)"
    )
