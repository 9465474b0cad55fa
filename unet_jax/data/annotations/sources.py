"""Finds the files of annotations and images, and reads values of JSON that may have any form."""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from unet_jax.core.errors import UserError
from unet_jax.data.annotations.registry import Request
from unet_jax.data.files.inputs import SUFFIXES
from unet_jax.data.files.pairs import is_junk

MOST = 1e9  # pixels; a larger coordinate is damage


@contextlib.contextmanager
def refuse_malformed(where: object, form: str) -> Iterator[None]:
    """Turns the errors of reading a value that has an unexpected form into a `UserError`.

    Args:
      where: the file, and the part of it.
      form: what was expected, such as "a LabelMe file".
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{where}: is not {form} ({reason[:200]}); check --from, or save it again"
        ) from None


def points(values: object) -> np.ndarray:
    """Returns corners (x, y), float64 [N, 2].

    Raises:
      ValueError: they are not pairs of finite numbers in pixels.
    """
    corners = np.array(values, np.float64)
    if corners.size and corners.shape[1:] != (2,):
        raise ValueError("points that are not pairs of numbers")
    if not (np.abs(corners) < MOST).all():
        raise ValueError("coordinates that are infinite or not numbers")
    return corners.reshape(-1, 2)


def find_json(request: Request, suffixes: Sequence[str] = (".json",)) -> list[pathlib.Path]:
    """Returns the annotation files: `--root` itself, or those in this folder, sorted.

    Raises:
      UserError: there are none.
    """
    if request.root.is_file():
        return [request.root]
    if not request.root.is_dir():
        raise UserError(f"--root={request.root}: no such file or folder")
    found = [
        path
        for path in sorted(request.root.iterdir())
        if path.suffix.lower() in suffixes and not is_junk(path.name)
    ]
    if not found:
        raise UserError(
            f"--root={request.root}: has no {' or '.join(suffixes)} files; give the folder or the "
            f"file that the tool exported, and check --from"
        )
    return found


def find_one_json(request: Request) -> pathlib.Path:
    """Returns the only JSON file of the folder `--root`, or `--root` itself.

    Raises:
      UserError: there is none, or there are several.
    """
    found = find_json(request)
    if len(found) > 1:
        raise UserError(
            f"--root={request.root}: has {found[0].name} and {found[1].name}; give one of them as "
            f"--root, and convert each into a folder of its own"
        )
    return found[0]


def find_image(names: Sequence[str], request: Request, where: object) -> pathlib.Path:
    """Finds an image by its path or its file name, in the folders where images may be.

    Args:
      names: possible relative or absolute paths, also with the separators of Windows; the first
        one that exists is used.
      request: has the folders.
      where: the annotation, for messages.

    Raises:
      UserError: there is no such image, or two folders have one of that name.
    """
    for name in names:
        path = pathlib.PurePosixPath(name.replace("\\", "/"))
        for wanted in dict.fromkeys((path, pathlib.PurePosixPath(path.name))):
            found = {
                (folder / wanted).resolve(): folder / wanted
                for folder in request.image_folders
                if wanted.name and (folder / wanted).is_file()
            }
            if len(found) > 1:
                first, second = list(found.values())[:2]
                raise UserError(
                    f"{where}: the image may be {first} or {second}; give the folder of the "
                    f"images with --images=..."
                )
            if found:
                return next(iter(found.values()))
    looked = " and ".join(str(folder) for folder in request.image_folders)
    raise UserError(
        f"{where}: its image {names[0]!r} is not in {looked}; add it there, or give the folder of "
        f"the images with --images=..."
    )


def list_images(folders: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """Returns the image files of folders, of which some may be missing."""
    return [
        path
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES and not is_junk(path.name)
    ]
