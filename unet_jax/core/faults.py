"""Faults from outside that end a run, told in one line: a full disk, a reader process that died."""

import contextlib
import errno
import pathlib
import re
import signal
from collections.abc import Iterator

from unet_jax.core.errors import UserError

# No space, no quota, and a file beyond what one may have here (`ulimit -f`).
FULL = {
    errno.ENOSPC: "no space is left on its disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file would be larger than this process may write",
}
# Other errors of the system that no change of this code could prevent: what is wrong, what to do.
_ACCESS = ("permission denied", "give this user write permission there, or take another folder")
_SHARE = ("its disk or network share reports an error", "check it, then rerun the command")
_FILES = ("too many files are open", "raise the limit (`ulimit -n 65536`), then rerun the command")
UNUSABLE = {
    errno.EACCES: _ACCESS,
    errno.EPERM: _ACCESS,
    errno.EROFS: ("its disk is read-only", "take another folder, or mount the disk writable"),
    errno.ENOTDIR: ("a part of its path is a file, not a folder", "take another folder"),
    errno.ENAMETOOLONG: ("its name is too long", "take a shorter path"),
    errno.ELOOP: ("its symbolic links form a loop", "take another folder"),
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.EIO: _SHARE,
    errno.ESTALE: _SHARE,
    errno.ENODEV: _SHARE,
    errno.ENOTCONN: _SHARE,
    errno.EHOSTDOWN: _SHARE,
    errno.ETIMEDOUT: _SHARE,
}
# Below orbax, C++ has only words for an error and its file, grain for a process that died.
_CODE = re.compile(r"os_error_code='(\d+)'|\[Errno (\d+)\]")
_PLACE = re.compile(r'(?:local file|writing:|directory:|file:) "([^"]+)"')
_DIED = re.compile(r"Worker process was terminated unexpectedly with exit code (-?\d+)")


@contextlib.contextmanager
def explained(folder: pathlib.Path) -> Iterator[None]:
    """Makes a fault in the context, of a run in `folder`, a `UserError`."""
    try:
        yield
    except Exception as error:
        line = None if isinstance(error, UserError) else explain(error, folder)
        if line is None:
            raise
        raise UserError(line) from error


def explain(error: BaseException, folder: pathlib.Path) -> str | None:
    """What happened, where, and what to do, of a run in `folder`; None of any other error."""
    for link in _chain(error):
        if isinstance(link, UserError):  # after which closing the run's files failed too
            return str(link)
        if fault := _fault(link, folder):
            what, todo = fault
            newest = newest_checkpoint(folder)
            kept = f"; the last checkpoint, of step {newest.name}, is {newest}" if newest else ""
            return f"{what}{kept}; {todo}"
    return None


def _fault(error: BaseException, folder: pathlib.Path) -> tuple[str, str] | None:
    """What happened and what to do, or None where this error alone does not say."""
    code, said = _code(error), str(error)
    found = _PLACE.search(said)
    named = getattr(error, "filename", None) or (found[1] if found else None)
    where = named if isinstance(named, str) else str(folder)
    path = pathlib.Path(where)
    if died := _DIED.search(said):
        number = int(died[1])
        by = f"was killed by {signal.Signals(-number).name}" if number < 0 else "died"
        what = f"{folder}: a reader process {by}, as happens where memory or /dev/shm run out"
        return what, "lower data.workers or free memory, and the same command goes on"
    if "No usable temporary directory" in said:
        what = f"no folder for temporary files can be written ({said.partition('] ')[2] or said})"
        return what, "make room in one of them, or name another with the variable TMPDIR"
    if code in FULL:
        what = f"{where}: cannot be written, {FULL[code]}"
        return what, "make room, and the same command goes on"
    if code in UNUSABLE:
        what, todo = UNUSABLE[code]
        return f"{where}: cannot be used, {what}", todo
    if code == errno.EEXIST and path.is_symlink() and not path.exists():
        what = f"{where}: is a link to {path.readlink()}, which does not exist"
        return what, "make that folder or mount its disk, or take another folder"
    if code == errno.ENOENT and named and (place := _deleted(path.absolute(), folder.absolute())):
        return gone(place), "rerunning the command resumes from what is left"
    return None


def _deleted(path: pathlib.Path, folder: pathlib.Path) -> pathlib.Path | None:
    """The run's folder or the one in it that a missing file was in, if that is missing too."""
    if not path.is_relative_to(folder):
        return None
    inside = path.relative_to(folder).parts[:-1]
    places = [folder, *(folder / name for name in inside[:1])]
    return next((place for place in places if not place.exists()), None)


def gone(place: pathlib.Path) -> str:
    """What is said of a place that was there when the run started."""
    return f"{place}: was deleted or moved while the run used it, so nothing can be saved there"


def system_error(error: BaseException) -> int | None:
    """The number of the system's error that it is, or came of."""
    return next((code for link in _chain(error) if (code := _code(link))), None)


def newest_checkpoint(folder: pathlib.Path) -> pathlib.Path | None:
    """The last training state that is whole on disk; unlike orbax, after a save that failed."""
    try:
        saved = [path for path in folder.glob("checkpoints/*") if path.name.isdecimal()]
    except OSError:  # the fault itself may keep the folder from being listed
        return None
    return max(saved, key=lambda path: int(path.name), default=None)


def _code(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = _CODE.search(str(error))
    return int(found[1] or found[2]) if found else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """It, and those that it came of: of a full disk the next error may be of another kind."""
    seen, rest = set(), [error]
    while rest:
        link = rest.pop(0)
        if id(link) not in seen:
            seen.add(id(link))
            yield link
            rest += [x for x in (link.__cause__, link.__context__) if x is not None]
