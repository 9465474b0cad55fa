"""Folders in Google Cloud Storage, gs://BUCKET/PATH, with the methods of `pathlib.Path`.

A bucket has objects, not files: each is written as a whole, at once or not at all, and cannot be
renamed or extended. A folder exists as long as an object has its path as a prefix. Paths are those
of etils' `epath`, which orbax uses as well, over gcsfs.

gcsfs repeats a request that fails, up to six times within about half a minute of waiting; this
module prints a line when it does, and one that says what failed after the last attempt.
"""

import base64
import contextlib
import functools
import hashlib
import logging
import os
import pathlib
import re
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from unet_jax.core.errors import UserError

SCHEME = "gs://"
PACKAGES = "requirements-gcs.txt"
ONE_REQUEST = 32 * 2**20  # bytes; larger objects are written by several requests
CONNECT_SECONDS, READ_SECONDS = 20, 60  # time limits of one request: connection, silence
NOTICE_SECONDS = 10  # at least so many seconds between two lines about repeated requests
_NAME = re.compile(r"gs://[a-z0-9][a-z0-9._-]+[a-z0-9](/|$)")
_SPECIAL = re.compile(r"[*?\[\]#\x00-\x1f]")  # wildcards and, in gcsfs, a version
# Errors of the libraries that read buckets are found by the names of their modules, so that
# explaining an error imports none of them. Tensorstore raises a ValueError with these parts.
_LIBRARIES = ("gcsfs", "aiohttp", "google", "requests", "urllib3", "fsspec")
_STATUS = re.compile(
    r"\b(ABORTED|UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED)\b.*"
)
_CODE = re.compile(r"\[(http_response|curl)_code=")
NOTE_SECONDS = 60.0  # after this time a line says that checkpoints wait for the bucket


class Unreachable(UserError):
    """A bucket could not be read or written; its content may be intact."""


def is_bucket(path: object) -> bool:
    """Returns whether a path is in a bucket, or a text names such a path."""
    return str(path).startswith(SCHEME)


def bucket_path(given: str) -> pathlib.Path:
    """Returns the path of a folder or an object in a bucket.

    Args:
      given: gs://BUCKET/PATH.

    Returns:
      A path with the methods of `pathlib.Path`, except those for links, modes and renaming.

    Raises:
      UserError: the name is invalid, or the packages for buckets are not installed.
    """
    if not _NAME.match(given) or ".." in given.split("/"):
        raise UserError(f"{given}: is not the name of a folder in a bucket, gs://BUCKET/PATH")
    if found := _SPECIAL.search(given):
        raise UserError(f"{given}: the name has {found[0]!r}; use a name without it")
    return _path_class()(given)


def file_system() -> Any:
    """Returns gcsfs' file system, whose paths are those of `str(path)`."""
    import fsspec

    _path_class()  # sets gcsfs up
    return fsspec.filesystem("gcs")


def list_objects(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Lists all objects in a folder of a bucket, with subfolders.

    Returns:
      What the bucket says of each, such as `size`, `generation`, `md5Hash` and `crc32c`, by its
      path relative to `folder`, sorted. Objects that only mark a folder are left out.

    Raises:
      Unreachable: the bucket cannot be read.
    """
    with reported(folder):
        found = file_system().find(str(folder), detail=True)
    prefix = f"{str(folder).removeprefix(SCHEME).rstrip('/')}/"
    return {
        name.removeprefix(prefix): found[name]
        for name in sorted(found)
        if name.startswith(prefix) and not name.endswith("/")
    }


def remove_tree(folder: pathlib.Path, first: Sequence[str] = ()) -> None:
    """Deletes all objects in a folder of a bucket; those named in `first` before the others."""
    for name in first:
        (folder / name).unlink(missing_ok=True)
    with reported(folder), contextlib.suppress(FileNotFoundError):
        file_system().rm(str(folder), recursive=True)


def copy_tree(source: pathlib.Path, target: pathlib.Path, last: str = "") -> None:
    """Copies all objects in a folder of a bucket to another folder, that named `last` at last."""
    for name in sorted(list_objects(source), key=lambda name: name == last):
        with reported(target):
            file_system().cp_file(f"{source}/{name}", f"{target}/{name}")


def upload(source: pathlib.Path, target: pathlib.Path) -> None:
    """Writes a local file, or all files in a local folder, to a bucket.

    Raises:
      Unreachable: the bucket cannot be written.
    """
    files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else []
    for path in files or [source]:
        name = target / path.relative_to(source) if files else target
        if path.stat().st_size <= ONE_REQUEST:
            name.write_bytes(path.read_bytes())
            continue
        with reported(name):
            file_system().put_file(str(path), str(name))


@contextlib.contextmanager
def reported(path: object) -> Iterator[None]:
    """Context manager that converts an error of a bucket into `Unreachable`.

    That an object does not exist is no such error, but that its bucket does not exist is one.

    Args:
      path: what is read or written.
    """
    try:
        yield
    except Exception as error:
        if _is_missing(error):
            _check_bucket(path)
        if line := describe(error, path):
            raise Unreachable(line) from error
        raise


def describe(error: BaseException, path: object) -> str | None:
    """Explains in one line an error that a bucket raised, after its requests were repeated.

    Args:
      error: the exception.
      path: what was read or written.

    Returns:
      The line; None for an error that no bucket raised, and if the object does not exist.
    """
    text = " ".join(str(error).split())
    if isinstance(error, FileNotFoundError | FileExistsError):
        return None
    denied = ("Forbidden", "PERMISSION_DENIED", "UNAUTHENTICATED")
    if any(word in text for word in denied) or str(getattr(error, "code", "")) in ("401", "403"):
        return f"{path}: no access ({text[:200]}); check the account's roles for this bucket"
    if type(error).__name__ == "DefaultCredentialsError":
        return f"{path}: no credentials; run gcloud auth application-default login"
    library = type(error).__module__.partition(".")[0]
    if library not in _LIBRARIES:
        found = _STATUS.search(text) if isinstance(error, ValueError | RuntimeError) else None
        if not found and not _CODE.search(text):
            return None
        text = found[0] if found else text
    what = text[:200] or type(error).__name__
    return (
        f"{path}: the bucket cannot be reached ({what}), also after repeated requests; check the "
        f"network and the bucket, then rerun the command"
    )


def _is_missing(error: BaseException) -> bool:
    """Returns whether a bucket answered 404, about an object or about itself."""
    return isinstance(error, FileNotFoundError) or getattr(error, "code", None) == 404


def _check_bucket(path: object) -> None:
    """Raises `Unreachable` if the bucket of a path does not exist or cannot be listed."""
    name = _bucket_of(path)
    try:
        file_system().call("GET", "b/{}/o", name, maxResults=1, json_out=True)
    except Exception as error:
        line = describe(error, path)
        if _is_missing(error):
            line = f"{SCHEME}{name}: no such bucket, or no access to it; check its name"
        if line:
            raise Unreachable(line) from error
        raise


@functools.cache
def _check_bucket_once(name: str) -> None:
    _check_bucket(f"{SCHEME}{name}")


def _bucket_of(path: object) -> str:
    return str(path).removeprefix(SCHEME).partition("/")[0]


def _put(path: str, data: bytes) -> None:
    """Writes an object in one request whose body is the data alone.

    gcsfs itself sends short data as a part of a message whose parts end with a line feed. If the
    data ends with a carriage return, that byte may be taken for a part of the line's end.
    """
    system = file_system()
    bucket, _, name = path.removeprefix(SCHEME).partition("/")
    answer = system.call(
        "POST",
        f"{system.base.replace('/storage/v1/', '/upload/storage/v1/')}b/{bucket}/o",
        uploadType="media",
        name=name,
        headers={"Content-Type": "application/octet-stream"},
        data=data,
        json_out=True,
    )
    digest = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
    if answer.get("md5Hash") != digest:
        raise Unreachable(f"{path}: the bucket has received other data; rerun the command")


@functools.cache
def _path_class() -> Any:
    """Sets up gcsfs; returns the class of paths in buckets."""
    os.environ["EPATH_USE_TF"] = "0"  # TensorFlow, if installed, would bring its own client
    try:
        import aiohttp
        import fsspec
        import gcsfs  # noqa: F401
        from etils.epath import gpath
        from google.cloud import storage  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"gs:// needs packages that are not installed ({error}): pip install -r {PACKAGES}"
        ) from error
    settings = fsspec.config.conf.setdefault("gcs", {})
    # A list that is kept would not show what orbax and other hosts write.
    settings.setdefault("use_listings_cache", False)
    settings.setdefault("consistency", "md5")
    limits = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
    settings.setdefault("requests_timeout", limits)
    logger = logging.getLogger("gcsfs")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(_Notices())

    return type("BucketPath", (_Methods, gpath.PosixGPath), {})


@contextlib.contextmanager
def noted_if_slow(folder: pathlib.Path) -> Iterator[None]:
    """Context manager for tensorstore's requests, which it repeats silently; says so after a while.

    Args:
      folder: what is read or written.
    """
    if not is_bucket(folder):
        yield
        return
    from unet_jax.core.streams import say  # imports `files`, which imports this module

    line = (
        f"note         {folder}: the bucket has not finished for {NOTE_SECONDS:.0f} s; requests "
        f"that fail are repeated for about fifteen minutes"
    )
    timer = threading.Timer(NOTE_SECONDS, say, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class _Methods(pathlib.PurePosixPath):
    """What paths in buckets do. Every error but that of a missing object is `Unreachable`."""

    def _info(self) -> dict[str, Any] | None:
        with reported(self):
            try:
                return file_system().info(str(self))
            except FileNotFoundError:
                _check_bucket_once(_bucket_of(self))
                return None

    def exists(self) -> bool:
        return self._info() is not None

    def is_dir(self) -> bool:
        return (self._info() or {}).get("type") == "directory"

    def is_file(self) -> bool:
        return (self._info() or {}).get("type") == "file"

    def resolve(self, strict: bool = False) -> Any:
        return self

    def iterdir(self) -> Iterator[Any]:
        with reported(self):
            names = file_system().ls(str(self), detail=False)
        own = str(self).removeprefix(SCHEME)
        for name in names:
            if name.rstrip("/") != own:  # an object that only marks the folder
                yield self / name.rstrip("/").rpartition("/")[2]

    def glob(self, pattern: str) -> Iterator[Any]:
        with reported(self):
            names = file_system().glob(f"{self}/{pattern}")
        for name in names:
            yield self / name.removeprefix(f"{self}/".removeprefix(SCHEME))

    def mkdir(self, mode: Any = None, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: a folder exists as long as it has objects."""

    def read_bytes(self) -> bytes:
        with reported(self):
            return file_system().cat_file(str(self))

    def read_text(self, encoding: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8")

    def write_bytes(self, data: bytes) -> int:
        with reported(self):
            if 0 < len(data) <= ONE_REQUEST:
                _put(str(self), bytes(data))
            else:
                file_system().pipe_file(str(self), bytes(data))
        return len(data)

    def write_text(self, data: str, *_: Any, **__: Any) -> int:
        return self.write_bytes(data.encode())

    def unlink(self, missing_ok: bool = False) -> None:
        with reported(self):
            try:
                file_system().rm_file(str(self))
            except FileNotFoundError:
                if not missing_ok:
                    raise


class _Notices(logging.Handler):
    """Prints a line if gcsfs repeats a request."""

    def __init__(self) -> None:
        super().__init__()
        self._last = -float("inf")

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        now = time.monotonic()
        if "retrying after exception" in text and now - self._last >= NOTICE_SECONDS:
            self._last = now
            from unet_jax.core.streams import say  # imports `files`, which imports this module

            what = " ".join(text.partition("exception:")[2].split())[:120] or "no answer"
            say(f"note         the bucket does not answer ({what}); the request is repeated")
