"""The outputs of a prediction: for each input file the mask, and what else is asked for."""

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from unet_jax.core.bucket import is_bucket
from unet_jax.data.files.pages import is_tiff, open_georeferences, open_pages
from unet_jax.inference.gallery import Measurements, Predicted, Thumbnails
from unet_jax.inference.geojson import GeoJson
from unet_jax.inference.mask_files import Mask, Probabilities
from unet_jax.inference.output_file import Extra, OutputFile
from unet_jax.inference.pictures import Overlays
from unet_jax.inference.predicted_image import PredictedImage
from unet_jax.inference.predictor import decide


@dataclasses.dataclass(frozen=True)
class Extras:
    """What a prediction writes besides the masks.

    Attributes:
      probabilities: the probabilities, see `unet_jax.inference.mask_files`.
      overlays: the masks on the images, see `unet_jax.inference.pictures`.
      geojson: the outlines of the masks, see `unet_jax.inference.geojson`.
      gallery: thumbnails and measurements, and a page of both, see `unet_jax.inference.gallery`.
    """

    probabilities: bool = False
    overlays: bool = False
    geojson: bool = False
    gallery: bool = False


class Outputs:
    """The outputs of one input file, written in bands of rows as these are computed.

    Pages of TIFF files have the georeference and the resolution of their images.

    Args:
      folder: the output folder.
      name: the outputs' path in the folder, without suffix.
      source: the input file.
      sizes: (height, width) of each image in the input file, pixels.
      extras: what is written besides the mask.
      channels: number of channels of the network's input.
      classes: names of the classes.
      threshold: for two classes, the probability above which a pixel is of the second class.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        name: str,
        source: pathlib.Path,
        sizes: Sequence[tuple[int, int]],
        extras: Extras,
        *,
        channels: int,
        classes: Sequence[str],
        threshold: float,
    ):
        self._source, self._channels, self._threshold = source, channels, threshold
        self._classes, self._tiff = len(classes), is_tiff(source)
        images, pixels = len(sizes), sum(map(math.prod, sizes))
        self._mask = Mask(folder, name, self._tiff, self._classes, pixels)
        self._extras: list[Extra] = []
        self.gallery: Predicted | None = None  # what the page of the gallery shows of the file
        if extras.probabilities:
            self._extras.append(Probabilities(folder, name, self._classes, pixels))
        if extras.overlays:
            self._extras.append(Overlays(folder, name, images))
        if extras.geojson:
            self._extras.append(GeoJson(folder, name, classes, images > 1))
        if extras.gallery:
            thumbnails = Thumbnails(folder, name, images)
            measurements = Measurements(folder, name, classes, source)
            self._extras += thumbnails, measurements
            shown = pathlib.PurePath(name).with_name(source.name).as_posix()
            self.gallery = Predicted(shown, measurements.path, thumbnails.pictures)
        self._needs_mask = any(extra.needs_mask for extra in self._extras)
        self._needs_pixels = any(extra.needs_pixels for extra in self._extras)

    @property
    def _all(self) -> list[OutputFile]:
        """All outputs, in the order in which they appear."""
        return [*self._extras, self._mask]

    @property
    def paths(self) -> list[pathlib.Path]:
        """The final paths, in the order in which they appear; the mask is the last."""
        return [output.path for output in self._all]

    @property
    def written(self) -> list[pathlib.Path]:
        """All paths that are written: the final ones of `paths` and their temporary ones."""
        temporary = [output.unfinished for output in self._all if not is_bucket(output.path)]
        return [*self.paths, *temporary]

    def exist(self) -> bool:
        """Returns whether all outputs exist.

        Raises:
          OSError: a folder has the name of an output file, or a file that of an output folder.
        """
        # A list rather than a generator: `all` would not check the paths after a missing one.
        found = [output.exists() for output in self._all]
        return all(found)

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Opens temporary files for `write`, which replace the final ones when the context ends.

        The mask is replaced last. If the context raises, the temporary files are removed and the
        final ones are unchanged.

        Raises:
          OSError: a file cannot be written, or `exist` raises.
          UserError: the input file is damaged.
        """
        self.exist()  # raises before anything is computed
        try:
            for output in self._all:
                output.path.parent.mkdir(parents=True, exist_ok=True)
                output.discard()  # a killed process may have left it
            with contextlib.ExitStack() as stack:
                if self._tiff:
                    self._georeferences = stack.enter_context(open_georeferences(self._source))
                if self._needs_pixels:
                    self._pages = stack.enter_context(open_pages(self._source, self._channels))
                for output in self._all:
                    stack.enter_context(output.opened())
                yield
            for output in self._all:
                output.remove_previous()
            for output in self._all:
                output.publish()
        finally:
            for output in self._all:
                output.discard()

    def write(self, size: tuple[int, int], bands: Iterable[np.ndarray]) -> None:
        """Writes the outputs of the file's next image.

        Args:
          size: (height, width) of the image, pixels.
          bands: its probabilities in bands of consecutive rows, float32 [rows, W, K].
        """
        georeference: dict[str, Any] = next(self._georeferences) if self._tiff else {}
        page = next(self._pages) if self._needs_pixels else None
        image = PredictedImage(size, self._classes, page, self._needs_mask)
        for extra in self._extras:
            extra.begin_image(size, georeference)
        self._mask.write(size, self._decided(bands, image), georeference)
        for extra in self._extras:
            extra.end_image(image)

    def _decided(self, bands: Iterable[np.ndarray], image: PredictedImage) -> Iterator[np.ndarray]:
        """Yields the class ids of each band, uint8 [rows, W]; image and extras get them too."""
        top = 0
        for band in bands:
            ids = decide(band, self._threshold)
            image.add_rows(top, ids)
            for extra in self._extras:
                extra.add_rows(top, band, ids)
            top += len(ids)
            yield ids
