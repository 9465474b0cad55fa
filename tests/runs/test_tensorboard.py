import contextlib
import struct
import subprocess
import sys

import events
import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from unet_jax.runs.tensorboard import EventFile, summary


def event_files(folder):
    return sorted(folder.glob("events.out.tfevents.*"))


def test_a_record_is_flushed_with_its_checksums(tmp_path):
    with contextlib.closing(EventFile(tmp_path, purge_step=7)) as file:
        file.add(step=9, summary=summary.scalar("train/loss", 0.5), wall_time=12.0)
        (path,) = event_files(tmp_path)
        data, records = path.read_bytes(), []
    while data:
        (length,) = struct.unpack_from("<Q", data)
        head, body, tail = data[:8], data[12 : 12 + length], data[12 + length : 16 + length]
        assert struct.unpack("<I", data[8:12]) == (masked_crc32c(head),)
        assert struct.unpack("<I", tail) == (masked_crc32c(body),)
        records.append(Event.FromString(body))
        data = data[16 + length :]
    version, start, loss = records
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (7, start.session_log.START)
    assert (loss.step, loss.wall_time, loss.summary.value[0].simple_value) == (9, 12.0, 0.5)


@pytest.mark.parametrize("later", [2000.0, 1000.0, 1.0])
def test_a_later_file_sorts_last_whatever_the_clock(tmp_path, monkeypatch, later):
    """TensorBoard reads files in the order of their names and purges earlier events."""
    for number, clock in enumerate((1000.0, later, 500.0)):
        monkeypatch.setattr("time.time", lambda clock=clock: clock)
        with contextlib.closing(EventFile(tmp_path, purge_step=number)) as file:
            file.add(step=number, summary=summary.scalar("order", number))
        monkeypatch.undo()
    assert len(event_files(tmp_path)) == 3
    assert events.read(tmp_path)["scalars"]["order"] == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("before", ["", "import torch; "])
def test_events_neither_import_nor_hide_pytorch(before):
    code = f"import sys; {before}import unet_jax.runs.log as writer; assert writer.summary; "
    code += "print('torch' in sys.modules); import torch; print(torch.ones(2).sum().item())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(bool(before)), "2.0"]
