import contextlib
import dataclasses
import gc
import json
import re
import weakref

import events
import jax
import numpy as np
import pytest
from launched import history
from made_data import make_split
from training_steps import assert_trees_close, mesh_of, updates

from unet_jax.core.errors import UserError
from unet_jax.data import pipeline
from unet_jax.data.augment import transforms as augment
from unet_jax.data.fit import Fit
from unet_jax.evaluation.evaluate import evaluate
from unet_jax.evaluation.thresholds import USED
from unet_jax.metrics.registry import METRICS
from unet_jax.reporting import comparison, sweep
from unet_jax.runs.checkpoints import Checkpoints
from unet_jax.runs.log import read_history
from unet_jax.training import loop
from unet_jax.training.loop import train
from unet_jax.training.plan import make_plan
from unet_jax.training.state import init_state
from unet_jax.training.validation import validate


def final_arrays(folder):
    """Everything of the newest checkpoint, as saved."""
    import orbax.checkpoint as ocp

    newest = max((folder / "checkpoints").iterdir(), key=lambda p: int(p.name))
    items = [item for item in ("model", "optimizer", "trained") if (newest / item).exists()]
    return [
        np.asarray(leaf)
        for item in items
        for leaf in jax.tree.leaves(ocp.StandardCheckpointer().restore(newest.absolute() / item))
    ]


@pytest.mark.slow
def test_a_weight_map_changes_the_training_loss_alone(config, dataset, tmp_path):
    config.optim.learning_rate = 1e-12
    config.num_epochs = 1
    plain = train(config, dataset, tmp_path / "plain", mesh_of(1))
    config.data.border_weight = 10.0
    weighted = train(config, dataset, tmp_path / "weighted", mesh_of(1))
    assert weighted["loss"] == pytest.approx(plain["loss"], rel=1e-6)
    plain, weighted = (read_history(tmp_path / name) for name in ("plain", "weighted"))
    for a, b in zip(plain, weighted, strict=True):
        assert (a["loss"] == pytest.approx(b["loss"], rel=1e-6)) == (a["split"] != "train")
    assert len(list((tmp_path / "weighted" / "weights").iterdir())) == 8
    assert not (tmp_path / "plain" / "weights").exists()


def test_training_lowers_the_loss(config, dataset, tmp_path):
    config.num_epochs, config.eval.every_epochs, config.checkpoint.every_epochs = 15, 5, 15
    config.optim.learning_rate = 1e-2
    report = train(config, dataset, tmp_path / "run", mesh_of(1))
    assert report["aggregate"]["dice"]["mean"] > 0.9
    assert report["loss"] < 0.4


def test_without_test_images_the_report_is_of_the_validation_images(config, dataset, tmp_path):
    config.num_epochs = 1
    splits = {**dataset.splits, "test": make_split(0, 32, seed=0)}
    dataset = dataclasses.replace(dataset, splits=splits)
    report = train(config, dataset, tmp_path, mesh_of(1))
    assert report["split"] == "validation"
    assert json.loads((tmp_path / "report.json").read_text())["split"] == "validation"
    assert report["per_image"].keys() == {*dataset.splits["validation"].names}


@pytest.mark.slow  # test_resume.py has the same of a run that was stopped, by its numbers
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(config, dataset, tmp_path, capsys):
    config.model.dropout = 0.2
    config.optim.ema_decay = 0.9
    config.data.border_weight = 10.0
    reports = []
    # Folder, epochs, reader processes, and how many weight maps are computed.
    runs = (("whole", 4, 0, 8), ("halves", 2, 0, 8), ("halves", 4, 1, 0))
    for name, epochs, config.data.workers, computed in runs:
        config.num_epochs = epochs
        reports.append(train(config, dataset, tmp_path / name, mesh_of(1)))
        assert f"weights, {computed} of them computed" in capsys.readouterr().out
    assert reports[0] == reports[2]
    for a, b in zip(
        final_arrays(tmp_path / "whole"), final_arrays(tmp_path / "halves"), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert history(tmp_path / "whole") == history(tmp_path / "halves")
    maps = [sorted((tmp_path / name / "weights").iterdir()) for name in ("whole", "halves")]
    assert len(maps[0]) == 8
    for a, b in zip(*maps, strict=True):
        assert (a.name, a.read_bytes()) == (b.name, b.read_bytes())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_newest_state_costs_no_more_than_the_steps_since(
    config, dataset, tmp_path, capsys
):
    config.num_epochs = 4
    whole = train(config, dataset, tmp_path / "whole", mesh_of(1))
    config.num_epochs = 3
    train(config, dataset, tmp_path / "harmed", mesh_of(1))
    for path in (tmp_path / "harmed" / "checkpoints" / "6" / "optimizer").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-7])
    config.num_epochs = 4
    assert train(config, dataset, tmp_path / "harmed", mesh_of(1)) == whole
    assert "resumes from step 4" in capsys.readouterr().out
    assert history(tmp_path / "whole") == history(tmp_path / "harmed")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("file", ["_CHECKPOINT_METADATA", "optimizer/_METADATA"])
def test_a_run_of_which_all_states_are_damaged_keeps_its_log_until_it_is_rerun(
    config, dataset, tmp_path, file
):
    whole = train(config, dataset, tmp_path, mesh_of(1))
    log = (tmp_path / "metrics.jsonl").read_bytes()
    for state in (tmp_path / "checkpoints").iterdir():
        (state / file).write_text("[1]")
    with pytest.raises(UserError, match="all checkpoints were damaged"):
        train(config, dataset, tmp_path, mesh_of(1))
    assert (tmp_path / "metrics.jsonl").read_bytes() == log
    assert train(config, dataset, tmp_path, mesh_of(1))["loss"] == whole["loss"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"model.padding": "valid", "model.depth": 2},
        {"model.name": "unet2", "loss.name": "dice"},
        {"model.name": "segnet", "loss.name": "bce+focal"},
        {"model.name": "attention_unet"},
        {"model.name": "residual_unet", "model.depth": 2, "model.deep_supervision": True},
        {"model.name": "unet_plus_plus", "model.depth": 2, "loss.name": "bce+dice"},
        {"data.fit": "resize", "loss.name": "bce+dice", "loss.class_weights": (1.0, 2.0)},
    ],
)
def test_other_networks_losses_and_sizes_learn_too(config, dataset, tmp_path, changes):
    config.update_from_flattened_dict(changes)
    config.num_epochs, config.eval.every_epochs, config.checkpoint.every_epochs = 15, 5, 15
    config.optim.learning_rate = 1e-2
    report = train(config, dataset, tmp_path, mesh_of(1))
    assert report["aggregate"]["auc"]["mean"] > 0.85


def test_the_report_is_of_the_model_with_the_lowest_validation_loss(config, dataset, tmp_path):
    config.num_epochs = 4
    config.optim.learning_rate = 0.03  # rough enough for the loss to go up and down
    report = train(config, dataset, tmp_path, mesh_of(1))
    validation = [line for line in read_history(tmp_path) if line["split"] == "validation"]
    assert len(validation) == 4
    assert report["step"] == min(validation, key=lambda line: line["loss"])["step"]
    assert json.loads((tmp_path / "report.json").read_text()) == report


def test_without_validation_the_last_checkpoint_is_reported(config, dataset, tmp_path):
    empty = make_split(0, 32, seed=0)
    dataset = type(dataset)(
        {**dataset.splits, "validation": empty}, dataset.classes, 1, dataset.sha256
    )
    report = train(config, dataset, tmp_path, mesh_of(1))
    assert report["step"] == make_plan(config, 8).total_steps
    assert not (tmp_path / "best").exists() or not any((tmp_path / "best").iterdir())


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoints(
    config, dataset, tmp_path
):
    config.model.norm = "none"
    config.optim.name = "sgd"
    config.num_epochs = 1
    train(config, dataset, tmp_path, mesh_of(1))
    config.num_epochs = 3
    # The same run, sabotaged: a learning rate that overflows.
    config_path = tmp_path / "config.json"
    saved = json.loads(config_path.read_text())
    saved["config"]["optim"]["learning_rate"] = 1e20
    config_path.write_text(json.dumps(saved))
    config.optim.learning_rate = 1e20
    config.log.every_steps = 4  # the first bad step is named, not the logged one
    with pytest.raises(UserError) as error:
        train(config, dataset, tmp_path, mesh_of(1))
    pattern = r"step (\d): the (loss|gradient_norm) is (nan|inf), on crops of (.*?); "
    found = re.match(pattern, str(error.value))
    assert found[1] in "34"
    index = pipeline.train_batches(
        dataset.splits["train"],
        batch_size=4,
        augment=augment.build((), config.augment, fit=Fit("crop", 16)),
        seed=0,
    )[int(found[1]) - 1]["index"]
    assert found[4] == ", ".join(sorted(f"image-{i}" for i in index))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["2"]


@pytest.mark.slow
def test_the_ema_of_the_weights_is_evaluated_and_saved(config, dataset, tmp_path):
    """By hand: every step's weights from the first on, with the decays of its warm-up."""
    config.optim.ema_decay = 0.5
    split, mesh = dataset.splits["train"], mesh_of(1)
    states = [updates(config, mesh, split, steps)[0] for steps in range(4)]
    average = jax.tree.map(np.asarray, states[0].variables)
    for before, state in enumerate(states[1:]):
        decay = min(0.5, (1 + before) / (10 + before))
        average = jax.tree.map(
            lambda a, new, decay=decay: decay * a + (1 - decay) * np.asarray(new),
            average,
            state.variables,
        )
    assert_trees_close(states[3].average, average, rtol=1e-5, atol=1e-7)
    assert states[3].evaluated is states[3].average

    report = train(config, dataset, tmp_path, mesh)
    assert evaluate({tmp_path: config}, dataset, mesh, split="test", checkpoint="best") == report
    arrays = {p.name for p in (tmp_path / "checkpoints" / "4").iterdir()}
    assert {"model", "optimizer", "trained", "config"} <= arrays


def test_the_thresholds_chosen_on_validation_are_kept_with_the_best_model(
    config, dataset, tmp_path
):
    config.num_epochs = 3
    dataset = dataclasses.replace(dataset, cells=True)
    report = train(config, dataset, tmp_path, mesh_of(1))
    with contextlib.closing(Checkpoints(tmp_path, 2, {}, read_only=True)) as checkpoints:
        chosen = checkpoints.best_metrics["thresholds"]
    rows = {row["rule"]: row for row in report["thresholds"]}
    assert rows[USED]["threshold"] == 0.5
    for name, mean in (("dice", "dice"), ("v_rand", "v_rand")):
        assert rows[USED][name] == pytest.approx(report["aggregate"][mean]["mean"])
    assert rows["best Dice on validation"]["threshold"] == chosen["dice"]
    assert rows["best V^Rand on validation"]["threshold"] == chosen["v_rand"]
    highest = rows["best on these images, as the challenge scores"]
    assert highest["v_rand"] >= rows["best V^Rand on validation"]["v_rand"]


def test_tensorboard_shows_scalars_config_hyperparameters_and_the_same_examples_over_time(
    config, dataset, tmp_path
):
    train(config, dataset, tmp_path, mesh_of(1))
    shown = events.read(tmp_path)
    wanted = {"train/loss", "validation/dice", "validation/auc", "test/loss"}
    assert wanted <= shown["scalars"].keys()
    assert shown["images"] == {"validation/image-0": [2, 4], "validation/image-1": [2, 4]}
    assert shown["texts"] == {"config"}
    assert shown["hyperparameters"]["model.width"] == 4
    assert shown["metrics"] >= {"test/dice", "validation/loss"}


def test_tensorboard_has_the_pooled_mean_iou_of_many_classes(config, dataset, tmp_path):
    config.model.classes, config.loss.name, config.num_epochs = 3, "cross_entropy", 1
    dataset = dataclasses.replace(dataset, classes=("a", "b", "c"))
    report = train(config, dataset, tmp_path, mesh_of(1))
    shown = events.read(tmp_path)
    assert "test/iou/mean" in shown["metrics"] and shown["scalars"]["test/iou/mean"]
    pooled = report["aggregate"]["mean_iou"]["pooled"]
    assert read_history(tmp_path)[-1]["iou/mean"] == pytest.approx(pooled)


def test_boundary_metrics_are_wherever_metrics_are(config, dataset, tmp_path):
    config.eval.metrics, config.num_epochs = ("boundary",), 1
    measured = {
        part: dataclasses.replace(split, pixel_sizes=((0.5, 0.25),) * len(split))
        for part, split in dataset.splits.items()
    }
    dataset = dataclasses.replace(dataset, splits=measured)
    run = tmp_path / "a-seed0"
    report = train(config, dataset, run, mesh_of(1))
    keys = ("hd95", "hd", "assd", "nsd", "boundary_iou", "hd95_um", "hd_um", "assd_um")
    assert json.loads((run / "report.json").read_text()) == report
    assert {*keys} <= report["aggregate"].keys() & report["per_class"]["blob"].keys()
    assert all({*keys} <= row.keys() for row in report["per_image"].values())
    assert report["one_mask_empty"].keys() == {"blob"} and report["settings"] == {
        "nsd_pixels": [2.0]
    }
    page = (run / "report.html").read_text()
    labels = [METRICS[key].title for key in keys]
    assert labels[0] == "HD95, pixels" and labels[-1] == "ASSD, µm"
    assert all(label in page for label in labels) and "only predicted" in page
    assert "Here <code>eval.nsd_pixels=[2.0]</code>." in page
    assert {f"{split}/{key}" for split in ("validation", "test") for key in keys} <= (
        events.read(run)["scalars"].keys()
    )
    (row,) = sweep.table(tmp_path, [sweep.Run("a.py", 0)])
    assert {*keys} <= row["metrics"].keys()
    compared = comparison.render(comparison.read_runs([run]), tmp_path)
    assert all(label in compared for label in labels)


def test_a_batch_that_the_devices_do_not_divide_is_refused(config, dataset, tmp_path):
    config.batch_size = 6
    with pytest.raises(
        UserError, match=r"batch_size=6: is not divisible .* devices; use a multiple of 4"
    ):
        train(config, dataset, tmp_path, mesh_of(4))
    assert not any(tmp_path.iterdir())


def test_a_model_that_predicts_one_class_is_reported(config, dataset, tmp_path, capsys):
    config.eval.threshold = 1e-6
    train(config, dataset, tmp_path, mesh_of(1))
    assert "every pixel was predicted as blob" in capsys.readouterr().out


def test_plan_rounds_an_epoch_to_whole_batches(config):
    config.batch_size = 4
    config.data.crops_per_image = 3
    plan = make_plan(config, train_images=7)
    assert plan.steps_per_epoch == 5
    assert plan.total_steps == 10
    assert [step for step in range(1, 11) if plan.is_due(step, every_epochs=2)] == [10]
    assert plan.is_due(5, every_epochs=1)


def test_the_initial_state_is_not_held_during_the_run(config, dataset, tmp_path, monkeypatch):
    initial, held = [], []

    def init(*arguments):
        state = init_state(*arguments)
        leaves = jax.tree.leaves((state.variables, state.opt_state))
        initial.extend(weakref.ref(leaf) for leaf in leaves)
        return state

    def count(*arguments):
        gc.collect()
        held.append(sum(leaf() is not None for leaf in initial))
        return validate(*arguments)

    monkeypatch.setattr(loop, "init_state", init)
    monkeypatch.setattr(loop, "validate", count)
    config.num_epochs = config.eval.every_epochs = 1
    train(config, dataset, tmp_path, mesh_of(1))
    assert initial
    assert held == [0]
