import contextlib
import dataclasses
import errno
import itertools
import json
import os
import shutil

import pytest
from made_files import refused

from unet_jax.core.errors import UserError
from unet_jax.runs.folder import (
    check_ours,
    claim,
    notes_on_scores,
    read_config,
    recorded_fields,
)


def test_a_new_folder_describes_the_experiment(config, dataset, tmp_path):
    folder = tmp_path / "deep" / "run"
    with claim(folder, config, dataset):
        pass
    split = json.loads((folder / "split.json").read_text())
    assert split["train"] == [f"image-{i}" for i in range(8)]
    assert split["validation"] == split["test"] == ["image-0", "image-1", "image-2"]
    assert split["seed"] == 0
    assert split["sha256"] == {"made": "0"}
    assert read_config(folder)["model.width"] == config.model.width
    check_ours(folder, config)


def begin(folder, config, dataset) -> None:
    """A run of which something was trained."""
    with claim(folder, config, dataset):
        (folder / "checkpoints").mkdir()


def test_another_experiment_is_refused_by_its_fields_and_nothing_changes(config, dataset, tmp_path):
    begin(tmp_path, config, dataset)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    config.model.width = 8
    config.optim.learning_rate = 0.5
    with (
        pytest.raises(
            UserError, match=r"model\.width: 4 in the run, 8 in the config; optim\.learning_rate"
        ),
        claim(tmp_path, config, dataset),
    ):
        pass
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


def test_a_folder_where_nothing_was_trained_is_any_experiment_s(config, dataset, tmp_path):
    """As after `--mode=inspect`."""
    with claim(tmp_path, config, dataset):
        pass
    config.model.width = 8
    other = dataclasses.replace(dataset, sha256={"made": "1"})
    with claim(tmp_path, config, other):
        pass
    assert read_config(tmp_path)["model.width"] == 8
    assert json.loads((tmp_path / "split.json").read_text())["sha256"] == {"made": "1"}


def test_the_dtype_of_a_run_is_recorded_when_it_begins(config, dataset, tmp_path):
    config.model.dtype = "bfloat16"
    assert recorded_fields(tmp_path) == {}
    with claim(tmp_path, config, dataset):
        pass
    assert recorded_fields(tmp_path) == {}  # an inspection decides nothing
    begin(tmp_path, config, dataset)
    assert recorded_fields(tmp_path)["model.dtype"] == "bfloat16"
    config.model.dtype = "auto"
    check_ours(tmp_path, config)
    config.model.dtype = "float32"
    with pytest.raises(
        UserError, match=r"model\.dtype: bfloat16 in the run, float32 in the config"
    ):
        check_ours(tmp_path, config)


@pytest.mark.parametrize("selecting", [{}, {"best": "dice"}, {"tune": ("ap50",)}, {"best": "nsd"}])
def test_what_defines_a_metric_may_change_unless_the_metric_selects(
    config, dataset, tmp_path, selecting
):
    config.eval.update(selecting)
    begin(tmp_path, config, dataset)
    config.eval.min_object_pixels, config.eval.nsd_pixels = 9, (3.0,)
    used = {"ap50": "min_object_pixels", "nsd": "nsd_pixels"}
    keys = {config.eval.best, *config.eval.tune} & used.keys()
    if not keys:
        check_ours(tmp_path, config)
        return
    with pytest.raises(UserError) as error:
        check_ours(tmp_path, config)
    (field,) = (used[key] for key in keys)
    (other,) = {*used.values()} - {field}
    assert f"eval.{field}: " in str(error.value) and other not in str(error.value)


def test_an_evaluation_may_change_all_that_defines_a_score(config, dataset, tmp_path):
    config.eval.best = "nsd"
    begin(tmp_path, config, dataset)
    assert notes_on_scores(tmp_path, config, {"dice": 0.3}) == []
    config.eval.nsd_pixels, config.eval.threshold, config.data.workers = (3.0,), 0.25, 3
    check_ours(tmp_path, config, evaluated=True)
    assert notes_on_scores(tmp_path, config, {"dice": 0.3}) == [
        "unlike training, eval.nsd_pixels: [2.0] in the run, [3.0] in this evaluation",
        "unlike training, eval.threshold: 0.5 in the run, 0.25 in this evaluation",
    ]
    config.eval.best = "loss"
    with pytest.raises(UserError, match=r"\(eval\.best: nsd in the run, loss in the config\)"):
        check_ours(tmp_path, config, evaluated=True)


@pytest.mark.parametrize(("chosen", "threshold"), [({"dice": 0.3}, 0.3), ({}, 0.5)])
def test_a_chosen_threshold_is_not_unlike_training(config, dataset, tmp_path, chosen, threshold):
    config.eval.threshold = 0.0
    begin(tmp_path, config, dataset)
    config.eval.threshold = threshold
    assert notes_on_scores(tmp_path, config, chosen) == []
    config.eval.threshold = 0.4
    assert notes_on_scores(tmp_path, config, chosen) == [
        f"unlike training, eval.threshold: {threshold} in the run, 0.4 in this evaluation"
    ]


def test_a_run_of_an_earlier_version_takes_any_arithmetic(config, dataset, tmp_path):
    config.model.dtype = "auto"
    begin(tmp_path, config, dataset)
    for config.model.dtype in ("auto", "bfloat16", "float32"):
        check_ours(tmp_path, config)
    with claim(tmp_path, config, dataset, "cpu"):
        pass
    assert recorded_fields(tmp_path)["model.dtype"] == "float32"


def test_fields_that_change_no_result_may_change(config, dataset, tmp_path):
    with claim(tmp_path, config, dataset):
        pass
    config.data.workers = 3
    config.data.root = "elsewhere"
    config.log.every_steps = 7
    config.num_epochs = 9  # the learning rate is constant
    with claim(tmp_path, config, dataset):
        pass
    assert read_config(tmp_path)["num_epochs"] == 9


def test_more_epochs_are_another_experiment_where_the_schedule_depends_on_them(
    config, dataset, tmp_path
):
    config.optim.schedule = "cosine"
    begin(tmp_path, config, dataset)
    config.num_epochs = 9
    with pytest.raises(UserError, match="num_epochs: 2 in the run, 9 in the config"):
        check_ours(tmp_path, config)


def test_a_second_writer_is_refused(config, dataset, tmp_path):
    with (
        claim(tmp_path, config, dataset),
        pytest.raises(UserError, match="another process is writing"),
        claim(tmp_path, config, dataset),
    ):
        pass
    with claim(tmp_path, config, dataset):
        pass  # the lock went with its holder


def test_other_data_are_refused(config, dataset, tmp_path):
    begin(tmp_path, config, dataset)
    dataset.sha256["made"] = "1"
    with (
        pytest.raises(UserError, match="differ from those of this run"),
        claim(tmp_path, config, dataset),
    ):
        pass


@pytest.mark.parametrize("name", ["thesis.tex", "checkpoints"])
def test_a_folder_of_something_else_is_refused(config, tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(UserError, match=r"no config\.json"):
        check_ours(tmp_path, config)
    with pytest.raises(UserError, match="is a file"):
        check_ours(tmp_path / name, config)


def test_leavings_of_a_start_that_was_killed_are_no_obstacle(config, dataset, tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.json.123.tmp").write_text("{")
    with claim(tmp_path, config, dataset):
        pass
    (tmp_path / "config.json").unlink()
    with claim(tmp_path, config, dataset):
        pass


def test_a_broken_config_is_named(config, tmp_path):
    (tmp_path / "config.json").write_text('{"digest"')
    with pytest.raises(UserError, match=r"config\.json: cannot be read as JSON"):
        check_ours(tmp_path, config)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        "null",
        '"config"',
        '{"config": 3}',
        '{"config": [1]}',
        '{"config": null}',
        "\xff",
    ],
)
def test_json_that_is_no_config_is_named(config, tmp_path, content):
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    for read in (read_config, lambda folder: check_ours(folder, config)):
        line = refused(read, tmp_path, "config.json", "restore it")
        assert len(line) < 400


def test_deep_nests_end_in_a_line(tmp_path):
    # Some that JSON can still read are too deep to be walked through.
    depths = itertools.product([*range(800, 1000), 100_000], [("[", "]"), ('{"a": ', "}")])
    for depth, (start, end) in depths:
        content = f'{{"config": {start * depth}1{end * depth}}}'
        (tmp_path / "config.json").write_text(content)
        with contextlib.suppress(UserError):  # which a shallow one need not be
            read_config(tmp_path)


def test_a_folder_without_a_run_has_no_config(tmp_path):
    with pytest.raises(UserError, match="not the folder of a run"):
        read_config(tmp_path)


def test_a_further_split_may_be_added_later(config, dataset, tmp_path):
    with claim(tmp_path, config, dataset):
        pass
    later = {**dataset.splits, "challenge": dataset.splits["test"]}
    with claim(tmp_path, config, dataclasses.replace(dataset, splits=later)):
        pass


@pytest.fixture
def checked(config, dataset, tmp_path):
    """A claimed folder with checkpoints, and the function that checks it."""
    with claim(tmp_path, config, dataset) as check:
        for name in ("checkpoints", "best"):
            (tmp_path / name).mkdir()
        check()
        yield tmp_path, check


@pytest.mark.parametrize("name", ["config.json", "split.json"])
def test_files_deleted_during_a_run_are_written_again(checked, name):
    folder, check = checked
    before = (folder / name).read_bytes()
    (folder / name).unlink()
    check()
    assert (folder / name).read_bytes() == before


@pytest.mark.parametrize("name", ["checkpoints", "best", "."])
def test_a_run_whose_checkpoints_were_deleted_ends(checked, name):
    folder, check = checked
    shutil.rmtree(folder / name)
    with pytest.raises(UserError, match="was deleted or moved while the run used it"):
        check()


def test_a_run_whose_lock_was_deleted_locks_its_folder_again(checked, config, dataset):
    folder, check = checked
    (folder / ".lock").unlink()
    check()
    with (
        pytest.raises(UserError, match="another process is writing"),
        claim(folder, config, dataset),
    ):
        pass
    (folder / ".lock").unlink()
    with claim(folder, config, dataset), pytest.raises(UserError, match="another process"):
        check()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_refused(config, dataset, tmp_path, monkeypatch, code):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    with (
        pytest.raises(UserError, match=r"does not support locks .*local disk with --workdir="),
        claim(tmp_path, config, dataset),
    ):
        pass
