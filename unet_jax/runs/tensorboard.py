"""Writes TensorBoard event files synchronously, one record at a time; in a bucket in batches.

tensorboardX provides the format of the records. Its own writer uses a thread: after an error in
it, such as a full disk, the run would wait for the thread forever. It also flushes at intervals of
the clock, so that a kill, or a clock that is set back, could lose minutes of events.
"""

import pathlib
import re
import socket
import struct
import sys
import time
from typing import Any

from unet_jax.core.bucket import is_bucket
from unet_jax.core.files import set_error_filename, write_all
from unet_jax.runs.record_file import BATCH_SECONDS

# tensorboardX imports PyTorch if it is installed, which costs more than a second and 200 MB at each
# start and is not needed here.
modules: Any = sys.modules
modules.setdefault("torch", None)
try:
    from tensorboardX import summary as summary
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import masked_crc32c
finally:
    if modules["torch"] is None:
        del modules["torch"]

events: Any = event_pb2  # generated code, which type checkers cannot analyse


OBJECT_BYTES = 2**20  # size from which events in a bucket go to a further object


class EventFile:
    """An event file in `folder`; an event that `add` has written survives a kill.

    TensorBoard no longer shows the events of earlier files in `folder` for steps from `purge_step`
    on.

    Raises:
      OSError: the disk is full, in any method.
    """

    def __init__(self, folder: pathlib.Path, purge_step: int):
        self._path = folder / _name_after(newest_stamp(folder))
        self._file = open(self._path, "xb")
        for fields in _first(purge_step):
            self.add(**fields)

    def add(self, **fields: Any) -> None:
        """Writes an `Event` with these fields and flushes it."""
        with set_error_filename(self._path):
            self._file.write(record(**fields))
            self._file.flush()

    def flush(self) -> None:
        """Does nothing, because every event is written at once."""

    def abandon(self) -> None:
        """Does nothing for the same reason."""

    def close(self) -> None:
        with set_error_filename(self._path):
            self._file.close()


class BucketEvents:
    """Events in a folder of a bucket, which are written at most every `BATCH_SECONDS`.

    The newest object is written again as it grows, up to `OBJECT_BYTES`; then a further one begins,
    so that a long run with many images does not write all of them again and again.

    Raises:
      Unreachable: an object cannot be written, in any method.
    """

    def __init__(self, folder: pathlib.Path, purge_step: int):
        self._folder, self._stamp = folder, newest_stamp(folder)
        self._last = time.monotonic()
        self._begin()
        for fields in _first(purge_step)[1:]:
            self.add(**fields)

    def _begin(self) -> None:
        self._path = self._folder / _name_after(self._stamp)
        self._stamp = _stamp_of(self._path.name)
        self._content, self._written = bytearray(record(**_first(0)[0])), 0

    def add(self, **fields: Any) -> None:
        """Adds an `Event` with these fields."""
        self._content += record(**fields)
        if time.monotonic() - self._last >= BATCH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes all events."""
        if self._written == len(self._content):
            return
        write_all({self._path: bytes(self._content)})
        self._written, self._last = len(self._content), time.monotonic()
        if self._written >= OBJECT_BYTES:
            self._begin()
            self._written = len(self._content)  # an object without events is not written

    def abandon(self) -> None:
        """Forgets the events that are not written."""
        self._written = len(self._content)

    def close(self) -> None:
        self.flush()


def open_events(folder: pathlib.Path, purge_step: int) -> EventFile | BucketEvents:
    """Begins a file of events in a folder; see `EventFile`."""
    return (BucketEvents if is_bucket(folder) else EventFile)(folder, purge_step)


def record(**fields: Any) -> bytes:
    """Returns an `Event` with these fields as it stands in a file."""
    data = events.Event(**{"wall_time": time.time()} | fields).SerializeToString()
    length = struct.pack("<Q", len(data))
    checks = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
    return length + checks[0] + data + checks[1]


def newest_stamp(folder: pathlib.Path) -> int:
    """Returns the number in the name of the newest event file, 0 if there is none."""
    names = [path.name for path in folder.glob("events.out.tfevents.*")]
    return max((_stamp_of(name) for name in names), default=0)


def _stamp_of(name: str) -> int:
    found = re.search(r"tfevents\.(\d+)\.", name)
    return int(found[1]) if found else 0


def _name_after(newest: int) -> str:
    """Returns the name of the next file, which TensorBoard must read after all others."""
    stamp = max(int(time.time()), newest + 1)
    return f"events.out.tfevents.{stamp:010}.{socket.gethostname()}"


def _first(purge_step: int) -> list[dict[str, Any]]:
    start = events.SessionLog(status=events.SessionLog.START)
    return [{"file_version": "brain.Event:2"}, {"step": purge_step, "session_log": start}]
