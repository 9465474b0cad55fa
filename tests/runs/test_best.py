"""Which model is the best: memory and disk say the same, after any order of saves and kills."""

import contextlib
import dataclasses
import math
import shutil

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_checkpoints import MODEL, best_at, checkpoints, scaled, state_at

from unet_jax.metrics.registry import METRICS
from unet_jax.runs.best import Best
from unet_jax.runs.checkpoints import Checkpoints


def metrics(loss, step):
    return {"loss": loss, "thresholds": {"dice": step / 1000}}


def on_disk(folder):
    return {path.name for path in (folder / "best").iterdir()}


def assert_best(saved, step, expected):
    """Memory, weights and thresholds are those of one step."""
    found = saved.restore_model("best", MODEL)
    assert found.step == step
    jax.tree.map(np.testing.assert_array_equal, found.model, scaled(MODEL, step))
    assert found.thresholds == found.decisive == expected["thresholds"]
    assert saved.best_metrics == expected


def test_a_better_model_of_an_earlier_step_replaces_a_later_one(tmp_path):
    """As where a run had to resume from an earlier state: orbax itself refuses such a save."""
    with checkpoints(tmp_path) as saved:
        saved.save_best(200, scaled(MODEL, 200), metrics(0.5, 200))
    for _ in range(2):
        with checkpoints(tmp_path) as saved:
            if saved.bests[0].step == 200:
                saved.save_best(150, scaled(MODEL, 150), metrics(0.4, 150))
                saved.wait()
            assert_best(saved, 150, metrics(0.4, 150))
        assert on_disk(tmp_path) == {"150"}


def test_a_state_of_an_earlier_step_is_saved_too(tmp_path):
    with checkpoints(tmp_path, keep=3) as saved:
        saved.save(30, state_at(30))
    with checkpoints(tmp_path, keep=3) as saved:
        saved.save(20, state_at(20))
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"20", "30"}


def test_a_save_that_orbax_leaves_out_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("orbax.checkpoint.CheckpointManager.save", lambda *_, **__: False)
    with checkpoints(tmp_path) as saved:
        with pytest.raises(RuntimeError, match="checkpoints/3: orbax did not save it"):
            saved.save(3, state_at(3))
        with pytest.raises(RuntimeError, match="best/3: orbax did not save it"):
            saved.save_best(3, MODEL, best_at(3))
        assert saved.best_metrics is None


def test_a_better_model_of_the_same_step_replaces_it(tmp_path):
    for loss in (0.5, 0.4):
        with checkpoints(tmp_path) as saved:
            saved.save_best(20, scaled(MODEL, 20), metrics(loss, 20))
            saved.wait()
            assert_best(saved, 20, metrics(loss, 20))


@pytest.mark.parametrize(("first", "second"), [(200, 150), (4, 6)])
def test_after_a_kill_between_a_save_and_the_deletion_the_lowest_loss_counts(
    tmp_path, monkeypatch, first, second
):
    with checkpoints(tmp_path) as saved, monkeypatch.context() as patch:
        saved.save_best(first, scaled(MODEL, first), metrics(0.5, first))
        saved.save_best(second, scaled(MODEL, second), metrics(0.4, second))
        patch.setattr(Checkpoints, "delete_best", lambda *_: None)
        saved.wait()
    assert on_disk(tmp_path) == {str(first), str(second)}
    with checkpoints(tmp_path) as saved:
        assert_best(saved, second, metrics(0.4, second))
        saved.save_best(300, scaled(MODEL, 300), metrics(0.3, 300))
    assert on_disk(tmp_path) == {"300"}


def test_a_deletion_that_was_killed_is_not_seen_and_ended_by_the_next_writer(tmp_path):
    with checkpoints(tmp_path) as saved:
        saved.save_best(20, scaled(MODEL, 20), best_at(20))
    shutil.copytree(tmp_path / "best" / "20", tmp_path / "best" / "10.deleted")
    shutil.rmtree(tmp_path / "best" / "10.deleted" / "model")
    for read_only in (True, False):
        with checkpoints(tmp_path, read_only=read_only) as saved:
            assert_best(saved, 20, best_at(20))
        assert on_disk(tmp_path) == {"20", "10.deleted"} if read_only else {"20"}


def test_a_training_state_is_on_disk_only_after_the_best_model(tmp_path):
    """Else a run that is killed then resumes after the best model's step, and never makes it again.

    The model is large enough to be written for longer than the state.
    """
    large = {"params": {"a": np.random.default_rng(0).random(2**23, np.float32)}}
    with checkpoints(tmp_path) as saved:
        saved.save_best(10, large, best_at(10))
        saved.save(20, state_at(20))
        assert (tmp_path / "best" / "10").exists()


@pytest.mark.parametrize("found", [{}, {"loss": None}, {"loss": math.nan}, {"loss": math.inf}])
def test_a_best_model_without_a_loss_is_read_and_every_other_is_better(tmp_path, found):
    """A version that saved where the validation loss was not finite left such ones."""
    with checkpoints(tmp_path) as saved:
        saved.save_best(4, scaled(MODEL, 4), found | {"thresholds": {"dice": 0.3}})
    with checkpoints(tmp_path) as saved:
        assert [(best.step, best.rank) for best in saved.bests] == [(4, math.inf)]
        assert saved.restore_model("best", MODEL).thresholds == {"dice": 0.3}
        saved.save_best(8, scaled(MODEL, 8), metrics(9.0, 8), keep_previous=True)
    with checkpoints(tmp_path, read_only=True) as saved:
        assert_best(saved, 8, metrics(9.0, 8))


@pytest.mark.parametrize(("better", "first"), [("higher", 8), ("lower", 4)])
def test_the_selecting_metric_decides_between_two_models(tmp_path, better, first):
    """The loss of the second is higher; readers need no config."""
    metric = dataclasses.replace(METRICS["dice"], better=better)
    with checkpoints(tmp_path) as saved:
        for step, value in ((4, 0.5), (8, 0.9)):
            best = Best.of(step, metrics(value, step), metric, value, 3)
            saved.save_best(step, scaled(MODEL, step), best.metrics, keep_previous=True)
    with checkpoints(tmp_path, read_only=True) as saved:
        assert [best.step for best in saved.bests] == [first, 12 - first]
        assert saved.restore_model("best", MODEL).step == first


def test_a_model_that_is_measured_on_more_images_is_better():
    def of(value, images):
        return Best.of(4, {"loss": 0.1}, METRICS["dice"], value, images)

    assert of(0.5, 4).order < of(1.0, 3).order < of(0.9, 3).order


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "0.5"])
def test_a_selecting_metric_without_a_value_is_the_worst(value):
    selected = {"metric": "dice", "better": "higher", "value": value}
    assert Best(4, {"loss": 0.1, "selected": selected}).rank == math.inf


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.sampled_from([10, 20, 30, 40]), st.booleans(), st.booleans(), st.booleans()),
        min_size=1,
        max_size=5,
    )
)
def test_memory_and_disk_agree_after_any_saves(tmp_path_factory, saves):
    """Each is better than those before; with the one before kept or not, deleted, opened anew."""
    folder = tmp_path_factory.mktemp("run")
    expected = []  # step and loss of what there must be, the best first
    with contextlib.ExitStack() as stack:
        saved = stack.enter_context(checkpoints(folder))
        for number, (step, keep_previous, delete, reopen) in enumerate(saves):
            loss = 1 / (number + 1)
            saved.save_best(step, scaled(MODEL, step), metrics(loss, step), keep_previous)
            others = [one for one in expected if one[0] != step]
            expected = [(step, loss), *others[: int(keep_previous)]]
            if delete and len(expected) > 1:
                saved.wait()
                saved.delete_best([step])
                expected = expected[1:]
            assert [(best.step, best.rank) for best in saved.bests] == expected
            if reopen:
                stack.close()
                saved = stack.enter_context(checkpoints(folder))
                assert [(best.step, best.rank) for best in saved.bests] == expected
                assert on_disk(folder) == {str(step) for step, _ in expected}
        saved.wait()
        assert_best(saved, expected[0][0], metrics(expected[0][1], expected[0][0]))
