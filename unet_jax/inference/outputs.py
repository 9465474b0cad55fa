"""Output files of a prediction: the mask, and optionally probabilities, overlays and GeoJSON."""

import contextlib
import errno
import math
import pathlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from unet_jax import is_binary
from unet_jax.core.bucket import is_bucket
from unet_jax.data.files.pages import is_tiff, open_georeferences, open_pages, stated_size
from unet_jax.inference.gallery import FOLDER, GalleryFile, Predicted, thumbnail
from unet_jax.inference.geojson import GeoJson
from unet_jax.inference.predictor import decide
from unet_jax.inference.unfinished import exists, publish, remove, unfinished
from unet_jax.reporting.colours import palette
from unet_jax.reporting.overlays import painted

STRIP = 256  # most rows in a TIFF strip; `STRIP_PIXELS` allows fewer in a wide image
STRIP_PIXELS = 2**26  # most pixels in memory at a time, unless one row has more
LONGEST_SIDE = 2048  # pixels; overlays of larger images are decimated
CLASSIC = 2**32 - 2**25  # bytes; larger files are BigTIFF, with 64-bit offsets


class Masks:
    """The output files of one input file, written in bands of rows as these are computed.

    The mask is `NAME.tif` with a page for each image if the input is a TIFF, otherwise `NAME.png`.
    Two classes are stored as 0 and 255; more classes are stored as class ids with a palette. Each
    page of a TIFF has the georeference and the resolution of its image.

    Args:
      folder: the output folder.
      name: the outputs' path in the folder, without suffix.
      source: the input file.
      sizes: (height, width) of each image in the input file, pixels.
      channels: number of channels of the network's input.
      classes: number of classes.
      threshold: for two classes, the probability above which a pixel is of the second class.
      probabilities: whether to write `probabilities/NAME.tif`, float32. The page of an image has
        the probability of the second class, [H, W], or of more than two classes all, [K, H, W].
      overlays: whether to write `overlays/NAME.png`, or for a stack `overlays/NAME/0000.png` and
        so on.
      geojson: names of the classes, to write `NAME.geojson` with the outlines of the mask (see
        `unet_jax.inference.geojson`); (): not to write it.
      gallery: names of the classes, to write `gallery/NAME.json` with measurements and
        `gallery/NAME.jpg`, or for a stack `gallery/NAME/0000.jpg` and so on, with thumbnails (see
        `unet_jax.inference.gallery`); (): not to write them.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        name: str,
        source: pathlib.Path,
        sizes: list[tuple[int, int]],
        *,
        channels: int,
        classes: int,
        threshold: float,
        probabilities: bool,
        overlays: bool,
        geojson: Sequence[str] = (),
        gallery: Sequence[str] = (),
    ):
        self._source, self._sizes = source, sizes
        self._shown = pathlib.PurePath(name).with_name(source.name).as_posix()
        self._channels, self._classes = channels, classes
        self._binary, self._threshold = is_binary(classes), threshold
        self._planes = 1 if self._binary else classes
        self._tiff = is_tiff(source)
        self._is_stack = len(sizes) > 1
        picture = name if self._is_stack else f"{name}.png"
        self._mask = folder / f"{name}{'.tif' if self._tiff else '.png'}"
        self._probabilities = folder / "probabilities" / f"{name}.tif" if probabilities else None
        self._overlays = folder / "overlays" / picture if overlays else None
        self._geojson, self._names = folder / f"{name}.geojson" if geojson else None, geojson
        self._thumbnails = self._measured = None
        if gallery:
            self._names, thumbnail = gallery, name if self._is_stack else f"{name}.jpg"
            self._thumbnails = folder / FOLDER / thumbnail
            self._measured = folder / FOLDER / f"{name}.json"
        self._drawn = 0  # number of images of which pictures have been written

    @property
    def paths(self) -> list[pathlib.Path]:
        """The final outputs, in the order in which they appear; the mask is the last."""
        extras = (self._probabilities, self._overlays, self._geojson)
        extras += (self._thumbnails, self._measured)
        return [*(path for path in extras if path is not None), self._mask]

    @property
    def written(self) -> list[pathlib.Path]:
        """All paths that are written: the final ones of `paths` and their temporary ones."""
        temporary = [unfinished(path) for path in self.paths if not is_bucket(path)]
        return [*self.paths, *temporary]

    def exist(self) -> bool:
        """Returns whether all outputs exist.

        Raises:
          OSError: a folder has the name of an output file, or a file that of an output folder.
        """
        # A list rather than a generator: `all` would not check the paths after a missing one.
        found = [exists(path, self._is_folder(path)) for path in self.paths]
        return all(found)

    def _is_folder(self, path: pathlib.Path) -> bool:
        """Returns whether the path is the folder of a stack's overlays or thumbnails."""
        return self._is_stack and path in (self._overlays, self._thumbnails)

    @property
    def predicted(self) -> Predicted:
        """The files of the gallery, if they are written."""
        assert self._measured and self._thumbnails
        pictures = [self._thumbnails]
        if self._is_stack:
            names = (_picture_name(i, "jpg") for i in range(len(self._sizes)))
            pictures = [self._thumbnails / name for name in names]
        return Predicted(self._shown, self._measured, pictures)

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Opens temporary files for `write`, which replace the final ones when the context ends.

        The mask is replaced last. If the context raises, the temporary files are removed and the
        final ones are unchanged.

        Raises:
          OSError: a file cannot be written, or `exist` raises.
        """
        self.exist()  # raises before anything is computed
        try:
            for path in self.paths:
                path.parent.mkdir(parents=True, exist_ok=True)
                remove(unfinished(path))  # a killed process may have left it
            pixels = sum(height * width for height, width in self._sizes)
            with contextlib.ExitStack() as stack:
                if self._tiff:
                    self._georeferences = stack.enter_context(open_georeferences(self._source))
                    self._mask_file = stack.enter_context(_writer(self._mask, pixels))
                if self._probabilities is not None:
                    writer = _writer(self._probabilities, 4 * self._planes * pixels)
                    self._float_file = stack.enter_context(writer)
                if self._overlays is not None or self._thumbnails is not None:
                    self._images = stack.enter_context(open_pages(self._source, self._channels))
                if self._geojson is not None:
                    file = GeoJson.opened(unfinished(self._geojson), self._names, self._is_stack)
                    self._regions = stack.enter_context(file)
                if self._measured is not None:
                    file = unfinished(self._measured), self._names, stated_size(self._source)
                    self._measurements = GalleryFile(*file)
                yield
                if self._measured is not None:
                    self._measurements.close()
            for folder in filter(self._is_folder, self.paths):
                self._remove_pictures(folder)
            for path in self.paths:
                publish(path)
        finally:
            for path in self.paths:
                remove(unfinished(path))

    def _remove_pictures(self, folder: pathlib.Path) -> None:
        """Removes earlier pictures of a stack; raises an OSError if the folder has other files."""
        kind = "png" if folder == self._overlays else "jpg"
        ours = {_picture_name(i, kind) for i in range(len(self._sizes))}
        if folder.is_dir() and not {path.name for path in folder.iterdir()} <= ours:
            raise OSError(errno.ENOTEMPTY, "has other files too", str(folder))
        remove(folder)

    def write(self, size: tuple[int, int], bands: Iterable[np.ndarray]) -> None:
        """Writes the outputs of the file's next image.

        Args:
          size: (height, width) of the image, pixels.
          bands: its probabilities in bands of consecutive rows, float32 [rows, W, K].
        """
        step = math.ceil(max(size) / LONGEST_SIDE)
        small = np.empty([math.ceil(length / step) for length in size], np.uint8)
        strip = min(STRIP, max(1, STRIP_PIXELS // size[1]))
        whole = np.empty(size if self._geojson or self._measured else (0, 0), np.uint8)
        self._sums = np.zeros(max(2, self._classes))
        georeference = next(self._georeferences) if self._tiff else {}
        ids = self._decided(size, bands, small, step, whole, georeference)
        if self._tiff:
            self._mask_file.write(
                (zlib.compress(rows.tobytes()) for rows in _strips(ids, strip)),
                shape=size,
                dtype=np.uint8,
                rowsperstrip=strip,
                compression="zlib",
                photometric="minisblack" if self._binary else "palette",
                colormap=None if self._binary else palette().T * np.uint16(257),
                metadata=None,
                contiguous=False,
                **georeference,
            )
        else:
            image = Image.fromarray(np.concatenate(list(ids)))
            if not self._binary:
                image.putpalette(palette().tobytes())
            image.save(unfinished(self._mask), format="PNG")
        if self._overlays is not None or self._thumbnails is not None:
            self._draw(small, step)
        if self._geojson is not None:
            self._regions.add(whole)
        if self._measured is not None:
            self._measurements.add(whole, self._sums)

    def _decided(
        self,
        size: tuple[int, int],
        bands: Iterable[np.ndarray],
        small: np.ndarray,
        step: int,
        whole: np.ndarray,
        georeference: dict[str, Any],
    ) -> Iterator[np.ndarray]:
        """Yields the mask in bands, uint8 [rows, W], and writes the probabilities if requested.

        It fills `small` with every `step`th row and column of the class ids, and `whole`, unless it
        is empty, with all of them.
        """
        row, offset = 0, self._place_for_probabilities(size, georeference)
        for band in bands:
            ids = decide(band, self._threshold)
            small[-(-row // step) : -(-(row + len(ids)) // step)] = ids[-row % step :: step, ::step]
            if whole.size:
                whole[row : row + len(ids)] = ids
            if self._measured is not None:
                self._add_probabilities(band, ids)
            if self._probabilities is not None:
                with open(unfinished(self._probabilities), "r+b") as file:
                    for plane, values in enumerate(np.moveaxis(band[..., -self._planes :], -1, 0)):
                        file.seek(offset + 4 * size[1] * (plane * size[0] + row))
                        file.write(values.astype("<f4").tobytes())
            row += len(ids)
            yield ids * np.uint8(255) if self._binary else ids

    def _add_probabilities(self, band: np.ndarray, ids: np.ndarray) -> None:
        """Adds the probability of each pixel's class to the sum of this class."""
        if self._binary:
            self._sums[1] += band[..., -1].sum(where=ids == 1, dtype=np.float64)
            return
        own = np.take_along_axis(band, ids[..., None], axis=-1)
        self._sums += np.bincount(ids.ravel(), own.ravel(), self._classes)

    def _place_for_probabilities(self, size: tuple[int, int], georeference: dict[str, Any]) -> int:
        """Reserves space for the next image's probabilities; returns its offset in bytes."""
        if self._probabilities is None:
            return 0
        place: Any = self._float_file.write(
            None,
            shape=size if self._planes == 1 else (self._planes, *size),
            dtype=np.float32,
            photometric="minisblack",
            planarconfig=None if self._planes == 1 else "separate",
            metadata=None,
            contiguous=False,
            returnoffset=True,
            **georeference,
        )
        self._float_file.filehandle.flush()
        return place[0]

    def _draw(self, ids: np.ndarray, step: int) -> None:
        """Writes the pictures of the next image, whose pixels are read from the input again."""
        page = next(self._images)
        height, width = page.size
        rows = min(STRIP * step, max(1, STRIP_PIXELS // width))
        bands = ((top, page.rows(top, min(top + rows, height))) for top in range(0, height, rows))
        image = np.concatenate([band[-top % step :: step, ::step] for top, band in bands])
        picture = painted(image, ids, max(2, self._classes))
        if self._overlays is not None:
            target = self._picture_path(self._overlays, "png")
            Image.fromarray(picture).save(target, format="PNG")
        if self._thumbnails is not None:
            target = self._picture_path(self._thumbnails, "jpg")
            thumbnail(image, picture).save(target, format="JPEG", quality=85)
        self._drawn += 1

    def _picture_path(self, final: pathlib.Path, kind: str) -> pathlib.Path:
        """Returns where to write a picture of the next image; creates the folder of a stack."""
        target = unfinished(final)
        if not self._is_stack:
            return target
        target.mkdir(exist_ok=True)
        return target / _picture_name(self._drawn, kind)


def _strips(bands: Iterable[np.ndarray], height: int) -> Iterator[np.ndarray]:
    """Regroups bands of any number of rows into strips of `height` rows; the last has the rest."""
    waiting: list[np.ndarray] = []
    for band in bands:
        rows = np.concatenate([*waiting, band])
        whole = len(rows) - len(rows) % height
        yield from np.split(rows[:whole], range(height, whole, height)) if whole else ()
        waiting = [rows[whole:]]
    if len(waiting[0]):
        yield waiting[0]


def _writer(path: pathlib.Path, size: int) -> tifffile.TiffWriter:
    return tifffile.TiffWriter(unfinished(path), bigtiff=size > CLASSIC, byteorder="<")


def _picture_name(number: int, kind: str) -> str:
    return f"{number:04d}.{kind}"
