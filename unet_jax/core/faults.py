"""One-line messages for external faults that end a run: a full disk, a dead reader process."""

import contextlib
import errno
import pathlib
import re
import signal
from collections.abc import Iterator

from unet_jax.core.bucket import describe, is_bucket
from unet_jax.core.errors import UserError

# A file cannot grow: the disk is full, the quota is used up, or it reached `ulimit -f`.
FULL = {
    errno.ENOSPC: "no space is left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file would be larger than this process may write",
}
# Other system errors that this code cannot prevent: what is wrong, and what the user can do.
_ACCESS = ("permission denied", "give this user write permission there, or use another folder")
_SHARE = ("the disk or network share reports an error", "check it, then rerun the command")
_FILES = ("too many files are open", "raise the limit (`ulimit -n 65536`), then rerun the command")
UNUSABLE = {
    errno.EACCES: _ACCESS,
    errno.EPERM: _ACCESS,
    errno.EROFS: ("the disk is read-only", "use another folder, or mount the disk writable"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "use another folder"),
    errno.ENAMETOOLONG: ("the name is too long", "use a shorter path"),
    errno.ELOOP: ("the symbolic links form a loop", "use another folder"),
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.EIO: _SHARE,
    errno.ESTALE: _SHARE,
    errno.ENODEV: _SHARE,
    errno.ENOTCONN: _SHARE,
    errno.EHOSTDOWN: _SHARE,
    errno.ETIMEDOUT: _SHARE,
}
# Errors of orbax's C++ code contain the error number and the file only as text. The same holds for
# grain's error about a reader process that died.
_CODE = re.compile(r"os_error_code='(\d+)'|\[Errno (\d+)\]")
_FILENAME = re.compile(r'(?:local file|writing:|directory:|file:) "([^"]+)"')
_DEAD_READER = re.compile(r"Worker process was terminated unexpectedly with exit code (-?\d+)")


@contextlib.contextmanager
def explained(folder: pathlib.Path) -> Iterator[None]:
    """Context manager that converts external faults into a `UserError`; see `explain`.

    Args:
      folder: the folder that the command writes.
    """
    try:
        yield
    except Exception as error:
        line = None if isinstance(error, UserError) else explain(error, folder)
        if line is None:
            raise
        raise UserError(line) from error


def explain(error: BaseException, folder: pathlib.Path) -> str | None:
    """Explains an external fault in one line.

    Args:
      error: the exception; its causes and contexts are examined too.
      folder: the run's folder.

    Returns:
      What happened, where, which checkpoint is the last one, and what to do; None for any other
      error.
    """
    for link in _chain(error):
        if isinstance(link, UserError):  # a later failure to close files hid it
            return str(link)
        if is_bucket(folder) and (line := describe(link, folder)):
            return line
        if fault := _fault(link, folder):
            what, advice = fault
            newest = newest_checkpoint(folder)
            last = f"; the last checkpoint, of step {newest.name}, is {newest}" if newest else ""
            return f"{what}{last}; {advice}"
    return None


def _fault(error: BaseException, folder: pathlib.Path) -> tuple[str, str] | None:
    """Returns what happened and what to do, or None if this error alone does not show it."""
    code, message = _code(error), str(error)
    match = _FILENAME.search(message)
    filename = getattr(error, "filename", None) or (match[1] if match else None)
    where = filename if isinstance(filename, str) else str(folder)
    path = pathlib.Path(where)
    if dead_reader := _DEAD_READER.search(message):
        number = int(dead_reader[1])
        how = f"was killed by {signal.Signals(-number).name}" if number < 0 else "died"
        what = f"{folder}: a reader process {how}, which happens if memory or /dev/shm runs out"
        return what, "lower data.workers or free memory; rerunning the command resumes it"
    if "No usable temporary directory" in message:
        details = message.partition("] ")[2] or message
        what = f"no folder for temporary files is writable ({details})"
        return what, "free space in one of them, or set TMPDIR to another folder"
    if code in FULL:
        what = f"{where}: cannot be written ({FULL[code]})"
        return what, "free disk space; rerunning the command resumes it"
    if code in UNUSABLE:
        what, advice = UNUSABLE[code]
        return f"{where}: cannot be used ({what})", advice
    if code == errno.EEXIST and path.is_symlink() and not path.exists():
        what = f"{where}: is a link to {path.readlink()}, which does not exist"
        return what, "create that folder, mount its disk, or use another folder"
    deleted = _deleted(path.absolute(), folder.absolute()) if filename else None
    if code == errno.ENOENT and deleted:
        advice = "rerunning the command resumes from the remaining checkpoints"
        return deleted_message(deleted), advice
    return None


def _deleted(path: pathlib.Path, folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the run's folder or its subfolder with `path` if it no longer exists, else None."""
    if not path.is_relative_to(folder):
        return None
    inside = path.relative_to(folder).parts[:-1]
    folders = [folder, *(folder / name for name in inside[:1])]
    return next((place for place in folders if not place.exists()), None)


def deleted_message(path: pathlib.Path) -> str:
    """Returns the message for a file or folder that disappeared while the run used it."""
    return f"{path}: was deleted or moved while the run used it, so nothing can be saved there"


def system_error(error: BaseException) -> int | None:
    """Returns the errno of an exception or, if it has none, of its causes; None if none has one."""
    return next((code for link in _chain(error) if (code := _code(link))), None)


def newest_checkpoint(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the last complete training state on disk, or None.

    After a failed save orbax's own answer may be wrong, so the folder is listed instead.
    """
    if is_bucket(folder):  # which may be what has failed
        return None
    try:
        saved = [path for path in folder.glob("checkpoints/*") if path.name.isdecimal()]
    except OSError:  # the fault itself may prevent the listing
        return None
    return max(saved, key=lambda path: int(path.name), default=None)


def _code(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno:
        return error.errno
    found = _CODE.search(str(error))
    return int(found[1] or found[2]) if found else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yields an exception with its causes and contexts.

    After a full disk, for example, a later error of another type may hide the first one.
    """
    seen, rest = set(), [error]
    while rest:
        link = rest.pop(0)
        if id(link) not in seen:
            seen.add(id(link))
            yield link
            rest += [x for x in (link.__cause__, link.__context__) if x is not None]
