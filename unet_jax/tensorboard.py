"""A file of TensorBoard events, written by the process itself, a record at a time.

tensorboardX brings the records' content. Its own writer has a thread for them: after an error
there, such as a full disk, the run would wait for that thread for ever; and it flushes by the
clock, so a kill, or a clock set back, could cost events of minutes.
"""

import pathlib
import re
import socket
import struct
import sys
import time
from typing import Any

from unet_jax.files import naming

# tensorboardX imports PyTorch where it is installed: more than a second and 200 MB at each start,
# for nothing that is used here.
modules: Any = sys.modules
modules.setdefault("torch", None)
try:
    from tensorboardX import summary as summary
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import masked_crc32c
finally:
    if modules["torch"] is None:
        del modules["torch"]

events: Any = event_pb2  # generated: no checker of types sees what is in it


class EventFile:
    """Where `add` has returned, a kill loses nothing. Raises OSError where the disk is full.

    What earlier files of `folder` have for steps from `purge_step` on is no longer shown.
    """

    def __init__(self, folder: pathlib.Path, purge_step: int):
        # Files are read in the order of their names: the last comes last whatever the clock says.
        names = [path.name for path in folder.glob("events.out.tfevents.*")]
        earlier = [int(found[1]) for n in names if (found := re.search(r"tfevents\.(\d+)\.", n))]
        stamp = max(int(time.time()), *(number + 1 for number in earlier), 0)
        self._path = folder / f"events.out.tfevents.{stamp:010}.{socket.gethostname()}"
        self._file = open(self._path, "xb")
        self.add(file_version="brain.Event:2")
        self.add(step=purge_step, session_log=events.SessionLog(status=events.SessionLog.START))

    def add(self, **fields: Any) -> None:
        """Writes an `Event` of these fields, now."""
        data = events.Event(**{"wall_time": time.time()} | fields).SerializeToString()
        length = struct.pack("<Q", len(data))
        checks = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
        with naming(self._path):
            self._file.write(length + checks[0] + data + checks[1])
            self._file.flush()

    def close(self) -> None:
        with naming(self._path):
            self._file.close()
