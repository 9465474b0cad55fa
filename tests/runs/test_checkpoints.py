import contextlib
import errno
import io
import json
import os
import resource
import shutil

import jax
import numpy as np
import pytest
from made_checkpoints import MODEL, TARGETS, best_at, checkpoints, scaled, state_at

from unet_jax.core.errors import UserError
from unet_jax.runs.checkpoint_io import tree_shapes
from unet_jax.runs.checkpoints import Checkpoints


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


def test_saved_checkpoints_are_restored(run):
    with checkpoints(run) as saved:
        assert saved.latest_step() == 30
        step, state = saved.restore_latest(TARGETS)
        assert step == 30
        assert_equal(state, state_at(30))
        assert saved.best_metrics == best_at(20)


def test_only_the_best_model_has_thresholds(run):
    with checkpoints(run, read_only=True) as saved:
        assert saved.restore_model("best", MODEL).thresholds == {"dice": 1 / 20}
        last = saved.restore_model("last", MODEL)
        assert (last.thresholds, last.decisive) == ({}, {"dice": 1 / 20})


def test_further_items_come_back(tmp_path):
    state = state_at(3) | {"trained": scaled(MODEL, 5)}
    with checkpoints(tmp_path) as saved:
        saved.save(3, state)
        saved.wait()
        assert_equal(saved.restore_latest(state_at(1) | {"trained": MODEL})[1], state)
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
        found = saved.restore_model(which, MODEL)
    assert found.step == step
    assert_equal(found.model, scaled(MODEL, step))


def test_without_a_best_the_last_is_the_chosen_one(tmp_path):
    with checkpoints(tmp_path) as saved:
        assert saved.best_metrics is None
        saved.save(7, TARGETS)
        saved.wait()
        assert saved.restore_model("best", MODEL)[0] == 7


def test_a_run_without_checkpoints_says_so(tmp_path):
    with checkpoints(tmp_path) as saved:
        assert saved.latest_step() is None
        assert saved.restore_latest(TARGETS) is None
        with pytest.raises(UserError, match="none, train first"):
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
        assert_equal(saved.restore_latest(TARGETS)[1], state_at(30))


def test_a_model_of_other_shapes_or_names_is_refused_with_the_differences(run):
    other = {
        "params": {"a": {"kernel": np.zeros((2, 4), np.float32)}, "c": np.ones(3, np.float32)},
        "batch_stats": MODEL["batch_stats"],
    }
    with checkpoints(run) as saved, pytest.raises(UserError) as error:
        saved.restore_latest(TARGETS | {"model": other})
    message = str(error.value)
    assert "['a']['kernel']: (2, 3) saved, (2, 4) in the model" in message
    assert "['b']: (3,) saved, absent in the model" in message
    assert "['c']: absent saved, (3,) in the model" in message
    assert "\n" not in message


def files_in(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


DAMAGES = {
    "missing": None,
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "one bit": lambda content: content[:-9] + bytes([content[-9] ^ 16]) + content[-8:],
    "zeros": lambda content: bytes(len(content)),
}


def harm(path, damage):
    content = path.read_bytes()
    if DAMAGES[damage] is None:
        path.unlink()
    elif len(content) > 9:
        path.write_bytes(DAMAGES[damage](content))


# When one read fails, orbax leaves, and the others that it had begun complain of it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(damage, marks=() if damage == "one bit" else pytest.mark.slow)
        for damage in DAMAGES
    ],
)
def test_any_damage_of_the_newest_state_is_harmless_or_detected(run, damage, tmp_path_factory):
    """Whichever file is damaged: the state or the one before it is restored, with a warning."""
    found = set()
    for path in files_in(run / "checkpoints" / "30"):
        copy = tmp_path_factory.mktemp("copy") / "run"
        shutil.copytree(run, copy)
        harm(copy / path.relative_to(run), damage)
        said = io.StringIO()
        with contextlib.redirect_stdout(said), checkpoints(copy) as saved:
            step, state = saved.restore_latest(TARGETS)
            assert_equal(state, state_at(step))
            found.add(step)
            if step == 20:
                assert "damaged" in said.getvalue()
                assert (copy / "damaged" / "checkpoints-30").is_dir()
                saved.save(30, state_at(30))  # as the run does when it comes there again
                saved.wait()
                assert saved.restore_latest(TARGETS)[0] == 30
    assert found == {20, 30}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_where_all_states_are_damaged_nothing_is_deleted(run):
    for step in (20, 30):
        (run / "checkpoints" / str(step) / "model" / "_METADATA").unlink()
    with checkpoints(run) as saved:
        with pytest.raises(UserError, match="all checkpoints were damaged"):
            saved.restore_latest(TARGETS)
        assert saved.restore_latest(TARGETS) is None
    assert {p.name for p in (run / "damaged").iterdir()} == {"checkpoints-20", "checkpoints-30"}


def damage_arrays(folder):
    for path in files_in(folder / "model"):
        path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_best_model_is_replaced_by_the_last(run, capsys):
    damage_arrays(run / "best" / "20")
    with checkpoints(run, read_only=True) as saved:
        found = saved.restore_model("best", MODEL)
        assert (found.step, found.thresholds, found.decisive) == (30, {}, {})
    assert "damaged" in capsys.readouterr().out
    assert (run / "best" / "20").exists()  # a reader moves nothing
    with checkpoints(run) as saved:
        assert saved.restore_model("best", MODEL)[0] == 30
    assert (run / "damaged" / "best-20").exists()


def test_a_best_model_without_metrics_is_ignored(run, capsys):
    (run / "best" / "20" / "metrics" / "metrics").write_text("{}")
    with checkpoints(run) as saved:
        assert saved.best_metrics is None
        assert saved.restore_model("best", MODEL)[0] == 30
    assert "damaged" in capsys.readouterr().out


@pytest.mark.parametrize("loss", [0.05, float("nan"), None])
def test_changed_metrics_of_the_best_model_are_detected(tmp_path, loss, capsys):
    with checkpoints(tmp_path) as saved:
        saved.save_best(20, MODEL, {"loss": loss, "thresholds": {"dice": 0.5}})
    with checkpoints(tmp_path, read_only=True) as saved:
        assert saved.best_metrics["thresholds"] == {"dice": 0.5}
    path = tmp_path / "best" / "20" / "metrics" / "metrics"
    path.write_text(path.read_text().replace("0.5}", "0.6}"))
    with checkpoints(tmp_path, read_only=True) as saved:
        assert saved.best_metrics is None
    assert "the metrics have changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    ["", *(pytest.param(x, marks=pytest.mark.slow) for x in ("\xff", "[1]", '{"a":' * 100_000))],
)
@pytest.mark.parametrize("name", ["best/20/metrics/metrics", "checkpoints/30/_CHECKPOINT_METADATA"])
def test_damaged_metadata_of_a_checkpoint_is_moved_away(run, name, content, capsys):
    (run / name).write_bytes(content.encode("latin-1"))
    with contextlib.suppress(UserError), checkpoints(run, read_only=True) as saved:
        assert saved.best_metrics is None or saved.restore_model("best", MODEL)[0] == 20
    assert (run / name).exists()  # a reader moves nothing
    with checkpoints(run) as saved:
        assert saved.restore_latest(TARGETS)[0] in (20, 30)
        assert saved.restore_model("best", MODEL)[0] in (20, 30)
    if not (run / name).exists():
        assert (run / "damaged").is_dir()
        assert "damaged" in capsys.readouterr().out


def test_checkpoints_that_orbax_cannot_read_about_are_named(run):
    path = run / "checkpoints" / "30" / "_CHECKPOINT_METADATA"
    path.write_text("[1]")
    with pytest.raises(UserError, match="cannot be read") as error:
        Checkpoints(run, 2, {}, read_only=True)
    assert "checkpoints/30 away" in str(error.value)
    assert "checkpoints/20" not in str(error.value)
    path.write_text('{"init_timestamp_nsecs": "never"}')
    for read_only in (False, True):
        with pytest.raises(UserError, match="cannot be read"):
            Checkpoints(run, 2, {}, read_only=read_only)
    assert not (run / "damaged").exists()


def forget_checksums(folder):
    """As a version that had none would have saved it."""
    shutil.rmtree(folder / "checksums")
    path = folder / "_CHECKPOINT_METADATA"
    content = json.loads(path.read_text())
    del content["item_handlers"]["checksums"]
    path.write_text(json.dumps(content))


def test_metrics_without_a_checksum_are_of_an_older_version(run):
    path = run / "best" / "20" / "checksums" / "metadata"
    content = json.loads(path.read_text())
    del content["metrics"]
    path.write_text(json.dumps(content))
    with checkpoints(run) as saved:
        assert saved.best_metrics == best_at(20)
    forget_checksums(run / "best" / "20")
    with checkpoints(run) as saved:
        assert saved.best_metrics == best_at(20)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_that_was_asked_for_is_refused(run):
    damage_arrays(run / "checkpoints" / "30")
    with checkpoints(run, read_only=True) as saved:
        for which in ("30", "last"):
            with pytest.raises(UserError, match="30: this checkpoint is damaged"):
                saved.restore_model(which, MODEL)
        assert saved.restore_model("20", MODEL)[0] == 20


def test_checkpoints_without_checksums_are_of_an_older_version(run):
    forget_checksums(run / "checkpoints" / "30")
    with checkpoints(run) as saved:
        assert saved.restore_latest(TARGETS)[0] == 30


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_model_shapes_are_read_from_any_readable_checkpoint(run):
    expected = tree_shapes(MODEL)
    for damaged in ("best/20", "checkpoints/30"):
        for path in files_in(run / damaged / "model"):
            path.write_bytes(b"")
        with checkpoints(run, read_only=True) as saved:
            assert saved.model_shapes() == expected
    for path in files_in(run / "checkpoints/20/model"):
        path.write_bytes(b"")
    with (
        checkpoints(run, read_only=True) as saved,
        pytest.raises(UserError, match="has no readable checkpoint"),
    ):
        saved.model_shapes()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO])
def test_shapes_that_cannot_be_read_now_are_not_called_missing(run, monkeypatch, code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    with checkpoints(run, read_only=True) as saved:
        monkeypatch.setattr("orbax.checkpoint.CheckpointManager.item_metadata", fail)
        with pytest.raises(UserError, match=f"cannot be read now .{os.strerror(code)}.*intact"):
            saved.model_shapes()


@contextlib.contextmanager
def no_more_files():
    """Nothing more can be opened, by Python or by C++."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_error_of_the_system_while_reading_is_no_damage(run):
    """It may pass, and nothing is wrong with the files: a real one, for want of handles."""
    with checkpoints(run) as saved:
        with no_more_files(), pytest.raises(UserError) as error:
            saved.restore_latest(TARGETS)
        assert f"{run / 'checkpoints'}: this checkpoint cannot be read now" in str(error.value)
        assert os.strerror(errno.EMFILE) in str(error.value)
        assert not (run / "damaged").exists()
        assert saved.restore_latest(TARGETS)[0] == 30


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES])
def test_a_share_that_does_not_answer_is_no_damage_of_the_best_model(run, monkeypatch, code):
    def fail(manager, step, args):
        raise ValueError(f"Error reading [os_error_code='{code}']")

    with monkeypatch.context() as patch:
        patch.setattr("orbax.checkpoint.CheckpointManager.restore", fail)
        with pytest.raises(UserError, match=f"cannot be read now .{os.strerror(code)}"):
            checkpoints(run)
    with checkpoints(run) as saved:
        assert saved.best_metrics == best_at(20)
