"""Local copies of files in a bucket, which are kept in the user's cache folder.

Images are read again and again, at random, by several processes, so that a data set in a bucket is
copied to each host once. An object is copied again only if the bucket has another content under its
name. Each copy is compared with the hash that the bucket keeps of the object. Copies that another
process uses are not changed.
"""

import base64
import concurrent.futures
import contextlib
import fcntl
import glob
import hashlib
import os
import pathlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import IO, Any

from unet_jax.core.bucket import (
    SCHEME,
    bucket_path,
    file_system,
    is_bucket,
    list_objects,
    reported,
)
from unet_jax.core.errors import UserError
from unet_jax.core.faults import FULL
from unet_jax.core.files import cache_folder, expand, read_json, write_json
from unet_jax.core.streams import say

THREADS = 8  # objects that are copied at the same time
USED = ".used"  # locked by the processes that use the copies
SAVE_SECONDS = 10.0  # between two writes of the index while objects are being copied
NAME_BYTES = 255  # of a file on usual file systems
INDEX = "objects.json"  # of the objects that were copied, with the stamps of their files


_in_use: dict[pathlib.Path, IO[str]] = {}  # open files `USED`, by the folder


def local_path(given: str) -> pathlib.Path:
    """Returns the local folder of a data set that a user names; see `local_folder` and `expand`."""
    return local_folder(given) if is_bucket(given) else pathlib.Path(expand(given))


def local_folder(given: str) -> pathlib.Path:
    """Copies a folder of a bucket to this host, as far as it has changed.

    Args:
      given: gs://BUCKET/PATH.

    Returns:
      The local folder.

    Raises:
      UserError: the folder has no objects or cannot be read, this disk is full, or another process
        uses earlier copies that differ.
    """
    folder = bucket_path(given)
    objects = list_objects(folder)
    if not objects:
        raise UserError(f"{given}: there is nothing in this folder of the bucket; check its name")
    return _mirror(given, folder, objects)


def local_inputs(wanted: str, output: str, suffixes: Sequence[str]) -> str:
    """Copies the images that a prediction reads from a bucket to this host.

    Args:
      wanted: gs://BUCKET/PATH of an image, of a folder of images, or with a pattern.
      output: the folder that the prediction writes.
      suffixes: those of images, in lower case.

    Returns:
      The local path or pattern that names the copies.

    Raises:
      UserError: there are no such images, they are in `output`, or they cannot be read.
    """
    fixed = _fixed_part(wanted)
    folder = bucket_path(fixed)
    with reported(folder):
        if fixed != wanted:
            names = file_system().glob(wanted)
        elif folder.is_file():
            names, folder = [wanted.removeprefix(SCHEME)], folder.parent
        else:
            names = [f"{folder}/{name}".removeprefix(SCHEME) for name in list_objects(folder)]
            level = fixed.rstrip("/").removeprefix(SCHEME).count("/") + 1
            names = [name for name in names if name.count("/") == level]
    prefix = f"{folder}/".removeprefix(SCHEME)
    chosen = {name.removeprefix(prefix) for name in names}
    images = [name for name in chosen if pathlib.PurePath(name).suffix.lower() in suffixes]
    objects = {n: info for n, info in list_objects(folder).items() if n in images}
    if not objects:
        raise UserError(f"--input={wanted}: no such image, folder of images or pattern in a bucket")
    for name in objects:
        if f"{folder}/{name}".startswith(f"{output.rstrip('/')}/"):
            raise UserError(
                f"--output={output}: contains the input {folder}/{name}, so that masks there would "
                f"be inputs of the next call; use another folder"
            )
    mirror = _mirror(wanted, folder, objects)
    if fixed != wanted:
        return f"{glob.escape(str(mirror))}/{wanted.removeprefix(SCHEME).removeprefix(prefix)}"
    return str(mirror if len(objects) > 1 or bucket_path(wanted) == folder else mirror / name)


def _fixed_part(wanted: str) -> str:
    """Returns the folder of a pattern before its first wildcard; all of it without a wildcard."""
    parts = wanted.split("/")
    number = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return "/".join(parts[:number])


def _mirror(
    given: str, folder: pathlib.Path, objects: Mapping[str, Mapping[str, Any]]
) -> pathlib.Path:
    """Makes a local folder equal to objects of a bucket, and returns it.

    Args:
      given: what the user named; each has a local folder of its own.
      folder: the folder of the objects.
      objects: what the bucket says of each, by its path relative to `folder`.
    """
    _check_names(folder, objects)
    key = hashlib.sha256(given.rstrip("/").encode()).hexdigest()[:16]
    place = cache_folder() / "buckets" / key
    mirror = place / "files" / (folder.name or "bucket")
    try:
        with _locked(place):
            _copy(given, folder, objects, mirror, place)
    except OSError as error:
        if error.errno is None:
            raise
        what = FULL.get(error.errno, error.strerror)
        free = "free space there, or " if error.errno in FULL else ""
        raise UserError(
            f"{given}: cannot be copied to {place} ({what}); {free}set XDG_CACHE_HOME to a folder "
            f"on another disk"
        ) from error
    return mirror


def _copy(
    given: str,
    folder: pathlib.Path,
    objects: Mapping[str, Mapping[str, Any]],
    mirror: pathlib.Path,
    place: pathlib.Path,
) -> None:
    """Copies the objects whose files are missing or differ, and deletes other files."""
    kept = _kept(mirror, place / INDEX, objects)
    missing = [name for name in objects if name not in kept]
    folders, others = [], []
    for path in sorted(mirror.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            folders.append(path)
        elif path.relative_to(mirror).as_posix() not in kept:
            others.append(path)
    with _used(given, place, change=bool(missing or others)):
        for path in others:
            path.unlink()
        for path in folders:
            with contextlib.suppress(OSError):  # it has files
                path.rmdir()
        if missing:
            _fetch_all(given, folder, objects, mirror, place / INDEX, missing, kept)


def _fetch_all(
    given: str,
    folder: pathlib.Path,
    objects: Mapping[str, Mapping[str, Any]],
    mirror: pathlib.Path,
    index: pathlib.Path,
    missing: Sequence[str],
    kept: dict[str, list[Any]],
) -> None:
    """Copies the objects in `missing`, and adds them to the index of those in `kept`."""
    size = sum(int(objects[name]["size"]) for name in missing) / 1e6
    say(f"copying      {given}: {len(missing)} of {len(objects)} files, {size:.1f} MB, to {mirror}")
    last, system = time.monotonic(), file_system()
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        try:
            copies = [
                pool.submit(_fetch, system, folder / name, mirror / name, objects[name])
                for name in missing
            ]
            for name, copy in zip(missing, copies, strict=True):
                kept[name] = [objects[name].get("generation"), *copy.result()]
                if time.monotonic() - last > SAVE_SECONDS:
                    last = time.monotonic()
                    write_json(index, kept)
        finally:
            pool.shutdown(cancel_futures=True)
            write_json(index, kept)


def _kept(
    mirror: pathlib.Path, index: pathlib.Path, objects: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[Any]]:
    """Returns the generation and the stamps of the files that equal their objects, by name."""
    try:
        known = read_json(index)
    except UserError:  # missing or damaged
        known = {}
    kept = {}
    for name, info in objects.items():
        path = mirror / name
        if not path.is_file():
            continue
        entry = [info.get("generation"), *_stamp(path)]
        if entry == known.get(name) or _differs(path, info) is None:
            kept[name] = entry
    return kept


def _fetch(
    system: Any, source: pathlib.Path, target: pathlib.Path, info: Mapping[str, Any]
) -> list[int]:
    """Copies an object to a file and checks it; returns the file's stamp."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{hashlib.sha256(target.name.encode()).hexdigest()[:16]}.part")
    for last in (False, True):
        try:
            with reported(source):
                # gcsfs compares only MD5, which some objects lack; `_differs` compares either.
                system.get_file(str(source), str(temporary), consistency="none")
        except FileNotFoundError as error:
            if error.errno is not None:  # of this disk
                raise
            raise UserError(
                f"{source}: was deleted while its folder was being copied; rerun the command"
            ) from error
        difference = _differs(temporary, info)
        if difference is None:
            os.replace(temporary, target)
            return _stamp(target)
        temporary.unlink()
        if last:
            raise UserError(
                f"{source}: the copy differs from the object ({difference}), also at the second "
                f"attempt; rerun the command, and upload the file again if that does not help"
            )
    raise AssertionError


def _differs(path: pathlib.Path, info: Mapping[str, Any]) -> str | None:
    """Returns in what a file differs from an object, None if they are equal."""
    if path.stat().st_size != int(info["size"]):
        return f"{path.stat().st_size} instead of {info['size']} bytes"
    if info.get("md5Hash"):
        with open(path, "rb") as file:
            found, kind = hashlib.file_digest(file, "md5").digest(), "md5Hash"
    else:  # an object that was composed of parts has no MD5
        import google_crc32c

        checksum, kind = google_crc32c.Checksum(), "crc32c"
        with open(path, "rb") as file:
            while part := file.read(2**20):
                checksum.update(part)
        found = checksum.digest()
    expected = info.get(kind)
    here = base64.b64encode(found).decode()
    return None if here == expected else f"{kind} {here} instead of {expected}"


def _check_names(folder: pathlib.Path, objects: Collection[str]) -> None:
    """Raises `UserError` if objects of a folder cannot be files with their names on one disk."""
    for name in objects:
        parts = name.split("/")
        if any(part in ("", ".", "..") or len(part.encode()) > NAME_BYTES for part in parts):
            raise UserError(
                f"{folder}: the object {name!r} cannot be a file with this name; rename it"
            )
        for above in ("/".join(parts[:count]) for count in range(1, len(parts))):
            if above in objects:
                raise UserError(
                    f"{folder}: {above!r} is an object and also the folder of {name!r}, which is "
                    f"impossible on a disk; rename one of them"
                )


def _stamp(path: pathlib.Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino]


@contextlib.contextmanager
def _used(given: str, place: pathlib.Path, change: bool) -> Iterator[None]:
    """Context manager that may change copies; afterwards no other process changes them.

    Images are read from the copies until this process ends, so that it keeps a lock until then.

    Args:
      given: what the user named.
      place: the folder with the copies; this process has its lock of `_locked`.
      change: whether copies are changed.

    Raises:
      UserError: another process uses copies that would be changed.
    """
    lock = _in_use.get(place) or open(place / USED, "w")
    try:
        if change:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{given}: its files have changed, and another process still uses the copies "
                    f"in {place}; wait until it ends, or set XDG_CACHE_HOME to another folder"
                ) from None
        yield
        _in_use[place] = lock
    finally:
        if place in _in_use:
            fcntl.flock(lock, fcntl.LOCK_SH)
        else:
            lock.close()


@contextlib.contextmanager
def _locked(place: pathlib.Path) -> Iterator[None]:
    """Context manager in which no other process of this host changes the folder."""
    place.mkdir(parents=True, exist_ok=True)
    with open(place / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting      until another process has copied the files to {place}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
