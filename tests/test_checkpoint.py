import contextlib

import jax
import numpy as np
import optax
import pytest

from unet_jax.checkpoint import Checkpoints
from unet_jax.errors import UserError

PARAMS = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": np.ones(3, "f4")}
MODEL = {"params": PARAMS, "batch_stats": {"mean": np.zeros(3, np.float32)}}
OPTIMIZER = jax.tree.map(np.asarray, optax.adam(1e-3).init(PARAMS))


def scaled(tree, factor):
    return jax.tree.map(lambda x: np.asarray(x * factor).astype(x.dtype), tree)


def state_at(step):
    return {"model": scaled(MODEL, step), "optimizer": scaled(OPTIMIZER, step)}


def best_at(step):
    return {"loss": 1 / step, "thresholds": {"dice": 1 / step}}


TARGETS = state_at(1)


def checkpoints(folder, **options):
    arguments = {"keep": 2, "config": {"seed": 0}} | options
    return contextlib.closing(Checkpoints(folder, **arguments))


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture
def run(tmp_path):
    """States at 10, 20 and 30 (two are kept); the best model at 20."""
    with checkpoints(tmp_path) as saved:
        for step in (10, 20, 30):
            saved.save(step, state_at(step))
            if step < 30:
                saved.save_best(step, scaled(MODEL, step), best_at(step))
    return tmp_path


def test_what_was_saved_comes_back(run):
    with checkpoints(run) as saved:
        assert saved.latest_step() == 30
        assert_equal(saved.restore(30, TARGETS), state_at(30))
        assert saved.best_metrics == best_at(20)


def test_only_the_best_model_has_thresholds(run):
    with checkpoints(run, read_only=True) as saved:
        assert saved.chosen_thresholds("best") == {"dice": 1 / 20}
        assert saved.chosen_thresholds("last") == {}


def test_further_items_come_back(tmp_path):
    state = state_at(3) | {"trained": scaled(MODEL, 5)}
    with checkpoints(tmp_path) as saved:
        saved.save(3, state)
        saved.wait()
        assert_equal(saved.restore(3, state_at(1) | {"trained": MODEL}), state)
        assert_equal(saved.restore_model("last", MODEL)[1], scaled(MODEL, 3))


def test_the_latest_and_the_best_are_kept(run):
    names = {
        folder: {p.name for p in (run / folder).iterdir()} for folder in ("checkpoints", "best")
    }
    assert names == {"checkpoints": {"20", "30"}, "best": {"20"}}
    assert {p.name for p in (run / "checkpoints" / "30").iterdir()} >= {
        "model",
        "optimizer",
        "config",
    }


@pytest.mark.parametrize(("which", "step"), [("best", 20), ("last", 30), ("30", 30), ("20", 20)])
def test_a_model_is_restored_by_name_without_its_optimizer(run, which, step):
    with checkpoints(run, read_only=True) as saved:
        found, model = saved.restore_model(which, MODEL)
    assert found == step
    assert_equal(model, scaled(MODEL, step))


def test_without_a_best_the_last_is_the_chosen_one(tmp_path):
    with checkpoints(tmp_path) as saved:
        assert saved.best_metrics is None
        saved.save(7, TARGETS)
        saved.wait()
        assert saved.restore_model("best", MODEL)[0] == 7


def test_a_run_without_checkpoints_says_so(tmp_path):
    with checkpoints(tmp_path) as saved:
        assert saved.latest_step() is None
        with pytest.raises(UserError, match="none yet: train first"):
            saved.restore_model("best", MODEL)


def test_a_save_that_was_killed_is_not_seen_and_cleared_by_the_next_writer(run):
    half = run / "checkpoints" / "40.orbax-checkpoint-tmp"
    half.mkdir()
    with checkpoints(run, read_only=True) as saved:
        assert saved.latest_step() == 30
    assert half.exists()  # it may be a writer's that is at work
    with checkpoints(run) as saved:
        assert saved.latest_step() == 30
    assert not half.exists()


def test_a_step_is_saved_once(run):
    with checkpoints(run) as saved:
        saved.save(30, TARGETS)
        saved.wait()
        assert_equal(saved.restore(30, TARGETS), state_at(30))


def test_a_model_of_other_shapes_or_names_is_refused_with_the_differences(run):
    other = {
        "params": {"a": {"kernel": np.zeros((2, 4), np.float32)}, "c": np.ones(3, np.float32)},
        "batch_stats": MODEL["batch_stats"],
    }
    with checkpoints(run) as saved, pytest.raises(UserError) as error:
        saved.restore(30, TARGETS | {"model": other})
    message = str(error.value)
    assert "['a']['kernel']: (2, 3) there, (2, 4) in the model" in message
    assert "['b']: (3,) there, absent in the model" in message
    assert "['c']: absent there, (3,) in the model" in message
    assert "\n" not in message
