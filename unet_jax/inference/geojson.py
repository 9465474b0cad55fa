"""GeoJSON of masks, as QuPath reads it: a polygon for each connected region, with its holes."""

import contextlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from unet_jax.core.errors import UserError
from unet_jax.data.annotations.outlines import find_regions
from unet_jax.data.files.pages import MAX_PIXELS
from unet_jax.inference.output_file import Extra
from unet_jax.inference.predicted_image import PredictedImage
from unet_jax.reporting.colours import palette


class GeoJson(Extra):
    """`NAME.geojson`, the regions of the masks.

    Each region is an annotation with the class's name and the colour that it has in reports.
    Coordinates are in pixels of the image; integers are the corners of pixels. Regions of a stack
    state their page as QuPath's `plane.z`. Those of class 0 are not written.

    Args:
      folder: the output folder.
      name: the outputs' path in the folder, without suffix.
      names: name of each class.
      is_stack: whether the file is of several images.
    """

    needs_mask = True

    def __init__(self, folder: pathlib.Path, name: str, names: Sequence[str], is_stack: bool):
        super().__init__(folder / f"{name}.geojson")
        self._names, self._is_stack = names, is_stack

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        self._pages, self._separator = 0, "\n"
        with open(self.unfinished, "w", encoding="utf-8") as self._file:
            self._file.write('{"type": "FeatureCollection", "features": [')
            yield
            self._file.write("\n]}\n")

    def end_image(self, image: PredictedImage) -> None:
        colours = palette().tolist()
        for region in find_regions(image.mask):
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
