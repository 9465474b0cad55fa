"""A disk that fills up."""

import errno
import io
import os
import types

import pytest


def fill_disk(monkeypatch: pytest.MonkeyPatch, module: types.ModuleType, room: int) -> None:
    """What `module` opens for bytes takes `room` of them in all, as a full disk would."""

    class Full(io.FileIO):
        def write(self, data) -> int:
            nonlocal room
            if not room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = super().write(memoryview(data)[:room])
            room -= written
            return written

    def full_open(path, mode="r"):
        return io.BufferedWriter(Full(path, mode)) if mode in ("wb", "ab") else open(path, mode)

    monkeypatch.setattr(module, "open", full_open, raising=False)
