"""Rendering of figures and pages such that a failure does not prevent writing the numbers."""

import pathlib
from collections.abc import Callable, Mapping

from unet_jax.core.errors import print_error


def rendered(parts: Mapping[pathlib.Path, Callable[[], bytes]]) -> dict[pathlib.Path, bytes]:
    """Renders files and omits those that fail.

    A failure is reported in one line. The previous version of the file is then deleted, because it
    would not match the new numbers.

    Args:
      parts: maps the path of each file to the function that renders its content.

    Returns:
      The contents of the rendered files by path. Nothing is written.
    """
    contents = {}
    for path, render in parts.items():
        try:
            contents[path] = render()
        except Exception as error:
            print_error(
                f"{path}: could not be made ({type(error).__name__}: {error}); the numbers and the "
                f"other files are written without it"
            )
            path.unlink(missing_ok=True)
    return contents
