"""Unpacking archives of strangers: nothing outside the folder, no links, no endless files."""

import errno
import functools
import pathlib
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

from unet_jax.errors import UserError

BLOCK = 2**12  # bytes that a file takes on a disk at least
MAX_HEADER = 2**13  # bytes of a name, or of other facts; tarfile takes the square of it in time
MAX_TAIL = 2**20  # bytes of zeros at the end of a tar file
# What names and places in an archive cause, not the disk; an error of a library has no number.
BAD_NAMES = (
    None, errno.EEXIST, errno.EINVAL, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTDIR,
)  # fmt: skip


class _Member(NamedTuple):
    name: str
    kind: int  # stat.S_IFREG, stat.S_IFDIR, or anything else
    size: int  # bytes; neither library unpacks more than an archive declares
    open: Callable[[], Any]  # its content, as a file


class _Header(tarfile.TarInfo):
    """A header of a tar file. What comes before another header, a long name say, is short."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if not header.isreg() and header.size > MAX_HEADER:
            raise tarfile.HeaderError(f"a header of {header.size} bytes")
        return header


def unpack(path: pathlib.Path, folder: pathlib.Path, max_bytes: int) -> None:
    """Unpacks a zip or tar file into `folder`.

    Raises a `UserError` for one that is broken, takes more than `max_bytes` on the disk, or has
    anything but files and folders with places of their own in `folder`; then, or where the disk
    is full (OSError), the caller removes `folder`.
    """
    room = max_bytes
    try:
        for member in _members(path):
            name = pathlib.PureWindowsPath(member.name)  # the stricter rules: also \ and C:
            if name.anchor or ".." in name.parts:
                raise UserError(f"{path.name} has {member.name!r:.99}, outside its folder")
            if member.kind not in (stat.S_IFREG, stat.S_IFDIR):
                raise UserError(f"{path.name} has {member.name!r:.99}, a link or a device")
            room -= BLOCK + member.size
            if room < 0:
                raise UserError(f"{path.name} unpacks to more than {max_bytes} bytes")
            target = folder.joinpath(*name.parts)
            if member.kind == stat.S_IFDIR:
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                with member.open() as source, open(target, "wb") as file:
                    shutil.copyfileobj(source, file)
    except UserError:
        raise
    except Exception as error:  # broken archives raise many kinds
        if isinstance(error, OSError) and error.errno not in BAD_NAMES:
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"{path.name} cannot be unpacked ({reason})") from error


def _members(path: pathlib.Path) -> Iterator[_Member]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as zipped:
            for info in zipped.infolist():
                name = info.orig_filename  # `filename` is sanitised: it may hide what it was
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind in (0, stat.S_IFREG):
                    kind = stat.S_IFDIR if name.endswith(("/", "\\")) else stat.S_IFREG
                yield _Member(name, kind, info.file_size, functools.partial(zipped.open, info))
    else:
        mode = "r:gz" if path.suffix == ".tgz" else "r:"  # others may want any memory
        with tarfile.open(path, mode, tarinfo=_Header) as tarred:
            for info in tarred:
                kind = stat.S_IFREG if info.isreg() else stat.S_IFDIR if info.isdir() else 0
                opened = functools.partial(tarred.extractfile, info)
                yield _Member(info.name, kind, info.size, opened)
            # A broken header ends the list as its end does; and gzip has its checksum there.
            file: Any = tarred.fileobj
            file.seek(tarred.offset)
            rest = file.read(MAX_TAIL)
            if len(rest) < tarfile.BLOCKSIZE or any(rest):
                raise tarfile.ReadError("it ends too early, or in something else")
