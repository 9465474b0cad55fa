"""Prediction: segments image files and stacks of any size; large images are split into tiles."""

import contextlib
import dataclasses
import errno
import itertools
import math
import pathlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from unet_jax.core.config import digest
from unet_jax.core.errors import UserError, print_error
from unet_jax.core.faults import FULL
from unet_jax.core.stop import StopSignal
from unet_jax.core.streams import say
from unet_jax.data.files.inputs import find_inputs
from unet_jax.data.files.pages import Page, open_pages, scan_pages
from unet_jax.data.fit import Fit
from unet_jax.data.intensities import check_type
from unet_jax.data.resize import (
    pad_image,
    resize_from_bands,
    resize_image,
    resize_in_bands,
    resize_smooth,
    round_to,
)
from unet_jax.inference import tiling
from unet_jax.inference.geojson import check_sizes
from unet_jax.inference.output_folder import check_paths, claim
from unet_jax.inference.outputs import Masks
from unet_jax.inference.predictor import Predictor, load
from unet_jax.inference.tiling import Axis
from unet_jax.runs.folder import class_names
from unet_jax.runs.progress import PixelProgress

# Memory limit for a band of rows with its pixels and probabilities. Tiles that exceed it get fewer
# rows.
BAND_BYTES = 2**30
# Operating system errors that are specific to one file. All others, such as that of a full or
# disconnected disk, would occur with the next file too.
OF_ONE_FILE = {
    None,  # libraries raise an OSError without errno
    errno.EACCES,
    errno.EEXIST,
    errno.EILSEQ,
    errno.EINVAL,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENOTEMPTY,
    errno.EPERM,
}

Size = tuple[int, int]


@dataclasses.dataclass(eq=False)
class Job:
    """An input file and its outputs."""

    path: pathlib.Path
    sizes: list[Size]  # (height, width) of each image, pixels
    masks: Masks
    error: UserError | None = None  # why reading the images or writing the masks failed


@dataclasses.dataclass(eq=False)
class Tile:
    """An input to the network: a tile of an image, or a whole image."""

    job: Job
    image: np.ndarray  # stored values [H, W, C]
    surrounded: bool  # whether `image` includes the margin of an unpadded network


class Cut:
    """Converts images to network inputs, and the resulting probabilities back to images.

    Args:
      config: the run's config.
      predictor: the network.
      side: side of a tile, pixels; larger images are split into tiles.
      sizes: (height, width) of all images, pixels, from which padded shapes are chosen.
    """

    def __init__(self, config: ConfigDict, predictor: Predictor, side: int, sizes: Sequence[Size]):
        self._fit, self._predictor, multiple = Fit.of(config.data), predictor, predictor.multiple
        self._side = tiling.round_up(side, multiple)
        # Tiles of an unpadded network include their margins, and so need no overlap. Tiles of a
        # padded network overlap by its receptive field, or by half a tile if that is less.
        field = tiling.round_up(2 * predictor.margin, multiple)
        self.overlap = 0 if predictor.unpadded else min(field, side // 2 // multiple * multiple)
        self.margin = predictor.margin if predictor.unpadded else 0
        # This includes the copies that are made of the pixels and the probabilities.
        self._bytes_per_pixel = 8 * (predictor.channels + config.model.classes)
        whole = [size for size in sizes if not self.is_tiled(size)]
        self._shapes = self._fit.shapes(whole)

    def is_tiled(self, size: Size) -> bool:
        """Returns whether an image of this size is split into tiles."""
        return not self._fit.resizes and max(size) > self._side

    def shape(self, size: Size) -> Size:
        """Returns the (height, width) of network inputs for an image size, without margins."""
        if self.is_tiled(size):
            rows, columns = self._axes(size)
            return rows.side, columns.side
        return self._shapes[size]

    def _axes(self, size: Size) -> tuple[Axis, Axis]:
        multiple, height = self._predictor.multiple, self._side
        # Tiles of very wide images get fewer rows. The least height is 1.5 times the overlap
        # or margins, so that these increase the computation at most threefold.
        least = tiling.round_up(3 * max(self.overlap, 2 * self.margin) // 2, multiple)
        while self._is_too_high(height, size) and height > max(least, multiple):
            height = max(tiling.round_up(height // 2, multiple), least)
        rows = Axis.plan(size[0], height, self.overlap, multiple)
        return rows, Axis.plan(size[1], self._side, self.overlap, multiple)

    def _is_too_high(self, height: int, size: Size) -> bool:
        height = min(height, tiling.round_up(size[0], self._predictor.multiple))
        return height + 2 * self.margin > self._most_rows(size)

    def _most_rows(self, size: Size) -> int:
        """Returns how many rows of an image of this size may be in memory at a time."""
        return BAND_BYTES // (size[1] * self._bytes_per_pixel)

    def _resizes_in_bands(self, size: Size) -> bool:
        return size[0] > self._most_rows(size)

    def check(self, job: Job, size: Size) -> None:
        """Raises a `UserError` if even the smallest band of an image exceeds `BAND_BYTES`."""
        too_wide = self._most_rows(size) < 1
        if self.is_tiled(size):
            too_wide = self._is_too_high(self._axes(size)[0].side, size)
        if too_wide:
            raise UserError(
                f"{job.path}: {size[1]} pixels wide; a band of tiles of this width takes more "
                f"than {BAND_BYTES / 2**30:g} GiB; split the image"
            )

    def tiles(self, page: Page) -> Iterator[tuple[np.ndarray, bool]]:
        """Yields the network inputs of an image, in row-major order.

        Args:
          page: the image.

        Yields:
          (image, surrounded): stored values [H, W, C], and whether it includes the margin.
        """
        if not self.is_tiled(page.size):
            yield self._fitted(page), False
            return
        rows, columns = self._axes(page.size)
        inside = [self._seen(columns, start) for start in columns.starts]
        for start in rows.starts:
            seen = self._seen(rows, start)
            first = seen.min()
            band = page.rows(first, seen.max() + 1)[seen - first]
            for across in inside:
                yield np.take(band, across, axis=1), self.margin > 0

    def _fitted(self, page: Page) -> np.ndarray:
        """Returns an image that is not tiled, resized or padded to the network's input shape."""
        size, shape = page.size, self.shape(page.size)
        if not self._fit.resizes:
            return pad_image(page.rows(0, size[0]), *shape)
        if not self._resizes_in_bands(size):
            return resize_image(page.rows(0, size[0]), *shape)
        step = -(-self._most_rows(size) // 16)
        bands = (page.rows(top, min(top + step, size[0])) for top in range(0, size[0], step))
        first = next(bands)
        resized = resize_from_bands(itertools.chain([first], bands), size, *shape)
        return round_to(resized, first.dtype)

    def _seen(self, axis: Axis, start: int) -> np.ndarray:
        start -= self.margin
        return tiling.seen_pixels(start, start + self._predictor.input_side(axis.side), axis.length)

    def join(self, size: Size, probabilities: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Joins the probabilities of an image's network inputs.

        Args:
          size: (height, width) of the image, pixels.
          probabilities: float32 [H, W, K] of each input, in the order of `tiles`.

        Returns:
          The image's probabilities in bands of rows, float32 [rows, W, K].
        """
        if self.is_tiled(size):
            return tiling.blend(probabilities, *self._axes(size))
        whole = next(probabilities)
        if self._fit.resizes:
            if self._resizes_in_bands(size):
                return resize_in_bands(whole, *size, -(-self._most_rows(size) // 16))
            return iter([resize_smooth(whole, *size)])
        return iter([self._fit.without_padding(whole, size)])


def predict(
    runs: Mapping[pathlib.Path, ConfigDict],
    mesh: Mesh,
    *,
    wanted: str,
    output: pathlib.Path,
    checkpoint: str,
    side: int,
    probabilities: bool,
    overlays: bool,
    geojson: bool = False,
    symmetries: bool = False,
) -> int:
    """Predicts files with one run or an ensemble; returns the number of files that failed.

    Args:
      runs: folder and config of each run; the first run's threshold applies to their mean.
      wanted: input file, folder or pattern. A file whose outputs in `output` exist is skipped.
      checkpoint: `best`, `last` or a step.
      side: side of a tile, pixels.
      probabilities, overlays, geojson: whether to write these outputs, see `Masks`.
      symmetries: whether to average over each run's training symmetries (TTA).

    Raises a `UserError` for unusable inputs, runs or outputs, and `Interrupted` on a stop request,
    which leaves each output file complete or missing.
    """
    files = find_inputs(wanted, output)
    config = next(iter(runs.values()))
    steps, predictor = load(runs, checkpoint, mesh, symmetries)
    made_by = {
        "config_digests": [digest(run_config) for run_config in runs.values()],
        "steps": steps,
        "weights": predictor.weights_digest(),
        "threshold": config.eval.threshold,
        "fit": config.data.fit,
        "size": config.data.size,
        "tta": symmetries,
        "tile": side,
    }
    options: dict[str, Any] = {"channels": predictor.channels, "classes": config.model.classes}
    options |= {"probabilities": probabilities, "overlays": overlays}
    options["threshold"] = config.eval.threshold
    names = class_names(next(iter(runs)), config.model.classes) if geojson else ()
    options["geojson"] = names
    jobs = _find_jobs(files, output, options)
    check_paths(output, {job.path: job.masks.written for job in jobs})
    claim(output, made_by)
    sizes = [size for job in jobs for size in job.sizes]
    cut = Cut(config, predictor, side, sizes)
    missing, existing = [], 0
    for job in jobs:
        with _errors_of(job):
            if job.masks.exist():
                existing += 1
            else:
                missing.append(job)
    if existing:
        say(f"{existing} of {len(files)} files already have their outputs")
    # Images of one shape share batches; the stable sort keeps files of one shape in name order.
    missing.sort(key=lambda job: cut.shape(job.sizes[0]))
    try:
        dtypes = {run_config.data.dtype for run_config in runs.values()}
        tiles = _read(missing, cut, predictor.channels, dtypes)
        _write(missing, predictor.stream(tiles), cut)
    except OSError as error:
        what = FULL.get(error.errno or 0, error.strerror)
        raise UserError(
            f"{error.filename or output}: cannot be written ({what}); finished files are kept; "
            f"once it can be, rerunning the command resumes it"
        ) from error
    bad = len(files) - len(jobs) + sum(job.error is not None for job in jobs)
    say(f"{len(files) - bad} of {len(files)} files are predicted, in {output}")
    return bad


def _find_jobs(
    files: Mapping[str, pathlib.Path], output: pathlib.Path, options: Mapping[str, Any]
) -> list[Job]:
    """Reads the headers of the input files; a file that cannot be predicted is reported instead."""
    jobs = []
    with StopSignal() as stop:
        for name, path in files.items():
            stop.check()
            try:
                sizes = scan_pages(path)
                if options["geojson"]:
                    check_sizes(path, sizes)
            except UserError as error:
                print_error(error)
                continue
            jobs.append(Job(path, sizes, Masks(output, name, path, sizes, **options)))
    return jobs


@contextlib.contextmanager
def _errors_of(job: Job) -> Iterator[None]:
    """Reports an error that concerns one file, once per file, so that the others are predicted."""
    try:
        yield
    except (UserError, OSError, MemoryError) as error:
        if isinstance(error, MemoryError):
            error = UserError(
                f"{job.path}: there is not enough memory for it ({error}); split the image"
            )
        elif isinstance(error, OSError):
            if error.errno not in OF_ONE_FILE:
                raise
            place = error.filename2 or error.filename or "its outputs"
            what = f"{job.path}: cannot be predicted, {place}: {error.strerror or error}"
            error = UserError(what)
        if job.error is None:
            print_error(error)
            job.error = error


def _read(jobs: Sequence[Job], cut: Cut, channels: int, dtypes: Collection[str]) -> Iterator[Tile]:
    """Yields the tiles of all files; a read error is reported and the next file follows."""
    for job in jobs:
        with _errors_of(job), open_pages(job.path, channels) as pages:
            for page in pages:
                cut.check(job, page.size)
                for image, surrounded in cut.tiles(page):
                    check_type(job.path, image.dtype, dtypes)
                    yield Tile(job, image, surrounded)


def _write(jobs: Sequence[Job], results: Iterator[tuple[Tile, np.ndarray]], cut: Cut) -> None:
    """Writes the outputs of all jobs from the probabilities of their tiles, in the same order."""
    progress = PixelProgress(sum(map(math.prod, (size for job in jobs for size in job.sizes))))

    def until_stopped() -> Iterator[tuple[Tile, np.ndarray]]:
        for result in results:
            stop.check()
            yield result

    def with_progress(job: Job, bands: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        for band in bands:
            stop.check()
            progress.advance(math.prod(band.shape[:2]), job.path.name)
            yield band

    with contextlib.closing(progress), StopSignal() as stop:
        for job, group in itertools.groupby(until_stopped(), lambda result: result[0].job):
            tiles = itertools.chain((probabilities for _, probabilities in group), _failure(job))
            with _errors_of(job), contextlib.suppress(Unread), job.masks.opened():
                for size in job.sizes:
                    job.masks.write(size, with_progress(job, cut.join(size, tiles)))


class Unread(Exception):
    """A file could not be read to its end, so that tiles are missing."""


def _failure(job: Job) -> Iterator[np.ndarray]:
    raise Unread(job.path)
    yield
