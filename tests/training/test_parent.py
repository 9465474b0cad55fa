"""`--init_from`: a run that starts from the weights of another."""

import json
import os
import re
import shutil

import jax
import numpy as np
import pytest
from launched import history
from made_networks import shapes
from made_runs import make_run, signal_after
from training_steps import mesh_of

from unet_jax import models
from unet_jax.core.config import digest
from unet_jax.core.errors import UserError
from unet_jax.core.stop import Interrupted
from unet_jax.inference import predictor
from unet_jax.runs.folder import CONFIG
from unet_jax.training.loop import train
from unet_jax.training.parent import Parent, initial_variables

STEP = 7  # of the parents that `make_run` makes


@pytest.fixture
def parent(config, tmp_path):
    """The folder of a run of one channel and one logit, whose weights are random numbers."""
    return make_run(tmp_path / "parent", config, channels=1, calm=True)


def begin(given, folder, config, dataset, channels: int = 1):
    """The variables with which a run starts in `folder`, which it has claimed."""
    folder.mkdir(exist_ok=True)
    model = models.build(**config.model)
    variables = jax.tree.map(lambda x: np.full(x.shape, 0.5, x.dtype), shapes(model, channels))
    return initial_variables(given, folder, config, dataset, variables), variables


def record(folder):
    return json.loads((folder / "initial.json").read_text())


def assert_equal(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(
    ("given", "folder", "checkpoint"),
    [
        ("runs/a", "runs/a", "best"),
        ("runs/a:last", "runs/a", "last"),
        ("runs/a:120", "runs/a", "120"),
        ("runs/a:b", "runs/a:b", "best"),
        ("/runs/a:3:best", "/runs/a:3", "best"),
    ],
)
def test_a_parent_is_a_folder_and_a_checkpoint(given, folder, checkpoint):
    parent = Parent.parse(given)
    assert (str(parent.folder), parent.checkpoint) == (os.path.abspath(folder), checkpoint)


def test_all_weights_are_taken_and_the_parent_is_recorded(
    parent, config, dataset, tmp_path, capsys
):
    taken, _ = begin(f"{parent}:last", tmp_path / "run", config, dataset)
    weights = predictor.restore(parent, config, "last").variables
    assert_equal(taken, weights)
    found = record(tmp_path / "run")
    assert found["parent"] == {
        "folder": str(parent),
        "checkpoint": "last",
        "step": STEP,
        "config_digest": digest(config),
        "weights": models.weights_digest(weights),
    }
    assert found["modules"] == dict.fromkeys(weights["params"], "taken")
    printed = capsys.readouterr().out
    assert re.fullmatch(rf"weights      of {parent}, step {STEP}: \d+ arrays taken\n", printed)


@pytest.mark.parametrize(
    "name", ["unet", *(pytest.param(x, marks=pytest.mark.slow) for x in ("unet2", "segnet"))]
)
def test_other_classes_and_channels_adapt_both_ends(name, config, dataset, tmp_path, capsys):
    config.model.name = name
    parent = make_run(tmp_path / "parent", config, channels=3)
    weights = predictor.restore(parent, config, "best").variables
    config.model.classes, config.loss.name = 4, "cross_entropy"
    taken, initial = begin(str(parent), tmp_path / "run", config, dataset)
    modules = record(tmp_path / "run")["modules"]
    assert (modules.pop("head"), modules.pop("down_0")) == ("new", "adapted")
    assert set(modules.values()) == {"taken"}
    assert_equal(taken["params"]["head"], initial["params"]["head"])
    adapted = weights["params"]["down_0"]["Conv_0"]["kernel"].sum(2, keepdims=True)
    np.testing.assert_array_equal(taken["params"]["down_0"]["Conv_0"]["kernel"], adapted)
    assert_equal(taken["params"]["up_0"], weights["params"]["up_0"])
    printed = capsys.readouterr().out
    assert "the first convolution, from 3 to 1 channels: summed" in printed
    assert "new          head: 1 logits there, 4 here" in printed


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model.width": 8}, r"not fit \(model\.width: 4 there, 8 here\); give the same model"),
        ({"model.norm": "group", "model.depth": 2}, r"\(model\.depth: 1 .*; model\.norm: batch "),
        ({"model.name": "segnet"}, r"\(model\.name: unet there, segnet here\)"),
    ],
)
def test_another_network_is_refused_with_its_fields(
    changes, line, parent, config, dataset, tmp_path
):
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=line) as caught:
        begin(str(parent), tmp_path / "run", config, dataset)
    assert str(caught.value).startswith(f"--init_from={parent}: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "initial.json").exists()


def test_a_difference_that_fits_and_other_classes_are_said(
    parent, config, dataset, tmp_path, capsys
):
    config.model.padding = "valid"
    (parent / "split.json").write_text(json.dumps({"classes": ["background", "cell"]}))
    begin(str(parent), tmp_path / "run", config, dataset)
    printed = capsys.readouterr().out
    assert "note         model.padding: same there, valid here; the weights fit both\n" in printed
    assert "were background, cell, and here they are background, blob\n" in printed


@pytest.mark.parametrize(
    ("theirs", "ours", "flags"),
    [
        ({"input_range": "unit"}, {}, "normalize=range --config.data.input_range=unit"),
        (
            {},
            {"normalize": "zscore", "mean": (9.0,), "std": (2.0,), "limits": (0.0, 255.0)},
            "normalize=range --config.data.input_range=symmetric",
        ),
        (
            {"normalize": "percentile", "limits": (3.0, 99.5)},
            {"normalize": "percentile", "limits": (2.0, 99.5)},
            "normalize=limits --config.data.limits='(3.0, 99.5)' "
            "--config.data.input_range=symmetric",
        ),
    ],
)
def test_another_normalization_is_said_with_the_flags_that_keep_the_parent_s(
    theirs, ours, flags, config, dataset, tmp_path, capsys
):
    for name, changes in (("parent", theirs), ("run", ours)):
        changed = config.copy_and_resolve_references()
        changed.data.update(changes)
        if name == "parent":
            parent = make_run(tmp_path / name, changed, channels=1)
        else:
            begin(str(parent), tmp_path / name, changed, dataset)
    printed = capsys.readouterr().out
    assert "note         the input of the parent was normalized with data.normalize=" in printed
    assert printed.endswith(f"; to keep the parent's, give --config.data.{flags}\n")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("{}/none", r"none has no config\.json, .*; give RUN or RUN:STEP"),
        ("{}/parent:8", r"no checkpoint '8'; available: 7"),
    ],
)
def test_a_parent_that_is_not_there_is_named(given, line, parent, config, dataset, tmp_path):
    with pytest.raises(UserError, match=rf"^--init_from={given.format(tmp_path)}: .*{line}"):
        begin(given.format(tmp_path), tmp_path / "run", config, dataset)


def test_a_stopped_run_resumes_without_its_parent(
    parent, config, dataset, tmp_path, monkeypatch, capsys
):
    config.optim.ema_decay = 0.5
    start = str(parent)
    whole = train(config, dataset, tmp_path / "whole", mesh_of(1), start)
    with monkeypatch.context() as patch:
        signal_after(2, patch)
        with pytest.raises(Interrupted):
            train(config, dataset, tmp_path / "parts", mesh_of(1), start)
    shutil.move(parent, tmp_path / "elsewhere")
    capsys.readouterr()
    for other, line in (
        (f"{start}:last", f"^--init_from={start}:last: the run in .* began with .*={start}:best;"),
        (f"{tmp_path}/elsewhere", "began with"),
    ):
        with pytest.raises(UserError, match=line):
            train(config, dataset, tmp_path / "parts", mesh_of(1), other)
    assert train(config, dataset, tmp_path / "parts", mesh_of(1), f"{start}:{STEP}") == whole
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert record(tmp_path / "parts") == record(tmp_path / "whole") == whole["initial"]
    assert "arrays taken" not in capsys.readouterr().out
    assert train(config, dataset, tmp_path / "parts", mesh_of(1)) == whole  # it needs no flag


def test_nothing_is_trained_at_rate_0_with_frozen_norms(parent, config, dataset, tmp_path):
    """The scores and the weights are the parent's, bit for bit, with an EMA as well."""
    config.optim.learning_rate, config.optim.frozen_norm = 0.0, "all"
    config.optim.ema_decay, config.optim.weight_decay = 0.9, 0.1
    report = train(config, dataset, tmp_path / "run", mesh_of(1), str(parent))
    again = train(config, dataset, tmp_path / "again", mesh_of(1), f"{tmp_path}/run:last")
    assert again["per_image"] == report["per_image"]
    weights = [
        predictor.restore(folder, config, which).variables
        for folder, which in ((parent, "best"), (tmp_path / "run", "last"), (tmp_path / "run", "2"))
    ]
    assert_equal(weights[0], weights[1])
    assert_equal(weights[0], weights[2])


def test_a_run_that_began_without_a_parent_gets_none(parent, config, dataset, tmp_path):
    run = make_run(tmp_path / "run", config, channels=1)
    with pytest.raises(UserError, match=r"^--init_from: the run in .* began without it; leave it"):
        begin(str(parent), run, config, dataset)


def test_a_start_that_saved_no_state_is_repeated_with_the_flag(parent, config, dataset, tmp_path):
    run = tmp_path / "run"
    begin(str(parent), run, config, dataset)
    begin(None, run, config, dataset)  # killed before it opened its checkpoints: it can be anything
    assert not (run / "initial.json").exists()
    first, _ = begin(str(parent), run, config, dataset)
    (run / "checkpoints").mkdir()
    shutil.copy(parent / CONFIG, run / CONFIG)
    with pytest.raises(UserError, match=rf"began with --init_from={parent}:best and has no .*"):
        begin(None, run, config, dataset)
    second, _ = begin(str(parent), run, config, dataset)
    assert_equal(first, second)
