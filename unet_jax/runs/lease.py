"""One writer at a time for a folder in a bucket, which has no locks: a lease.

The lease is an object that names its owner and the time at which it expires. It is written only if
its generation (the number that a bucket gives to each version of an object) is still the one that
was read, so that of two processes only one can take it. The owner renews it in the background and
deletes it at its end. If the owner was killed, another process takes the lease over as soon as

- the owner ran on the same machine and exists no longer, or
- the lease has expired by its own time stamp, and was not renewed while the other process watched
  it for a while, in case the clocks of the two machines differ, or
- it was not renewed while the other process watched it for the whole duration of a lease.
"""

import contextlib
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from unet_jax.core.bucket import SCHEME, Unreachable, reported
from unet_jax.core.errors import UserError
from unet_jax.core.streams import say

LEASE_SECONDS = 60.0  # a lease that is not renewed expires after this time
RENEW_SECONDS = 15.0
WATCH_SECONDS = 20.0  # an expired lease must not be renewed for this time, before it is taken over
POLL_SECONDS = 1.0


def elapsed() -> float:
    """Returns a time that no one sets, seconds; on Linux it includes a suspend of the machine."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Conflict(Exception):
    """An object does not have the expected generation."""


class Store(Protocol):
    """One object, which is written under the condition of its generation."""

    def read(self) -> tuple[bytes, int] | None:
        """Returns content and generation; None if the object does not exist."""

    def write(self, content: bytes, generation: int) -> int:
        """Replaces that generation (0: no object); returns the new one, or raises `Conflict`."""

    def delete(self, generation: int) -> None:
        """Deletes that generation, or raises `Conflict`."""


class BucketObject:
    """An object in a bucket as a `Store`.

    Args:
      path: its path.
    """

    def __init__(self, path: pathlib.Path):
        from google.cloud import storage

        self._path = path
        bucket, _, name = str(path).removeprefix(SCHEME).partition("/")
        with reported(path):
            self._bucket, self._name = storage.Client().bucket(bucket), name

    def read(self) -> tuple[bytes, int] | None:
        from google.api_core.exceptions import NotFound

        with reported(self._path):
            while blob := self._bucket.get_blob(self._name):
                # It may be replaced between the two requests.
                with contextlib.suppress(NotFound):
                    return blob.download_as_bytes(), int(blob.generation or 0)
        return None

    def write(self, content: bytes, generation: int) -> int:
        from google.api_core.exceptions import PreconditionFailed

        blob = self._bucket.blob(self._name)
        with reported(self._path):
            try:
                blob.upload_from_string(content, if_generation_match=generation)
            except PreconditionFailed as error:
                raise Conflict from error
        return int(blob.generation or 0)

    def delete(self, generation: int) -> None:
        from google.api_core.exceptions import NotFound, PreconditionFailed

        with reported(self._path):
            try:
                self._bucket.blob(self._name).delete(if_generation_match=generation)
            except (NotFound, PreconditionFailed) as error:
                raise Conflict from error


class Lease:
    """The right to write a folder, from `acquire` to `release`.

    Args:
      store: the object that holds it.
      folder: the folder, for messages.
      clock: returns the time since 1970, seconds.
      monotonic: see `elapsed`.
      sleep: waits for a number of seconds.
    """

    def __init__(
        self,
        store: Store,
        folder: object,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = elapsed,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self._store, self._folder = store, folder
        self._clock, self._monotonic, self._sleep = clock, monotonic, sleep
        self._owner = {"id": uuid.uuid4().hex, "host": socket.gethostname(), **_process()}
        self._generation = 0
        self._valid_until = -float("inf")  # by `monotonic`
        self._lost = False
        self._mutex = threading.Lock()

    def acquire(self) -> None:
        """Takes the lease, waiting for that of an owner that may have been killed to expire.

        Raises:
          UserError: another process holds it, and renews it or is alive.
        """
        watched, since = None, self._monotonic()
        while True:
            found = self._store.read()
            generation = found[1] if found else 0
            if found and found[0]:  # the lock of a local run, if that was copied, is empty
                owner = _parse(found[0])
                if watched is None:
                    watched, since = generation, self._monotonic()
                    if not is_dead(owner):
                        self._announce(owner)
                if generation != watched or is_alive(owner):
                    raise self._taken(owner)
                if not (is_dead(owner) or self._expired(owner, self._monotonic() - since)):
                    self._sleep(POLL_SECONDS)
                    continue
            start = self._monotonic()
            try:
                self._write(generation)
                return
            except Conflict:
                now = self._store.read()
                if now and self._is_ours(now[0]):  # the answer to a first request was lost
                    self._generation, self._valid_until = now[1], start + LEASE_SECONDS
                    return
                if now:
                    raise self._taken(_parse(now[0])) from None

    def check(self) -> None:
        """Raises a `UserError` if another process may hold the lease."""
        if self._monotonic() > self._valid_until:  # the process was suspended, for example
            self.renew()
        if self._lost or self._monotonic() > self._valid_until:
            raise UserError(
                f"{self._folder}: the lease of this folder "
                + ("was taken by another process" if self._lost else "could not be renewed in time")
                + ", so that this one stops writing; rerunning the command resumes the run"
            )

    def renew(self) -> None:
        """Extends the lease, unless another process has it; an error of the bucket is ignored.

        If the bucket does not answer until the lease expires, `check` raises.
        """
        with self._mutex, contextlib.suppress(Unreachable):
            if self._lost:
                return
            try:
                self._write(self._generation)
            except Conflict:
                now = self._store.read()
                if now is None:  # someone deleted it
                    with contextlib.suppress(Conflict):
                        self._write(0)
                elif self._is_ours(now[0]):  # the answer to an earlier request was lost
                    self._generation = now[1]
                    with contextlib.suppress(Conflict):
                        self._write(now[1])
                else:
                    self._lost = True

    def release(self) -> None:
        """Deletes the lease, unless another process has it."""
        with self._mutex, contextlib.suppress(Conflict, Unreachable):
            if not self._lost:
                self._store.delete(self._generation)
            self._lost = True

    def _write(self, generation: int) -> None:
        start = self._monotonic()
        content = self._owner | {"expires": self._clock() + LEASE_SECONDS}
        self._generation = self._store.write(json.dumps(content).encode(), generation)
        self._valid_until = start + LEASE_SECONDS

    def _is_ours(self, content: bytes) -> bool:
        return _parse(content).get("id") == self._owner["id"]

    def _expired(self, owner: dict[str, Any], watched: float) -> bool:
        expires = owner.get("expires")
        by_stamp = not isinstance(expires, int | float) or self._clock() > expires
        return watched > LEASE_SECONDS or (by_stamp and watched > WATCH_SECONDS)

    def _announce(self, owner: dict[str, Any]) -> None:
        if not is_alive(owner):
            say(
                f"note         {self._folder} was last written by a process on "
                f"{owner.get('host', 'another host')} that did not release it; waiting for up to "
                f"{LEASE_SECONDS:.0f} s whether it still runs"
            )

    def _taken(self, owner: dict[str, Any]) -> UserError:
        return UserError(
            f"{self._folder}: another process (on {owner.get('host', 'another host')}) is writing "
            f"this run; wait for it or stop it, or use another folder with --workdir=..."
        )


@contextlib.contextmanager
def leased(folder: pathlib.Path, path: pathlib.Path) -> Iterator[Callable[[], None]]:
    """Context manager that holds the lease of a folder in a bucket and renews it.

    Args:
      folder: the folder.
      path: the object of the lease.

    Yields:
      A function that raises `UserError` if the lease is lost.

    Raises:
      UserError: another process holds the lease.
    """
    lease = Lease(BucketObject(path), folder)
    lease.acquire()
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(RENEW_SECONDS):
            lease.renew()

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield lease.check
    finally:
        ended.set()
        thread.join(RENEW_SECONDS)
        lease.release()


def is_dead(owner: dict[str, Any]) -> bool:
    """Returns whether the owner ran on this machine and certainly exists no longer."""
    here = _process()
    return _is_here(owner, here) and owner.get("started") != _started(owner.get("pid"))


def is_alive(owner: dict[str, Any]) -> bool:
    """Returns whether the owner is a process of this machine that runs now."""
    here = _process()
    return _is_here(owner, here) and owner.get("started") == _started(owner.get("pid"))


def _is_here(owner: dict[str, Any], here: dict[str, Any]) -> bool:
    names = ("boot", "pid_namespace")
    return all(here[name] and owner.get(name) == here[name] for name in names)


def _process() -> dict[str, Any]:
    """Identifies this process: its number means something only in its PID namespace."""
    boot = namespace = ""
    with contextlib.suppress(OSError):  # only Linux has these
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    pid = os.getpid()
    return {"boot": boot, "pid_namespace": namespace, "pid": pid, "started": _started(pid)}


def _started(pid: object) -> int | None:
    """Returns when a process started, in clock ticks since the boot; None if there is none."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])


def _parse(content: bytes) -> dict[str, Any]:
    try:
        owner = json.loads(content)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}
