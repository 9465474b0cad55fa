"""Log and checkpoints in a bucket: batches, complete checkpoints only, nothing renamed."""

import contextlib

import emulator
import events
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_jax.core import bucket as buckets
from unet_jax.core.bucket import list_objects, remove_tree
from unet_jax.core.files import path_of
from unet_jax.runs import checkpoint_files, record_file, tensorboard
from unet_jax.runs.checkpoint_files import COMMIT, METADATA
from unet_jax.runs.checkpoints import Checkpoints
from unet_jax.runs.lock import LOCK, locked
from unet_jax.runs.log import METRICS, Writer, read_history


def steps(folder, split: str = "train") -> list[int]:
    return [line["step"] for line in read_history(folder) if line["split"] == split]


def test_a_log_in_a_bucket_is_written_in_batches(bucket):
    with contextlib.closing(Writer(bucket, 0)) as writer:
        before = emulator.requests()
        for step in range(1, 101):
            writer.write(step, step / 10, "train", {"loss": 1.0, "dice": 0.5})
        assert emulator.requests() == before
        writer.flush()
        writer.flush()
        assert emulator.requests() - before == 2  # the records and the events
        assert steps(bucket) == [*range(1, 101)]
    assert len(list_objects(bucket)) == 2
    assert events.read(bucket)["scalars"]["train/loss"] == [*range(1, 101)]


def test_what_was_logged_up_to_a_checkpoint_is_there_once_after_a_kill(bucket):
    killed = Writer(bucket, 0)
    for step in range(1, 6):
        killed.write(step, step, "train", {"loss": 1.0})
        if step == 4:
            killed.write(step, step, "validation", {"loss": 2.0})
            killed.flush()  # before the state of step 4 is saved
    del killed  # step 5 is lost
    with contextlib.closing(Writer(bucket, 4)) as writer:
        writer.write(4, 4, "validation", {"loss": 2.0})
        for step in range(5, 8):
            writer.write(step, step, "train", {"loss": 1.0})
    assert steps(bucket) == [*range(1, 8)]
    assert steps(bucket, "validation") == [4]
    assert events.read(bucket)["scalars"]["train/loss"] == [1, 2, 3, 4, 5, 6, 7]


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3), st.booleans()), max_size=5))
def test_no_record_is_lost_or_doubled_whenever_a_run_is_killed(storage, lives):
    """Each life logs steps up to a checkpoint and some more, and is killed or stops in order."""
    folder, checkpoint = path_of(f"gs://{emulator.BUCKET}/lives"), 0
    remove_tree(folder)
    for to_checkpoint, more, killed in lives:
        writer = Writer(folder, checkpoint)
        for step in range(checkpoint + 1, checkpoint + to_checkpoint + more + 1):
            writer.write(step, step, "train", {"loss": 1.0})
            if step == checkpoint + to_checkpoint:
                writer.flush()
        checkpoint += to_checkpoint
        if not killed:
            writer.close()
        found = steps(folder)
        assert found[:checkpoint] == [*range(1, checkpoint + 1)]
        assert len(found) == checkpoint + (0 if killed else more)


def test_old_events_are_not_written_again_and_new_ones_after_a_while(bucket, monkeypatch):
    monkeypatch.setattr(tensorboard, "OBJECT_BYTES", 500)
    for module in (tensorboard, record_file):
        monkeypatch.setattr(module, "BATCH_SECONDS", 0.0)
    with contextlib.closing(Writer(bucket, 0)) as writer:
        for step in range(1, 40):
            writer.write(step, step, "train", {"loss": 1.0})
            assert steps(bucket) == [*range(1, step + 1)]
    found = list_objects(bucket)
    sizes = [info["size"] for name, info in found.items() if name != METRICS]
    assert 2 < len(sizes) < 10
    assert max(sizes) < 700
    assert events.read(bucket)["scalars"]["train/loss"] == [*range(1, 40)]


def tree(value: float) -> dict:
    return {"a": np.full((3, 2), value, np.float32), "b": {"c": np.arange(4)}}


def opened(folder, read_only: bool = False):
    return contextlib.closing(Checkpoints(folder, 2, {"name": "x"}, read_only))


def complete(folder) -> list[str]:
    return sorted(path.name for path in checkpoint_files.listed(folder / "checkpoints"))


def saved(folder, *numbers: int) -> None:
    with opened(folder) as checkpoints:
        for step in numbers:
            checkpoints.save(step, {"model": tree(step)})


@pytest.mark.slow
# Reading what is damaged leaves requests pending in orbax, as in test_checkpoints.py.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_checkpoints_in_a_bucket(bucket):
    saved(bucket, 1, 2, 3)
    assert complete(bucket) == ["2", "3"]
    for name in (COMMIT, METADATA):  # as a kill leaves it that comes while it is deleted
        (bucket / "checkpoints/3" / name).unlink()
    with opened(bucket, read_only=True) as reader:
        step, items = reader.restore_latest({"model": tree(0)})
        assert (step, items["model"]["a"][0, 0]) == (2, 2.0)
    assert list_objects(bucket / "checkpoints/3")  # a reader changes nothing
    saved(bucket, 4)
    assert complete(bucket) == ["2", "4"]
    assert not list_objects(bucket / "checkpoints/3")
    # A damaged one is copied aside, and the one before it restored.
    for name in list_objects(bucket / "checkpoints/4/model"):
        if "/d/" in f"/{name}":
            (bucket / "checkpoints/4/model" / name).write_bytes(b"damaged")
    with opened(bucket) as writer:
        assert writer.restore_latest({"model": tree(0)})[0] == 2
    assert complete(bucket) == ["2"]
    assert (bucket / "damaged/checkpoints-4" / COMMIT).exists()


@pytest.mark.slow
def test_checkpoints_can_be_copied_to_a_bucket_and_back(bucket, tmp_path):
    there, back = tmp_path / "there", tmp_path / "back"
    saved(there, 1, 2)
    buckets.upload(there, bucket)
    assert complete(bucket) == ["1", "2"]
    for name in list_objects(bucket):
        if name.endswith(COMMIT):  # earlier versions of orbax wrote none on a disk
            (bucket / name).unlink()
    assert complete(bucket) == []
    with opened(bucket) as writer:
        assert writer.restore_latest({"model": tree(0)})[0] == 2
    assert complete(bucket) == ["1", "2"]
    saved(bucket, 3)
    for name in list_objects(bucket):
        (back / name).parent.mkdir(parents=True, exist_ok=True)
        (back / name).write_bytes((bucket / name).read_bytes())
    with opened(back) as writer:
        step, items = writer.restore_latest({"model": tree(0)})
        assert (step, items["model"]["a"][0, 0]) == (3, 3.0)
    saved(back, 4)
    assert sorted(path.name for path in (back / "checkpoints").iterdir()) == ["3", "4"]


@pytest.mark.slow
def test_a_checkpoint_survives_a_bad_network(bucket, monkeypatch, capsys):
    monkeypatch.setattr(buckets, "NOTE_SECONDS", 0)  # it may finish within milliseconds
    for step, faults in enumerate(([503, None], [None, "cut"], [500, "cut", None, None]), 1):
        emulator.fail(faults * 3)
        saved(bucket, step)
        emulator.fail(faults)
        with opened(bucket, read_only=True) as reader:
            found, items = reader.restore_latest({"model": tree(0)})
            assert (found, items["model"]["a"][0, 0]) == (step, step)
    output = capsys.readouterr().out
    assert "the bucket has not finished for 0 s" in output
    assert "the request is repeated" in output


@pytest.mark.slow
def test_the_best_model_in_a_bucket_replaces_the_previous_one(bucket):
    with opened(bucket) as checkpoints:
        for step, loss in ((1, 2.0), (2, 1.0), (2, 0.5)):
            checkpoints.save_best(step, tree(step + loss), {"loss": loss})
    with opened(bucket, read_only=True) as reader:
        assert [best.step for best in reader.bests] == [2]
        step, model, *_ = reader.restore_model("best", tree(0))
        assert (step, model["a"][0, 0]) == (2, 2.5)
    assert [path.name for path in checkpoint_files.listed(bucket / "best")] == ["2"]


def test_a_folder_in_a_bucket_is_leased_while_it_is_written(bucket):
    with locked(bucket) as check:
        assert list(list_objects(bucket)) == [LOCK]
        check()
    assert not bucket.exists()


def test_checkpoints_of_a_bucket_that_refuses_are_not_called_damaged(bucket, monkeypatch):
    class Refused(Exception):
        code = 403

    def refuse(*_):
        raise Refused

    with contextlib.closing(Checkpoints(bucket, 2, {})) as saved:
        saved.save(3, {"model": tree(3)})
        saved.wait()
    monkeypatch.setattr("unet_jax.runs.checkpoint_io.open_manager", refuse)
    for read_only in (False, True):
        with pytest.raises(Refused):
            Checkpoints(bucket, 2, {}, read_only=read_only)
