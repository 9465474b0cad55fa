"""Finds the input files of a prediction and the names of their outputs."""

import glob
import os
import pathlib

from unet_jax.core.bucket import is_bucket
from unet_jax.core.errors import UserError
from unet_jax.data.files.pairs import JUNK

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".gif")
RECORD = "prediction.json"  # in an output folder: describes how its masks were predicted


def find_inputs(wanted: str, output: pathlib.Path) -> dict[str, pathlib.Path]:
    """Finds the input files of a prediction.

    Args:
      wanted: a file, a folder of images, or a glob pattern.
      output: the output folder. If it has a `prediction.json`, the files that are found in it are
        left out, because they may be masks of an earlier call.

    Returns:
      The files by name, sorted by path. A name is the file name without its suffix; for a pattern
      it includes the folders below the part of the pattern without wildcards.

    Raises:
      UserError: nothing is found; a file is found by a `..` after a wildcard; two files have the
        same name; or `output` contains inputs, since its masks would be inputs of the next call.
    """
    try:
        root, found = _find_files(pathlib.Path(wanted))
        masks = _paths_inside(found, output)
        if len(masks) < len(found) and (output / RECORD).is_file():
            found = [path for path in found if path not in masks]
            masks = set()
    except OSError as error:
        raise UserError(f"--input={wanted}: cannot be read ({error.strerror or error})") from error
    if not found:
        kinds = f" with images ({' '.join(SUFFIXES)})" if pathlib.Path(wanted).is_dir() else ""
        raise UserError(f"--input={wanted}: no such file, folder{kinds} or pattern with matches")
    names: dict[str, pathlib.Path] = {}
    for path in sorted(found):
        relative = path.relative_to(root).with_suffix("")
        if ".." in relative.parts:
            raise UserError(
                f"--input={wanted}: finds {path} by a '..' after a wildcard, so that its mask "
                f"would be outside --output; write the pattern without '..'"
            )
        name = relative.as_posix()
        if other := names.get(name):
            raise UserError(
                f"{path}: its mask would have the same name as that of {other.name}; rename one of "
                f"the two, or predict them into different folders"
            )
        if path in masks:
            raise UserError(
                f"--output={output}: contains the input {path}, so that masks there would be "
                f"inputs of the next call; use another folder"
            )
        names[name] = path
    return names


def _find_files(wanted: pathlib.Path) -> tuple[pathlib.Path, list[pathlib.Path]]:
    """Returns the folder that names are relative to, and the files."""
    if wanted.is_dir():
        root, found = wanted, [p for p in wanted.iterdir() if p.suffix.lower() in SUFFIXES]
    elif wanted.exists():
        root, found = wanted.parent, [wanted]
    else:
        matches = glob.glob(str(wanted), recursive=True)
        root, found = _fixed_part(wanted), [pathlib.Path(match) for match in matches]
    found = [p for p in found if p.is_file() and not p.name.startswith(".") and p.name not in JUNK]
    return root, found


def _paths_inside(paths: list[pathlib.Path], folder: pathlib.Path) -> set[pathlib.Path]:
    """Returns the paths inside a folder, also through links or with different letter case."""
    if is_bucket(folder) or not folder.exists():
        return set()
    parents = {path: pathlib.Path(os.path.realpath(path)).parent for path in paths}
    inside = {
        parent
        for parent in {*parents.values()}
        if any(ancestor.samefile(folder) for ancestor in (parent, *parent.parents))
    }
    return {path for path in paths if parents[path] in inside}


def _fixed_part(pattern: pathlib.Path) -> pathlib.Path:
    """Returns the folder of a pattern before its first wildcard."""
    fixed = pathlib.Path()
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed
