"""GeoJSON of masks, as QuPath reads it: a polygon for each connected region, with its holes."""

import contextlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np

from unet_jax.core.errors import UserError
from unet_jax.data.annotations.outlines import find_regions
from unet_jax.data.files.pages import MAX_PIXELS
from unet_jax.reporting.colours import palette


class GeoJson:
    """An open GeoJSON file, to which the regions of masks are added.

    Each region is an annotation with the class's name and the colour that it has in reports.
    Coordinates are in pixels of the image; integers are the corners of pixels. Regions of a stack
    state their page as QuPath's `plane.z`.

    Args:
      file: the file, open for writing text.
      names: name of each class.
      is_stack: whether the file is of several images.
    """

    def __init__(self, file: IO[str], names: Sequence[str], is_stack: bool):
        self._file, self._names, self._is_stack = file, names, is_stack
        self._pages, self._separator = 0, "\n"

    @classmethod
    @contextlib.contextmanager
    def opened(
        cls, path: pathlib.Path, names: Sequence[str], is_stack: bool
    ) -> Iterator["GeoJson"]:
        """Opens a new file, which is complete when the context ends."""
        with open(path, "w", encoding="utf-8") as file:
            file.write('{"type": "FeatureCollection", "features": [')
            yield cls(file, names, is_stack)
            file.write("\n]}\n")

    def add(self, mask: np.ndarray) -> None:
        """Writes the regions of the file's next image.

        Args:
          mask: class ids, uint8 [H, W]; regions of class 0 are not written.
        """
        colours = palette().tolist()
        for region in find_regions(mask):
            rings = [[*ring, ring[0]] for ring in region.rings]  # closed, as GeoJSON requires
            geometry: dict[str, Any] = {"type": "Polygon", "coordinates": rings}
            if self._is_stack:
                geometry["plane"] = {"c": -1, "z": self._pages, "t": 0}
            kind = {"name": self._names[region.value], "color": colours[region.value]}
            properties = {"objectType": "annotation", "classification": kind}
            feature = {"type": "Feature", "geometry": geometry, "properties": properties}
            self._file.write(self._separator + json.dumps(feature, separators=(",", ":")))
            self._separator = ",\n"
        self._pages += 1


def check_sizes(path: pathlib.Path, sizes: Sequence[tuple[int, int]], flag: str) -> None:
    """Checks that masks are small enough to be outlined or measured as a whole.

    Args:
      path: the input file.
      sizes: (height, width) of each of its images.
      flag: the flag that asks for it, for the message.

    Raises:
      UserError: an image has more than `MAX_PIXELS` pixels.
    """
    for height, width in sizes:
        if height * width > MAX_PIXELS:
            raise UserError(
                f"{path}: {width}x{height} pixels; {flag} takes masks of at most "
                f"{MAX_PIXELS} pixels; predict it without {flag}, or split the image"
            )
