import contextlib
import sys
import types

import numpy as np
import pytest
from made_files import refused

from unet_jax.runs.log import METRICS, Writer, read_history
from unet_jax.runs.progress import PixelProgress, Progress


def test_lines_are_on_disk_as_soon_as_they_are_written(tmp_path):
    with contextlib.closing(Writer(tmp_path, 0)) as writer:
        writer.write(3, 0.51234567, "train", {"loss": 0.25})
        (line,) = read_history(tmp_path)
    assert line.pop("time") > 1.7e9
    assert line == {"step": 3, "epoch": 0.5123, "split": "train", "loss": 0.25}
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_a_resumed_run_drops_the_events_after_its_checkpoint(tmp_path):
    with contextlib.closing(Writer(tmp_path, 0)) as writer:
        for step in (1, 2, 3):
            writer.write(step, step, "train", {"loss": 1.0})
            writer.write(step, step, "validation", {"loss": 2.0})
        writer.write(1, 1, "test", {"loss": 3.0})
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 4, "epo')  # a kill cut it short
    with contextlib.closing(Writer(tmp_path, 2)):
        pass
    kept = [(line["step"], line["split"]) for line in read_history(tmp_path)]
    # The evaluation at step 2 is made again, and that of the test split at the end.
    assert kept == [(1, "train"), (1, "validation"), (2, "train")]


RECORD = '{"step": 1, "epoch": 0.5, "split": "train", "loss": 1.0, "time": 0.0}'


@pytest.mark.parametrize(
    "line",
    [
        "",
        "3",
        "[]",
        "{}",
        "\0\0\0",
        RECORD[:-9],
        RECORD.replace('"train"', "3"),
        RECORD.replace("0.5", "[]"),
        RECORD.replace("1.0", '"1.0"'),
        RECORD.replace("1,", "1.5,"),
        RECORD.replace("1.0", "1" * 400),
        RECORD.replace("1.0", "9" * 5000),
        RECORD.replace("1.0", "[" * 100_000),
        RECORD.replace("1.0", "\xff"),
    ],
)
def test_a_line_that_is_no_record_is_named_and_nothing_lost(tmp_path, line):
    content = f"{RECORD}\n{line}\n{RECORD}\n".encode("latin-1")
    (tmp_path / METRICS).write_bytes(content)
    for read in (read_history, lambda folder: Writer(folder, 1)):
        message = refused(read, tmp_path, METRICS, "line 2 is not a record", "fix or remove")
        assert len(message) < 400
    assert (tmp_path / METRICS).read_bytes() == content
    (tmp_path / METRICS).write_bytes(content[: content.rindex(b"{")])
    refused(read_history, tmp_path, "line 2")


@pytest.mark.parametrize("value", ["null", "NaN", "1", "-1e-3"])
def test_values_may_be_missing(tmp_path, value):
    (tmp_path / METRICS).write_text(RECORD.replace("1.0", value) + "\n" + RECORD)
    assert len(read_history(tmp_path)) == 2


def test_a_truncated_last_line_is_ignored(tmp_path):
    for length in range(len(RECORD)):
        (tmp_path / METRICS).write_text(f"{RECORD}\n{RECORD[:length]}")
        assert len(read_history(tmp_path)) == 1


def test_progress_off_a_terminal_is_lines_with_loss_pace_and_time_left(capsys, monkeypatch):
    clock = iter([100.0, 110.0, 110.0, 120.0])
    read = types.SimpleNamespace(perf_counter=lambda: next(clock))
    monkeypatch.setattr("unet_jax.runs.progress.time", read)
    progress = Progress(start_step=0, total_steps=20, batch_size=4)
    assert progress.update(5, loss=0.5) == 2.0
    assert capsys.readouterr().out == "step 5/20  loss 0.5000  2.0 images/s  0:00:30 left\n"
    assert progress.update(5, loss=0.5) is None  # no step since, so no pace
    assert capsys.readouterr().out == "step 5/20  loss 0.5000\n"
    progress.close()


def test_progress_on_a_terminal_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    progress = Progress(start_step=0, total_steps=20, batch_size=4)
    progress.update(5, loss=0.5)
    progress.say("validation [0.5]")
    progress.close()
    out = capsys.readouterr().out
    assert "5/20" in out
    assert "loss 0.5000" in out
    assert "validation [0.5]" in out


def test_without_tensorboardx_there_are_lines_but_no_events(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("unet_jax.runs.log.summary", None)
    with contextlib.closing(Writer(tmp_path, 0)) as writer:
        writer.describe({"seed": 0})
        writer.write(1, 1, "train", {"loss": 1.0})
        writer.show(1, "validation/a", np.zeros((4, 8, 3), np.uint8))
    assert "pip install tensorboardX" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == [METRICS]
    assert len(read_history(tmp_path)) == 1


def test_progress_of_a_prediction_is_a_line_now_and_then(capsys, monkeypatch):
    clock = iter([100.0, 105.0, 110.0, 112.0, 121.0])
    read = types.SimpleNamespace(perf_counter=lambda: next(clock))
    monkeypatch.setattr("unet_jax.runs.progress.time", read)
    progress = PixelProgress(8_000_000)
    for pixels in (500_000, 1_500_000, 2_000_000, 2_000_000):
        progress.advance(pixels, "a.png")
    progress.close()
    assert capsys.readouterr().out.splitlines() == [
        "25%  0:00:30 left  0.20 Mpixel/s  a.png",
        "75%  0:00:07 left  0.29 Mpixel/s  a.png",
    ]


def test_progress_of_a_prediction_on_a_terminal_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    progress = PixelProgress(8)
    progress.advance(4, "a.png")
    progress.close()
    out = capsys.readouterr().out
    assert "50%" in out
    assert "a.png" in out


def test_a_deleted_log_is_written_again_completely(tmp_path):
    with contextlib.closing(Writer(tmp_path, 0)) as writer:
        for step in (1, 2, 3):
            writer.write(step, step, "train", {"loss": 1.0})
            (tmp_path / METRICS).unlink()
        writer.write(4, 4, "train", {"loss": 1.0})
    assert [line["step"] for line in read_history(tmp_path)] == [1, 2, 3, 4]


def test_a_file_name_on_the_bar_of_a_terminal_is_no_markup(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    progress = PixelProgress(10)
    progress.advance(5, "land [/b].png")
    progress.close()
    assert "land [/b].png" in capsys.readouterr().out
