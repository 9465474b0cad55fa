"""The lock of a run's folder, which gives it one writer at a time."""

import contextlib
import errno
import fcntl
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import IO

from unet_jax.core.bucket import is_bucket
from unet_jax.core.errors import UserError
from unet_jax.core.files import set_error_filename

LOCK = ".lock"
BUCKET_SECONDS = 60.0
# `flock` fails with these errors on a file system without locks.
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[Callable[[], bool]]:
    """Context manager that locks a folder: by `flock`, in a bucket by a lease.

    Args:
      folder: the folder, which exists unless it is in a bucket.

    Yields:
      A function that restores the lock if its file was deleted. It returns whether it is time to
      check the other files of the folder: in a bucket, where that takes several requests, once in
      `BUCKET_SECONDS`.

    Raises:
      UserError: another process holds the lock, also in the function, or the file system has no
        locks.
    """
    if is_bucket(folder):
        from unet_jax.runs.lease import leased

        due = time.monotonic()

        def check_lease() -> bool:
            nonlocal due
            check()
            if (now := time.monotonic()) < due:
                return False
            due = now + BUCKET_SECONDS
            return True

        with leased(folder, folder / LOCK) as check:
            yield check_lease
        return
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(_flock(folder))

        def restore() -> bool:
            nonlocal lock
            if not _is_at(folder / LOCK, lock):
                lock = stack.enter_context(_flock(folder))
            return True

        yield restore


def _flock(folder: pathlib.Path) -> IO[str]:
    """Locks the folder as long as the returned file is open; raises `UserError` if it cannot."""
    lock = open(folder / LOCK, "w")
    try:
        with set_error_filename(folder / LOCK):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lock
    except BlockingIOError:
        problem = (
            "another process is writing this run; wait for it or stop it, or use another folder "
            "with --workdir=..."
        )
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        problem = (
            f"the file system does not support locks ({error.strerror}), so that two processes "
            f"could write one run; use a folder on a local disk with --workdir=..., or mount the "
            f"share with locks"
        )
    lock.close()
    raise UserError(f"{folder}: {problem}")


def _is_at(path: pathlib.Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
