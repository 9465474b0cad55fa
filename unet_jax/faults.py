"""Faults from outside that end a run, told in one line: a full disk, a reader process that died."""

import contextlib
import errno
import pathlib
import re
import signal
from collections.abc import Iterator

from unet_jax.errors import UserError

# No space, no quota, and a file beyond what one may have here (`ulimit -f`).
FULL = {
    errno.ENOSPC: "no space is left on its disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file would be larger than this process may write",
}
# Below orbax, C++ has only words for an error and its file, grain for a process that died.
_CODE = re.compile(r"os_error_code='(\d+)'|\[Errno (\d+)\]")
_PLACE = re.compile(r'(?:local file|writing:) "([^"]+)"')
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
        code = _code(link)
        if code in FULL:
            found = _PLACE.search(str(link))
            where = getattr(link, "filename", None) or (found[1] if found else folder)
            what, todo = f"{where}: cannot be written, {FULL[code]}", "make room"
        elif found := _DIED.search(str(link)):
            code = int(found[1])
            by = f"was killed by {signal.Signals(-code).name}" if code < 0 else "died"
            what = f"{folder}: a reader process {by}, as happens where memory or /dev/shm run out"
            todo = "lower data.workers or free memory"
        else:
            continue
        newest = newest_checkpoint(folder)
        kept = f"; the last checkpoint, of step {newest.name}, is {newest}" if newest else ""
        return f"{what}{kept}; {todo}, and the same command goes on"
    return None


def system_error(error: BaseException) -> int | None:
    """The number of the system's error that it is, or came of."""
    return next((code for link in _chain(error) if (code := _code(link))), None)


def newest_checkpoint(folder: pathlib.Path) -> pathlib.Path | None:
    """The last training state that is whole on disk; unlike orbax, after a save that failed."""
    saved = [path for path in folder.glob("checkpoints/*") if path.name.isdecimal()]
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
