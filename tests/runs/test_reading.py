"""Reading a run that is training: its checkpoints come and go while they are read."""

import contextlib
import shutil
import threading
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from made_checkpoints import MODEL, best_at, checkpoints, scaled, state_at

from unet_jax.core.errors import UserError
from unet_jax.core.files import write_json
from unet_jax.runs.checkpoint_io import numbered, tree_shapes
from unet_jax.runs.checkpoints import Checkpoints
from unet_jax.runs.folder import CONFIG, read_config


@contextlib.contextmanager
def training(folder, stop_after):
    """A writer that saves and deletes as fast as it can, each step better than the one before."""
    stop = threading.Event()
    failed = []

    def write():
        try:
            with checkpoints(folder, keep=1) as saved:
                step = 0
                while not stop.is_set() and step < stop_after:
                    step += 1
                    saved.save(step, state_at(step))
                    saved.save_best(step, scaled(MODEL, step), best_at(step))
                    write_json(folder / CONFIG, {"config": {"step": step}})
        except Exception as error:
            failed.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        # Saves are in the background: the config may be there before the checkpoints are.
        kinds = [folder / name for name in ("checkpoints", "best")]
        while writer.is_alive() and not ((folder / CONFIG).exists() and all(map(numbered, kinds))):
            time.sleep(0.01)
        yield writer
    finally:
        stop.set()
        writer.join()
        assert not failed


# When one read fails, orbax leaves, and the others that it had begun complain of it.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_run_that_saves_and_deletes_is_never_called_damaged(tmp_path, capsys):
    """Weights and thresholds are of one step, and no step is earlier than one seen before."""
    seen = {"best": 0, "last": 0}
    with training(tmp_path, stop_after=400) as writer:
        for _ in range(30):
            assert read_config(tmp_path)["step"] > 0
            with checkpoints(tmp_path, read_only=True) as saved:
                assert saved.model_shapes() == tree_shapes(MODEL)
                for which in seen:
                    found = saved.restore_model(which, MODEL)
                    expected = scaled(MODEL, found.step)
                    jax.tree.map(np.testing.assert_array_equal, found.model, expected)
                    thresholds = best_at(found.step)["thresholds"] if which == "best" else {}
                    assert found.thresholds == thresholds
                    assert found.step >= seen[which]
                    seen[which] = found.step
        assert writer.is_alive()
    assert "damaged" not in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("which", "place"), [("last", "checkpoints/5"), ("best", "best/5")])
def test_a_damaged_one_is_named_soon_all_the_same(tmp_path, capsys, which, place):
    with checkpoints(tmp_path) as saved:
        saved.save(5, state_at(5))
        saved.save_best(5, scaled(MODEL, 5), best_at(5))
    (tmp_path / place / "model" / "_METADATA").write_text("{")
    began = time.process_time()
    with checkpoints(tmp_path, read_only=True) as saved:
        if which == "last":
            with pytest.raises(UserError, match=f"{place}: this checkpoint is damaged"):
                saved.restore_model("last", MODEL)
        else:
            assert saved.restore_model("best", MODEL).thresholds == {}
            assert f"{place}: this checkpoint is damaged" in capsys.readouterr().out
    assert time.process_time() - began < 15


def test_shapes_are_read_however_often_the_checkpoint_is_replaced_meanwhile(tmp_path, monkeypatch):
    """More often than a reader retries one that stays."""
    with checkpoints(tmp_path) as saved:
        saved.save(5, state_at(5))
    real, times = ocp.CheckpointManager.item_metadata, 4

    def metadata(self, step):
        if step < 5 + times:
            (self.directory / str(step)).rename(self.directory / str(step + 1))
            raise FileNotFoundError(step)
        return real(self, step)

    monkeypatch.setattr(ocp.CheckpointManager, "item_metadata", metadata)
    with checkpoints(tmp_path, read_only=True) as saved:
        assert saved.model_shapes() == tree_shapes(MODEL)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_checkpoint_deleted_while_it_is_read_is_searched_again(tmp_path, monkeypatch, capsys):
    """Between the choice of a step and its reading, the run deletes it."""
    with checkpoints(tmp_path, keep=9) as saved:
        for step in (10, 20):
            saved.save(step, state_at(step))
        saved.save_best(10, scaled(MODEL, 10), best_at(10))
        saved.save_best(20, scaled(MODEL, 20), best_at(20), keep_previous=True)
    find = Checkpoints._find
    with checkpoints(tmp_path, read_only=True) as saved:
        for which in ("best", "last"):

            def vanish(self, name):
                manager, step = find(self, name)
                if step == 20:
                    shutil.rmtree(manager.directory / str(step))
                return manager, step

            monkeypatch.setattr(Checkpoints, "_find", vanish)
            assert saved.restore_model(which, MODEL).step == 10
    assert "damaged" not in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_arrays_whose_checksums_are_gone_are_not_taken_unchecked(tmp_path):
    """As in a deletion that was killed."""
    with checkpoints(tmp_path) as saved:
        saved.save(5, state_at(5))
    folder = tmp_path / "checkpoints" / "5"
    shutil.rmtree(folder / "checksums")
    with (
        checkpoints(tmp_path, read_only=True) as saved,
        pytest.raises(UserError, match="5: this checkpoint is damaged"),
    ):
        saved.restore_model("5", MODEL)


def test_a_listing_that_misses_both_checkpoints_is_repeated(tmp_path, monkeypatch):
    """One entry is renamed away before the listing comes to it, the other comes after it."""
    for step in (4, 6):
        (tmp_path / str(step)).mkdir()
    listings = [[], [tmp_path / "6"], [tmp_path / "6"]]
    monkeypatch.setattr("pathlib.Path.iterdir", lambda _: listings.pop(0))
    assert numbered(tmp_path) == [tmp_path / "6"]
