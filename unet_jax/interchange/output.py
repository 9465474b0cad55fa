"""The output folder of an export, which is either complete or written again."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from unet_jax.core.errors import UserError
from unet_jax.core.faults import FULL
from unet_jax.core.files import write_all


def check_free(output: pathlib.Path, names: Sequence[str]) -> None:
    """Checks that an export can be written to a folder.

    Args:
      output: the folder.
      names: names of the files to write, in this order; the last one marks a complete export.

    Raises:
      UserError: the folder cannot be read, or has anything but an incomplete export.
    """
    with _explained(output):
        free = not output.exists() or (
            output.is_dir() and {*output.iterdir()} <= {*_incomplete(output, names)}
        )
    if not free:
        raise UserError(
            f"--output={output}: exists and has files, perhaps of a complete export; choose a new "
            f"folder"
        )


def write_files(output: pathlib.Path, contents: Mapping[str, bytes]) -> None:
    """Writes an export to a folder, which is created if needed; removes an incomplete one.

    Args:
      output: the folder, which `check_free` has checked.
      contents: the bytes of each file, by its name. They are written in this order, so that the
        last file marks a complete export.

    Raises:
      UserError: the folder cannot be written.
    """
    with _explained(output):
        output.mkdir(parents=True, exist_ok=True)
        for path in _incomplete(output, [*contents]):
            path.unlink()
        write_all({output / name: content for name, content in contents.items()})


@contextlib.contextmanager
def _explained(output: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--output={output}: cannot be written ({FULL.get(error.errno or 0, error.strerror)}); "
            f"nothing was exported; fix this, then rerun the command"
        ) from error


def _incomplete(output: pathlib.Path, names: Sequence[str]) -> list[pathlib.Path]:
    """Returns the files of an incomplete export.

    These are temporary files and, if the last file is missing, those that were written before it.
    """
    temporary = [path for name in names for path in output.glob(f".{name}.*.tmp")]
    if (output / names[0]).exists() and not (output / names[-1]).exists():
        return temporary + [output / name for name in names if (output / name).exists()]
    return temporary
