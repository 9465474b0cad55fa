"""Safe unpacking of untrusted archives: no file outside the folder, no links, bounded size."""

import errno
import functools
import pathlib
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

from unet_jax.core.errors import UserError

BLOCK = 2**12  # bytes that each file takes on a disk at least
MAX_HEADER = 2**13  # bytes of an extended header; tarfile's time grows with their square
MAX_TAIL = 2**20  # bytes of zeros at the end of a tar file
# Errors that an archive's names cause, as opposed to the disk; library errors have no number.
BAD_NAMES = (
    None, errno.EEXIST, errno.EINVAL, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTDIR,
)  # fmt: skip


class _Member(NamedTuple):
    name: str
    kind: int  # stat.S_IFREG, stat.S_IFDIR, or anything else
    size: int  # bytes; both libraries unpack at most the declared size
    open: Callable[[], Any]  # returns the content as a file


class _Header(tarfile.TarInfo):
    """A tar header that refuses large extended headers, such as long names."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if not header.isreg() and header.size > MAX_HEADER:
            raise tarfile.HeaderError(f"a header of {header.size} bytes exceeds the limit")
        return header


def unpack(path: pathlib.Path, folder: pathlib.Path, max_bytes: int) -> None:
    """Unpacks a zip or tar file into `folder`.

    After an error the caller removes `folder`.

    Args:
      path: the archive: .zip, .tgz or .tar.
      folder: where to unpack; created if missing.
      max_bytes: upper limit of the size on the disk.

    Raises:
      UserError: the archive is damaged or too large, or has a link, a device, or a path that
        leads outside `folder` or occurs twice.
      OSError: the disk is full.
    """
    room = max_bytes
    try:
        for member in _members(path):
            # Windows' rules are the stricter ones: they split at \ and have drives such as C:.
            name = pathlib.PureWindowsPath(member.name)
            if name.anchor or ".." in name.parts:
                raise UserError(f"{path.name} has a path outside its folder, {member.name!r:.99}")
            if member.kind not in (stat.S_IFREG, stat.S_IFDIR):
                raise UserError(f"{path.name} has a link or a device, {member.name!r:.99}")
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
    except Exception as error:  # damaged archives raise many types
        if isinstance(error, OSError) and error.errno not in BAD_NAMES:
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"{path.name} cannot be unpacked ({reason})") from error


def _members(path: pathlib.Path) -> Iterator[_Member]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as zipped:
            for info in zipped.infolist():
                name = info.orig_filename  # `filename` is sanitised, which may hide an attack
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind in (0, stat.S_IFREG):
                    kind = stat.S_IFDIR if name.endswith(("/", "\\")) else stat.S_IFREG
                yield _Member(name, kind, info.file_size, functools.partial(zipped.open, info))
    else:
        mode = "r:gz" if path.suffix == ".tgz" else "r:"  # other compressions are unbounded
        with tarfile.open(path, mode, tarinfo=_Header) as tarred:
            for info in tarred:
                kind = stat.S_IFREG if info.isreg() else stat.S_IFDIR if info.isdir() else 0
                opened = functools.partial(tarred.extractfile, info)
                yield _Member(info.name, kind, info.size, opened)
            # tarfile stops silently at a damaged header, and gzip's checksum is at the end.
            file: Any = tarred.fileobj
            file.seek(tarred.offset)
            rest = file.read(MAX_TAIL)
            if len(rest) < tarfile.BLOCKSIZE or any(rest):
                raise tarfile.ReadError("the archive is truncated or has extra data at its end")
