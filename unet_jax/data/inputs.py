"""Which files are to be predicted, and the names that their outputs take from them."""

import glob
import pathlib

from unet_jax.data.pairs import JUNK
from unet_jax.errors import UserError

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".gif")


def find_inputs(wanted: str, output: pathlib.Path) -> dict[str, pathlib.Path]:
    """Input files by name, sorted: a file, the images in a folder, or what a pattern matches.

    A name is the file's without its suffix; of a pattern, with the folders below its part without
    wildcards. Raises a `UserError` where there is no file, where two have one name, or where the
    folder `output` has inputs in it, since masks would be inputs of the next call.
    """
    path = pathlib.Path(wanted)
    if path.is_dir():
        root, found = path, [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES]
    elif path.exists():
        root, found = path.parent, [path]
    else:
        root, found = _fixed_part(path), list(map(pathlib.Path, glob.glob(wanted, recursive=True)))
    found = [p for p in found if p.is_file() and not p.name.startswith(".") and p.name not in JUNK]
    if not found:
        kinds = f" with images ({' '.join(SUFFIXES)})" if path.is_dir() else ""
        raise UserError(f"--input={wanted}: no such file, folder{kinds} or pattern with matches")
    names: dict[str, pathlib.Path] = {}
    for path in sorted(found):
        name = path.relative_to(root).with_suffix("").as_posix()
        if other := names.get(name):
            raise UserError(
                f"{path}: has the name of {other.name}, and so would its mask; rename one of the "
                f"two, or predict them into different folders"
            )
        if output.resolve() in path.resolve().parents:
            raise UserError(
                f"--output={output}: has the input {path} in it, and masks there would be inputs "
                f"of the next call; take another folder"
            )
        names[name] = path
    return names


def _fixed_part(pattern: pathlib.Path) -> pathlib.Path:
    """The folder of a pattern before its first wildcard."""
    fixed = pathlib.Path()
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed
