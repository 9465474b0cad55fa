"""Pictures and pages beside numbers: one that fails must not cost the numbers."""

import pathlib
from collections.abc import Callable, Mapping

from unet_jax.core.errors import print_error


def rendered(parts: Mapping[pathlib.Path, Callable[[], bytes]]) -> dict[pathlib.Path, bytes]:
    """The contents of the files that can be made.

    A part that fails is reported in one line and left out, and what an earlier call left in its
    place is removed: it would not belong to the numbers beside it.
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
