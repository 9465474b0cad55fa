"""Downloads published data sets: resumable, verified, unpacked safely and installed atomically.

python -m unet_jax.data.download.archives isbi --root=data/isbi

The archive is stored in ARCHIVE.download, a folder beside the data set's, which is removed once
the data set is complete. A rerun resumes an interrupted download there, and uses an archive that
was placed there by hand.
"""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import logging
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import IO

import pooch

from unet_jax.core.command_help import command_parser
from unet_jax.core.errors import UserError, print_error
from unet_jax.core.files import expand
from unet_jax.core.streams import make_streams_robust
from unet_jax.data.download.transfer import TransferError, transfer
from unet_jax.data.download.unpack import unpack
from unet_jax.data.files.tiff import read_tiff

pooch.get_logger().setLevel(logging.WARNING)  # its info messages advise users to pin hashes


@dataclasses.dataclass(frozen=True)
class Archive:
    """A published zip or tar file, and the parts of it that form the data set."""

    url: str
    sha256: str | None  # the file's; None only for a zip, which has its own checksums
    max_bytes: int  # upper limit of the unpacked size on the disk
    layout: Mapping[str, str]  # file or folder anywhere in the archive -> path in the data set
    complete: tuple[str, ...]  # paths that a complete data set has
    pixels: Mapping[str, str] = dataclasses.field(default_factory=dict)  # sha256 of TIFF stacks

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


ARCHIVES = {
    "isbi": Archive(
        url="https://downloads.imagej.net/ISBI-2012-challenge.zip",
        sha256=None,
        max_bytes=2**30,
        # In this order, the file that every reader needs first is installed last.
        layout={
            f"{stack}.tif": f"{stack}.tif"
            for stack in ("test-labels", "test-volume", "train-volume", "train-labels")
        },
        complete=("train-volume.tif", "train-labels.tif", "test-volume.tif"),
        pixels={
            "train-volume.tif": "200da3d452d726e6c9ca1ce04b869d4edb727320d23b516d01cce707dc8c4760",
            "train-labels.tif": "a7cb64000a1a7e542682927e19c91339f58f9f178e0bcce4e207371116f0ca36",
            "test-volume.tif": "1b58fa7ec1d0ff9d39a855622db3ff66a97863036339b0d04be51b2f5a99b0e9",
        },
    ),
    "voc": Archive(
        url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        sha256="e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
        max_bytes=2**32,
        layout={"VOCdevkit/VOC2012": "VOCdevkit/VOC2012"},
        complete=(
            "VOCdevkit/VOC2012/JPEGImages",
            "VOCdevkit/VOC2012/SegmentationClass",
            "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt",
            "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt",
        ),
    ),
    "sbd": Archive(
        url="https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/"
        "semantic_contours/benchmark.tgz",
        sha256="6a5a2918d5c73ce032fdeba876574d150d9d04113ab87540a1304cbcc715be53",
        max_bytes=2**32,
        layout={"benchmark_RELEASE": "VOCdevkit/VOCaug"},
        complete=tuple(f"VOCdevkit/VOCaug/dataset/{x}" for x in ("cls", "train.txt", "val.txt")),
    ),
}


def fetch(archive: str | Archive, root: pathlib.Path) -> None:
    """Downloads what the data set in the folder `root` lacks; existing files are kept.

    Does nothing if the data set is complete. A second process waits for the first.

    Args:
      archive: a key of `ARCHIVES`, or an archive.
      root: folder of the data set; created if missing.

    Raises:
      UserError: there is no network, no such file or no disk space, or the data differs from what
        was published.
    """
    archive = ARCHIVES[archive] if isinstance(archive, str) else archive
    root = pathlib.Path(os.path.realpath(root))
    # On the file system of `root`, so that unpacked files can be renamed into it.
    parent_folder = root if os.path.ismount(root) else root.parent
    path = parent_folder / f"{archive.name}.download" / archive.name
    staging = path.with_name("unpacked")
    try:
        if not _missing(archive, root):
            return
        with _locked(path.parent.with_suffix(".lock")):
            if not _missing(archive, root):
                return
            _check_existing(archive, root)
            try:
                downloader = functools.partial(_download, archive)
                pooch.retrieve(archive.url, None, path.name, path.parent, downloader=downloader)
                _unpack(archive, path, staging)
                _move_in(archive, staging / "new", root)
                shutil.rmtree(path.parent)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
                with contextlib.suppress(OSError):
                    path.parent.rmdir()  # succeeds only if nothing is left to resume
    except OSError as error:
        raise UserError(
            f"{root}: cannot store {archive.url} ({error}); free disk space or check the folder's "
            f"permissions, and run again{_describe_partial(path)}"
        ) from error


def _missing(archive: Archive, root: pathlib.Path) -> list[str]:
    return [name for name in archive.complete if not (root / name).exists()]


def _describe_partial(path: pathlib.Path) -> str:
    """Describes what an unfinished download has left, for an error message."""
    for file in (path, _part(path)):
        with contextlib.suppress(OSError):
            if size := file.stat().st_size:
                return f"; {file} keeps the {size} bytes downloaded so far for the next run"
    return ""


def _part(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.name}.part")


def _check_existing(archive: Archive, root: pathlib.Path) -> None:
    """Raises a `UserError` if files in `root` differ from the published data set."""
    if root.exists() and not root.is_dir():
        raise UserError(f"{root}: is a file; give the folder for the data set")
    for place in archive.layout.values():
        lacking = [name for name in _missing(archive, root) if name.startswith(f"{place}/")]
        if lacking and (root / place).exists():
            raise UserError(
                f"{root / place}: incomplete, {', '.join(lacking)} missing; move it away and run "
                f"again to download all of it"
            )
    try:
        _check_pixels(archive, root)
    except UserError as error:
        raise UserError(f"{error}; move the file away and run again to download it") from error


def _check_pixels(archive: Archive, root: pathlib.Path) -> None:
    for name, expected in archive.pixels.items():
        if (root / name).exists():
            found = hashlib.sha256(read_tiff(root / name).tobytes()).hexdigest()
            if found != expected:
                raise UserError(f"{root / name}: the pixels' sha256 is {found}, not {expected}")


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    """Holds an exclusive lock between processes; the file `path` exists while it is held."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(path, "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{path}: waiting for another process's download", file=sys.stderr)
                fcntl.flock(lock, fcntl.LOCK_EX)
            # The previous holder removes the file; a lock on a removed file excludes nobody.
            if not _is_at(path, lock):
                continue
            try:
                yield
            finally:
                path.unlink()
            return


def _is_at(path: pathlib.Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _download(archive: Archive, url: str, output_file: str, _: object) -> None:
    """Pooch's downloader, to a file that survives an error, so that a rerun can resume it."""
    path = pathlib.Path(output_file).with_name(archive.name)
    try:
        transfer(url, _part(path), archive.max_bytes)
    except TransferError as error:
        raise UserError(
            f"{url}: {error}; run again later, or download it by hand and save it as "
            f"{path}{_describe_partial(path)}"
        ) from error
    os.replace(_part(path), output_file)


def _unpack(archive: Archive, path: pathlib.Path, staging: pathlib.Path) -> None:
    """Unpacks the data set into `staging`/new; removes an archive that fails verification."""
    # A process that was killed may have left files there.
    shutil.rmtree(staging, ignore_errors=True)
    try:
        found = pooch.file_hash(str(path))
        if archive.sha256 not in (None, found):
            raise UserError(f"the sha256 of {path.name} is {found}, not {archive.sha256}")
        unpack(path, staging / "all", archive.max_bytes)
        for name, place in archive.layout.items():
            inside = min((staging / "all").rglob(name), key=lambda x: len(x.parts), default=None)
            if inside:
                (staging / "new" / place).parent.mkdir(parents=True, exist_ok=True)
                inside.rename(staging / "new" / place)
        if missing := _missing(archive, staging / "new"):
            raise UserError(f"{path.name} lacks {', '.join(missing)}")
        _check_pixels(archive, staging / "new")
    except UserError as error:
        path.unlink()
        raise UserError(
            f"{archive.url}: {error}; the file was removed and nothing was unpacked: run again, or "
            f"download it by hand and save it as {path}"
        ) from error


def _move_in(archive: Archive, new: pathlib.Path, root: pathlib.Path) -> None:
    try:
        os.rename(new, root)  # atomic if `root` is missing or empty
    except OSError:
        for place in archive.layout.values():
            if (new / place).exists() and not (root / place).exists():
                (root / place).parent.mkdir(parents=True, exist_ok=True)
                os.rename(new / place, root / place)


def main() -> None:
    parser = command_parser("python -m unet_jax.data.download.archives", __doc__)
    parser.add_argument("name", choices=ARCHIVES, help="the data set")
    parser.add_argument("--root", required=True, help="the data set's folder")
    options = parser.parse_args()
    try:
        root = pathlib.Path(expand(options.root))
        fetch(options.name, root)
    except UserError as error:
        sys.exit(print_error(error))
    layout = ARCHIVES[options.name].layout.values()
    found = [place for place in layout if (root / place).exists()]
    print(f"{root}: {', '.join(found)}")


if __name__ == "__main__":
    make_streams_robust()
    main()
