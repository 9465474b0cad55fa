"""Writes TensorBoard event files synchronously, one record at a time.

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

from unet_jax.core.files import set_error_filename

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


class EventFile:
    """An event file in `folder`; an event that `add` has written survives a kill.

    TensorBoard no longer shows the events of earlier files in `folder` for steps from `purge_step`
    on.

    Raises:
      OSError: the disk is full, in any method.
    """

    def __init__(self, folder: pathlib.Path, purge_step: int):
        # TensorBoard reads files in the order of their names, so the stamp must exceed all others.
        names = [path.name for path in folder.glob("events.out.tfevents.*")]
        earlier = [int(found[1]) for n in names if (found := re.search(r"tfevents\.(\d+)\.", n))]
        stamp = max(int(time.time()), *(number + 1 for number in earlier), 0)
        self._path = folder / f"events.out.tfevents.{stamp:010}.{socket.gethostname()}"
        self._file = open(self._path, "xb")
        self.add(file_version="brain.Event:2")
        self.add(step=purge_step, session_log=events.SessionLog(status=events.SessionLog.START))

    def add(self, **fields: Any) -> None:
        """Writes an `Event` with these fields and flushes it."""
        data = events.Event(**{"wall_time": time.time()} | fields).SerializeToString()
        length = struct.pack("<Q", len(data))
        checks = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
        with set_error_filename(self._path):
            self._file.write(length + checks[0] + data + checks[1])
            self._file.flush()

    def close(self) -> None:
        with set_error_filename(self._path):
            self._file.close()
