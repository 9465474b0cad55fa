"""Files in -> masks out: images and stacks of any size, in tiles where they are large."""

import contextlib
import dataclasses
import errno
import itertools
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence

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
from unet_jax.data.pipeline import padded_shapes
from unet_jax.data.resize import (
    pad_image,
    resize_from_bands,
    resize_image,
    resize_in_bands,
    resize_smooth,
    round_to,
)
from unet_jax.inference import tiling
from unet_jax.inference.output_folder import check_paths, claim
from unet_jax.inference.outputs import Masks
from unet_jax.inference.predictor import Predictor, load
from unet_jax.inference.tiling import Axis
from unet_jax.models.unet import margin
from unet_jax.runs.progress import PixelProgress

# For a band of rows, its pixels and its probabilities. A tile that spans more rows is lowered.
BAND_BYTES = 2**30
# Errors of the system that concern the paths of one file. Any other, such as that of a disk that is
# full or gone, would meet the next file too.
OF_ONE_FILE = {
    None,  # of a library
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
    """A file to predict."""

    path: pathlib.Path
    sizes: list[Size]  # of its images, height and width in pixels
    masks: Masks
    error: UserError | None = None  # why its images could not be read, or its masks not written


@dataclasses.dataclass(eq=False)
class Tile:
    """A part of an image, or all of it, as the network sees it."""

    job: Job
    image: np.ndarray  # uint8 or uint16 [H, W, C]
    surrounded: bool


class Cut:
    """How images are cut up, and put together again."""

    def __init__(self, config: ConfigDict, predictor: Predictor, side: int, sizes: Sequence[Size]):
        self._data, self._predictor, multiple = config.data, predictor, predictor.multiple
        self._side = tiling.round_up(side, multiple)
        # An unpadded network's tiles bring what is around them along, and just abut. A padded
        # one's share as much as the network sees on both sides, as far as the tile allows.
        seen = tiling.round_up(2 * margin(predictor.depth), multiple)
        self.overlap = min(seen, side // 2 // multiple * multiple) if not predictor.margin else 0
        # Of pixels and of probabilities, with the copies that are made of both.
        self._bytes_per_pixel = 8 * (predictor.channels + config.model.classes)
        whole = [size for size in sizes if not self.is_tiled(size)]
        self._shapes = padded_shapes(tuple(whole)) if whole else {}

    def is_tiled(self, size: Size) -> bool:
        return self._data.fit != "resize" and max(size) > self._side

    def shape(self, size: Size) -> Size:
        """Of what the network sees of an image of this size, but for a tile's surroundings."""
        if self._data.fit == "resize":
            return self._data.size, self._data.size
        if self.is_tiled(size):
            rows, columns = self._axes(size)
            return rows.side, columns.side
        return self._shapes[size]

    def _axes(self, size: Size) -> tuple[Axis, Axis]:
        multiple, height = self._predictor.multiple, self._side
        # Tiles of an image that is too wide are lower; what they share costs at most three times.
        least = tiling.round_up(3 * max(self.overlap, 2 * self._predictor.margin) // 2, multiple)
        while self._is_too_high(height, size) and height > max(least, multiple):
            height = max(tiling.round_up(height // 2, multiple), least)
        rows = Axis.plan(size[0], height, self.overlap, multiple)
        return rows, Axis.plan(size[1], self._side, self.overlap, multiple)

    def _is_too_high(self, height: int, size: Size) -> bool:
        height = min(height, tiling.round_up(size[0], self._predictor.multiple))
        return height + 2 * self._predictor.margin > self._most_rows(size)

    def _most_rows(self, size: Size) -> int:
        """That are in memory at a time."""
        return BAND_BYTES // (size[1] * self._bytes_per_pixel)

    def _resizes_in_bands(self, size: Size) -> bool:
        return size[0] > self._most_rows(size)

    def check(self, job: Job, size: Size) -> None:
        """Raises a `UserError` for an image of which not even the lowest band fits."""
        too_wide = self._most_rows(size) < 1
        if self.is_tiled(size):
            too_wide = self._is_too_high(self._axes(size)[0].side, size)
        if too_wide:
            raise UserError(
                f"{job.path}: {size[1]} pixels wide, of which a band of tiles does not fit into "
                f"{BAND_BYTES / 2**30:g} GiB; cut it up"
            )

    def tiles(self, page: Page) -> Iterator[tuple[np.ndarray, bool]]:
        """What the network sees, and whether that has surroundings: by rows of tiles."""
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
                yield np.take(band, across, axis=1), self._predictor.margin > 0

    def _fitted(self, page: Page) -> np.ndarray:
        """An image that is not tiled, resized or padded to the shape that the network sees."""
        size, shape = page.size, self.shape(page.size)
        if self._data.fit != "resize":
            return pad_image(page.rows(0, size[0]), *shape)
        if not self._resizes_in_bands(size):
            return resize_image(page.rows(0, size[0]), *shape)
        step = -(-self._most_rows(size) // 16)
        bands = (page.rows(top, min(top + step, size[0])) for top in range(0, size[0], step))
        first = next(bands)
        resized = resize_from_bands(itertools.chain([first], bands), size, *shape)
        return round_to(resized, first.dtype)

    def _seen(self, axis: Axis, start: int) -> np.ndarray:
        start -= self._predictor.margin
        return tiling.seen_pixels(start, start + self._predictor.input_side(axis.side), axis.length)

    def join(self, size: Size, probabilities: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Those of an image's tiles -> its own, [rows, W, K], in bands of rows."""
        if self.is_tiled(size):
            return tiling.blend(probabilities, *self._axes(size))
        whole = next(probabilities)
        if self._data.fit == "resize":
            if self._resizes_in_bands(size):
                return resize_in_bands(whole, *size, -(-self._most_rows(size) // 16))
            return iter([resize_smooth(whole, *size)])
        return iter([whole[: size[0], : size[1]]])


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
    symmetries: bool = False,
) -> int:
    """Predicts files with a run's checkpoint; returns how many of them could not be read.

    `runs` are folders and their configs: of several, or over the `symmetries` that each has
    learned, the mean of the probabilities decides, at the first run's threshold. `wanted` is a
    file, a folder or a pattern; a file whose outputs are there is left as it is.
    Raises `Interrupted` where the command was asked to stop: files are whole, or not there.
    """
    files = find_inputs(wanted, output)
    config = next(iter(runs.values()))
    steps, predictor = load(runs, checkpoint, mesh, symmetries)
    made_by = {
        "config_digests": [digest(its) for its in runs.values()],
        "steps": steps,
        "weights": predictor.weights_digest(),
        "threshold": config.eval.threshold,
        "fit": config.data.fit,
        "size": config.data.size,
        "tta": symmetries,
        "tile": side,
    }
    options = {
        "classes": config.model.classes,
        "threshold": config.eval.threshold,
        "probabilities": probabilities,
        "overlays": overlays,
    }
    jobs = []
    with StopSignal() as stop:
        for name, path in files.items():
            stop.check()
            try:
                sizes = scan_pages(path)
            except UserError as error:
                print_error(error)
                continue
            jobs.append(Job(path, sizes, Masks(output, name, path, sizes, **options)))
    check_paths(output, {job.path: job.masks.written for job in jobs})
    claim(output, made_by)
    sizes = [size for job in jobs for size in job.sizes]
    cut = Cut(config, predictor, side, sizes)
    missing, there = [], 0
    for job in jobs:
        with _concerning(job):
            if job.masks.exist():
                there += 1
            else:
                missing.append(job)
    if there:
        say(f"{there} of {len(files)} files were there already")
    # Images of one shape share batches; within a shape they come in the order of their names.
    missing.sort(key=lambda job: cut.shape(job.sizes[0]))
    try:
        _write(missing, predictor.stream(_read(missing, cut, predictor.channels)), cut)
    except OSError as error:
        what = FULL.get(error.errno or 0, error.strerror)
        raise UserError(
            f"{error.filename or output}: cannot be written ({what}); finished files are kept; "
            f"once it can be, rerunning the command resumes it"
        ) from error
    bad = len(files) - len(jobs) + sum(job.error is not None for job in jobs)
    say(f"{len(files) - bad} of {len(files)} files are predicted, in {output}")
    return bad


@contextlib.contextmanager
def _concerning(job: Job) -> Iterator[None]:
    """An error of one file is reported, once, and the others are predicted."""
    try:
        yield
    except (UserError, OSError, MemoryError) as error:
        if isinstance(error, MemoryError):
            error = UserError(f"{job.path}: needs more memory than there is ({error}); cut it up")
        elif isinstance(error, OSError):
            if error.errno not in OF_ONE_FILE:
                raise
            place = error.filename2 or error.filename or "its outputs"
            what = f"{job.path}: cannot be predicted, {place}: {error.strerror or error}"
            error = UserError(what)
        if job.error is None:
            print_error(error)
            job.error = error


def _read(jobs: Sequence[Job], cut: Cut, channels: int) -> Iterator[Tile]:
    """The tiles of all files; one that cannot be read further is named, and the next is taken."""
    for job in jobs:
        with _concerning(job), open_pages(job.path, channels) as pages:
            for page in pages:
                cut.check(job, page.size)
                for image, surrounded in cut.tiles(page):
                    yield Tile(job, image, surrounded)


def _write(jobs: Sequence[Job], results: Iterator[tuple[Tile, np.ndarray]], cut: Cut) -> None:
    """Makes the files of all jobs from the probabilities of their tiles, which come in order."""
    progress = PixelProgress(sum(map(math.prod, (size for job in jobs for size in job.sizes))))

    def heeded() -> Iterator[tuple[Tile, np.ndarray]]:
        for result in results:
            stop.check()
            yield result

    def watched(job: Job, bands: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        for band in bands:
            stop.check()
            progress.advance(math.prod(band.shape[:2]), job.path.name)
            yield band

    with contextlib.closing(progress), StopSignal() as stop:
        for job, group in itertools.groupby(heeded(), lambda result: result[0].job):
            tiles = itertools.chain((probabilities for _, probabilities in group), _failure(job))
            with _concerning(job), contextlib.suppress(Unread), job.masks.opened():
                for size in job.sizes:
                    job.masks.write(size, watched(job, cut.join(size, tiles)))


class Unread(Exception):
    """No more of a file's tiles will come."""


def _failure(job: Job) -> Iterator[np.ndarray]:
    raise Unread(job.path)
    yield
