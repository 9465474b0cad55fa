"""Prediction: segments image files and stacks of any size; large images are split into tiles."""

import contextlib
import dataclasses
import errno
import functools
import itertools
import math
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from unet_jax.core.bucket import Unreachable
from unet_jax.core.config import digest
from unet_jax.core.errors import UserError, print_error
from unet_jax.core.faults import FULL
from unet_jax.core.stop import StopSignal
from unet_jax.core.streams import say
from unet_jax.data.files.inputs import RECORD, find_inputs
from unet_jax.data.files.pages import open_pages, scan_pages
from unet_jax.inference.cut import Cut, Size
from unet_jax.inference.gallery import PAGE, TABLE, write_gallery
from unet_jax.inference.geojson import check_sizes
from unet_jax.inference.output_folder import check_paths, claim
from unet_jax.inference.outputs import Extras, Outputs
from unet_jax.inference.predictor import load
from unet_jax.runs.folder import class_names
from unet_jax.runs.progress import PixelProgress

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


@dataclasses.dataclass(eq=False)
class Job:
    """An input file and its outputs."""

    path: pathlib.Path
    sizes: list[Size]  # (height, width) of each image, pixels
    outputs: Outputs
    error: UserError | None = None  # why reading the images or writing the outputs failed


@dataclasses.dataclass(eq=False)
class Tile:
    """An input to the network: a tile of an image, or a whole image."""

    job: Job
    image: np.ndarray  # stored values [H, W, C]
    surrounded: bool  # whether `image` includes the margin of an unpadded network


def predict(
    runs: Mapping[pathlib.Path, ConfigDict],
    mesh: Mesh,
    *,
    wanted: str,
    output: pathlib.Path,
    checkpoint: str,
    side: int,
    extras: Extras,
    title: str | None = None,
    symmetries: bool = False,
) -> int:
    """Predicts files with one run or an ensemble; returns the number of files that failed.

    Args:
      runs: folder and config of each run; the first run's threshold applies to their mean.
      wanted: input file, folder or pattern. A file whose outputs in `output` exist is skipped.
      checkpoint: `best`, `last` or a step.
      side: side of a tile, pixels.
      extras: what to write besides the masks.
      title: what the page says was predicted; by default `wanted`.
      symmetries: whether to average over each run's training symmetries (TTA).

    Raises a `UserError` for unusable inputs, runs or outputs, and `Interrupted` on a stop request,
    which leaves each output file complete or missing.
    """
    files = find_inputs(wanted, output)
    config = next(iter(runs.values()))
    steps, threshold, predictor = load(runs, checkpoint, mesh, symmetries)
    made_by = {
        "config_digests": [digest(run_config) for run_config in runs.values()],
        "steps": steps,
        "weights": predictor.weights_digest(),
        "threshold": threshold,
        "fit": config.data.fit,
        "size": config.data.size,
        "tta": symmetries,
        "tile": side,
    }
    new_outputs = functools.partial(
        Outputs,
        output,
        extras=extras,
        channels=predictor.channels,
        classes=class_names(next(iter(runs)), config.model.classes),
        threshold=threshold,
    )
    jobs = _find_jobs(files, extras, new_outputs)
    written = {job.path: job.outputs.written for job in jobs}
    pages = [output / PAGE, output / TABLE] if extras.gallery else []
    check_paths(output, written, [output / RECORD, *pages])
    claim(output, made_by)
    sizes = [size for job in jobs for size in job.sizes]
    cut = Cut(config, predictor, side, sizes)
    missing, existing = [], 0
    for job in jobs:
        with _errors_of(job):
            if job.outputs.exist():
                existing += 1
            else:
                missing.append(job)
    if existing:
        say(f"{existing} of {len(files)} files already have their outputs")
    # Images of one shape share batches; the stable sort keeps files of one shape in name order.
    missing.sort(key=lambda job: cut.shape(job.sizes[0]))
    with _explained(output):
        dtypes = {run_config.data.dtype for run_config in runs.values()}
        tiles = _read(missing, cut, predictor.channels, dtypes)
        _write(missing, predictor.stream(tiles), cut)
        if extras.gallery:
            shown = [job.outputs.gallery for job in jobs if job.error is None]
            done = [files for files in shown if files is not None]
            write_gallery(output, done, f"{config.name}: {title or wanted}")
    bad = len(files) - len(jobs) + sum(job.error is not None for job in jobs)
    say(f"{len(files) - bad} of {len(files)} files are predicted, in {output}")
    return bad


def _find_jobs(
    files: Mapping[str, pathlib.Path], extras: Extras, new_outputs: Callable[..., Outputs]
) -> list[Job]:
    """Reads the headers of the input files; a file that cannot be predicted is reported instead."""
    jobs = []
    with StopSignal() as stop:
        for name, path in files.items():
            stop.check()
            try:
                sizes = scan_pages(path)
                for flag, is_wanted in (("geojson", extras.geojson), ("gallery", extras.gallery)):
                    if is_wanted:
                        check_sizes(path, sizes, f"--{flag}")
            except UserError as error:
                print_error(error)
                continue
            jobs.append(Job(path, sizes, new_outputs(name, path, sizes)))
    return jobs


@contextlib.contextmanager
def _explained(output: pathlib.Path) -> Iterator[None]:
    """Converts an error that would occur with every file, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        what = FULL.get(error.errno or 0, error.strerror)
        raise UserError(
            f"{error.filename or output}: cannot be written ({what}); finished files are kept; "
            f"once it can be, rerunning the command resumes it"
        ) from error


@contextlib.contextmanager
def _errors_of(job: Job) -> Iterator[None]:
    """Reports an error that concerns one file, once per file, so that the others are predicted."""
    try:
        yield
    except Unreachable:  # it would not answer for the next file either
        raise
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
                for tile in cut.checked_tiles(job.path, page, dtypes):
                    yield Tile(job, *tile)


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
            with _errors_of(job), contextlib.suppress(Unread), job.outputs.opened():
                for size in job.sizes:
                    job.outputs.write(size, with_progress(job, cut.join(size, tiles)))


class Unread(Exception):
    """A file could not be read to its end, so that tiles are missing."""


def _failure(job: Job) -> Iterator[np.ndarray]:
    raise Unread(job.path)
    yield
