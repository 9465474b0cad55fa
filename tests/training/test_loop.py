import contextlib
import dataclasses
import functools
import json
import re

import events
import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from made_data import make_split

from unet_jax import models
from unet_jax.core.errors import UserError
from unet_jax.data import pipeline
from unet_jax.data.augment import transforms as augment
from unet_jax.distributed import devices as parallel
from unet_jax.distributed import reductions
from unet_jax.evaluation.evaluate import evaluate
from unet_jax.learning import losses, optim
from unet_jax.runs.checkpoints import Checkpoints
from unet_jax.runs.log import read_history
from unet_jax.training.loop import train
from unet_jax.training.plan import make_plan
from unet_jax.training.state import init_state
from unet_jax.training.step import train_step


def mesh_of(devices: int):
    return parallel.local_mesh(jax.devices()[:devices])


def updates(config, mesh, split, steps, transforms=("flip",)):
    """The state after some steps on `split`, still on the devices, and each step's loss."""
    model = models.build(**config.model)
    optimizer = optim.build(config.optim, lambda _: config.optim.learning_rate)
    loss, ema_decay = losses.build(**config.loss), config.optim.ema_decay
    step = functools.partial(
        train_step,
        model=model,
        loss=loss,
        optimizer=optimizer,
        ema_decay=ema_decay,
        input_range=config.data.input_range,
    )
    update = parallel.compile_train_step(step, mesh)
    state = parallel.replicate(init_state(model, optimizer, 1, config.seed, ema_decay), mesh)
    batches = pipeline.train_batches(
        split,
        batch_size=8,
        augment=augment.build(transforms, config.augment, fit="crop", size=config.data.size),
        seed=config.seed,
    )
    values = []
    with parallel.on_devices(pipeline.read_ahead(batches, 0), mesh) as placed:
        for _ in range(steps):
            state, metrics = update(state, next(placed), jax.random.key(config.seed))
            values.append(float(metrics["loss"]))
    return state, values


def assert_trees_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


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


def without_clock(history):
    return [
        {k: v for k, v in line.items() if k not in ("time", "images_per_second")}
        for line in history
    ]


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_four_devices_do_what_one_does_with_unequal_ignored_pixels(config, norm):
    config.model.norm = norm
    split = make_split(8, 16, seed=0)
    labels = split.read.args[1]
    for i in range(8):  # image i ignores i / 8 of its rows, so the devices' counts differ
        labels[i, : 2 * i] = 255
    one, losses_of_one = updates(config, mesh_of(1), split, steps=3)
    four, losses_of_four = updates(config, mesh_of(4), split, steps=3)
    np.testing.assert_allclose(losses_of_one, losses_of_four, rtol=1e-5)
    assert_trees_close(one.variables, four.variables, rtol=1e-3, atol=1e-5)
    for leaf in jax.tree.leaves(four):
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(shards) == 4
        for shard in shards[1:]:
            np.testing.assert_array_equal(shards[0], shard)


@pytest.mark.parametrize("input_range", ["symmetric", "unit"])
def test_a_step_trains_on_pixels_in_the_network_s_range(config, input_range):
    """The first step's loss, by hand."""
    config.data.input_range = input_range
    config.data.size = 32  # whole images
    config.model.norm = "none"
    split = make_split(8, 32, seed=0)
    _, values = updates(config, mesh_of(1), split, steps=1, transforms=())
    model = models.build(**config.model)
    variables = models.init(model, 1, config.seed)
    low, high = {"symmetric": (-1, 1), "unit": (0, 1)}[input_range]
    images = np.stack([split[i]["image"] for i in range(8)]).astype(np.float32)
    logits = model.apply(variables, images / 255 * (high - low) + low)
    labels = np.stack([split[i]["label"] for i in range(8)])
    assert values == [pytest.approx(float(losses.build(**config.loss)(logits, labels)), rel=1e-5)]


def test_batch_statistics_are_the_global_batchs(config):
    """One step moves the running mean by 0.1 of the mean over the whole batch."""
    split = make_split(8, 16, seed=0)
    state, _ = updates(config, mesh_of(4), split, steps=1)
    reference, _ = updates(config, mesh_of(1), split, steps=1)
    means = jax.tree.leaves(state.variables["batch_stats"])
    assert max(float(abs(m).max()) for m in means) > 1e-3
    assert_trees_close(
        state.variables["batch_stats"], reference.variables["batch_stats"], rtol=1e-4, atol=1e-6
    )


def test_devices_drop_different_activations(config):
    config.model.dropout = 0.5
    split = make_split(8, 16, seed=0)
    _, plain = updates(config, mesh_of(1), split, steps=1)
    _, spread = updates(config, mesh_of(4), split, steps=1)
    assert plain != spread  # each device folds its own number into the key


def one_step(config, compile_step, place=lambda tree: tree):
    """The state and the metrics after a step of a network with all that devices share."""
    config.model.depth, config.model.dropout, config.optim.ema_decay = 1, 0.5, 0.9
    config.optim.name = "sgd"  # Adam would make a gradient's rounding a step of its own
    model = models.build(**config.model)
    optimizer = optim.build(config.optim, lambda _: config.optim.learning_rate)
    step = functools.partial(
        train_step,
        model=model,
        loss=losses.build(**config.loss),
        optimizer=optimizer,
        ema_decay=config.optim.ema_decay,
        input_range=config.data.input_range,
    )
    split = make_split(4, 16, seed=0)
    split.read.args[1][0, :5] = 255
    batch = {key: np.stack([split[i][key] for i in range(4)]) for key in ("image", "label")}
    state = init_state(model, optimizer, 1, config.seed, config.optim.ema_decay)
    return compile_step(step)(place(state), batch, jax.random.key(config.seed))


def test_a_step_under_plain_jit_is_that_of_one_device(config):
    mesh = mesh_of(1)

    def over_one_device(step):
        update = parallel.compile_train_step(step, mesh)
        spread = functools.partial(parallel.spread, mesh=mesh)
        return lambda state, batch, key: update(state, jax.tree.map(spread, batch), key)

    mapped = one_step(config, over_one_device, lambda tree: parallel.replicate(tree, mesh))
    plain = one_step(config, jax.jit)
    assert_trees_close(plain, mapped, rtol=1e-5, atol=1e-7)


def test_a_network_trains_outside_any_mapped_axis(config):
    config.model.depth = 1
    model = models.build(**config.model)
    variables = models.init(model, 1, config.seed)
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 1)).astype(np.float32)
    logits, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
    assert logits.shape == (2, 16, 16, 1)
    first = updated["batch_stats"]["down_0"]["Norm_0"]["BatchNorm_0"]["mean"]
    # A mapped axis is seen by code that was compiled outside it before, and the other way round.
    apply = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    alone = apply(variables, images[:1])
    halves = jax.pmap(apply, reductions.AXIS, in_axes=(None, 0))(variables, images[:, None])
    assert_trees_close(
        halves[1]["batch_stats"]["down_0"]["Norm_0"]["BatchNorm_0"]["mean"][0],
        first,
        rtol=1e-5,
        atol=1e-7,
    )
    again = apply(variables, images[:1])
    assert_trees_close(alone, again, rtol=0, atol=0)


def test_devices_that_share_nothing_are_noticed(config, monkeypatch):
    """A step whose reductions do not see the devices of its pmap must not train."""
    monkeypatch.setattr(parallel, "is_mapped", lambda: False)
    with pytest.raises(AssertionError):
        updates(config, mesh_of(4), make_split(8, 16, seed=0), steps=1)


class Constant(nn.Module):
    """The same logit everywhere."""

    depth: int = 0

    @nn.compact
    def __call__(self, x, train=False):
        logit = self.param("logit", nn.initializers.constant(0.3), ())
        return jax.numpy.broadcast_to(logit, (*x.shape[:3], 1))


@pytest.mark.parametrize("devices", [1, 2])
def test_weights_count_in_a_step_as_by_hand(config, devices):
    """The gradient of sum(w ce) / sum(w) is sum(w (p - t)) / sum(w)."""
    label = np.array([[[0, 1, 255]], [[1, 0, 0]]], np.uint8)
    batch = {"image": np.zeros((2, 1, 3, 1), np.uint8), "label": label}
    weight = np.array([[[4.0, 1.0, 50.0]], [[0.5, 0.0, 2.0]]], np.float32)
    mesh, p = mesh_of(devices), 1 / (1 + np.exp(-0.3))
    optimizer = optax.sgd(1.0)
    step = functools.partial(
        train_step,
        model=Constant(),
        loss=losses.build(**config.loss),
        optimizer=optimizer,
        ema_decay=0.0,
        input_range="symmetric",
    )
    update = parallel.compile_train_step(step, mesh)
    for added, w in (({}, np.ones_like(weight)), ({"weight": weight}, weight)):
        state = parallel.replicate(init_state(Constant(), optimizer, 1, 0, 0.0), mesh)
        placed = {k: v.reshape(devices, -1, *v.shape[1:]) for k, v in {**batch, **added}.items()}
        state, metrics = update(state, placed, jax.random.key(0))
        w = np.where(label == 255, 0, w)
        ce = np.where(label == 1, -np.log(p), -np.log(1 - p))
        assert float(metrics["loss"]) == pytest.approx(np.sum(w * ce) / w.sum(), rel=1e-5)
        slope = np.sum(w * (p - (label == 1))) / w.sum()
        logit = float(state.variables["params"]["logit"])
        assert logit == pytest.approx(0.3 - slope, rel=1e-5)


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


def test_training_learns(config, dataset, tmp_path):
    config.num_epochs = 15
    config.optim.learning_rate = 1e-2
    report = train(config, dataset, tmp_path / "run", mesh_of(1))
    assert report["aggregate"]["dice"]["mean"] > 0.9
    assert report["loss"] < 0.4


def test_two_halves_are_the_whole_bit_for_bit(config, dataset, tmp_path, capsys):
    config.model.dropout = 0.2
    config.optim.ema_decay = 0.9
    config.data.border_weight = 10.0
    reports = []
    # Folder, epochs, reader processes, and how many weight maps are computed.
    runs = (("whole", 4, 0, 8), ("halves", 2, 0, 8), ("halves", 4, 1, 0))
    for name, epochs, workers, computed in runs:
        config.num_epochs, config.data.workers = epochs, workers
        reports.append(train(config, dataset, tmp_path / name, mesh_of(1)))
        assert f"weights, {computed} of them computed" in capsys.readouterr().out
    assert reports[0] == reports[2]
    for a, b in zip(
        final_arrays(tmp_path / "whole"), final_arrays(tmp_path / "halves"), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert without_clock(read_history(tmp_path / "whole")) == without_clock(
        read_history(tmp_path / "halves")
    )
    maps = [sorted((tmp_path / name / "weights").iterdir()) for name in ("whole", "halves")]
    assert len(maps[0]) == 8
    for a, b in zip(*maps, strict=True):
        assert (a.name, a.read_bytes()) == (b.name, b.read_bytes())


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
    assert without_clock(read_history(tmp_path / "whole")) == without_clock(
        read_history(tmp_path / "harmed")
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"model.padding": "valid"},
        {"model.name": "unet2", "loss.name": "dice"},
        {"model.name": "segnet", "loss.name": "bce+focal"},
        {"data.fit": "resize", "loss.name": "bce+dice", "loss.class_weights": (1.0, 2.0)},
    ],
)
def test_other_networks_losses_and_sizes_learn_too(config, dataset, tmp_path, changes):
    config.update_from_flattened_dict(changes)
    config.num_epochs = 15
    config.optim.learning_rate = 1e-2
    report = train(config, dataset, tmp_path, mesh_of(4))
    assert report["aggregate"]["auc"]["mean"] > 0.85


def test_same_command_after_the_end_only_reports(config, dataset, tmp_path):
    first = train(config, dataset, tmp_path, mesh_of(1))
    lines = without_clock(read_history(tmp_path))
    assert train(config, dataset, tmp_path, mesh_of(1)) == first
    assert without_clock(read_history(tmp_path)) == lines


def test_a_checkpoint_of_four_devices_goes_on_on_one(config, dataset, tmp_path):
    config.num_epochs = 4
    whole = train(config, dataset, tmp_path / "whole", mesh_of(4))
    config.num_epochs = 2
    train(config, dataset, tmp_path / "moved", mesh_of(4))
    config.num_epochs = 4
    moved = train(config, dataset, tmp_path / "moved", mesh_of(1))
    assert moved["step"] == whole["step"]
    np.testing.assert_allclose(moved["loss"], whole["loss"], rtol=1e-3)
    losses_of = lambda name: [line["loss"] for line in read_history(tmp_path / name)]  # noqa: E731
    np.testing.assert_allclose(losses_of("moved"), losses_of("whole"), rtol=1e-3)


def test_the_report_is_of_the_model_with_the_lowest_validation_loss(config, dataset, tmp_path):
    config.num_epochs = 6
    config.optim.learning_rate = 0.03  # rough enough for the loss to go up and down
    report = train(config, dataset, tmp_path, mesh_of(1))
    validation = [line for line in read_history(tmp_path) if line["split"] == "validation"]
    assert len(validation) == 6
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
        augment=augment.build((), config.augment, fit="crop", size=16),
        seed=0,
    )[int(found[1]) - 1]["index"]
    assert found[4] == ", ".join(sorted(f"image-{i}" for i in index))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["2"]


def test_the_average_of_the_weights_is_evaluated_and_kept(config, dataset, tmp_path):
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
    config.num_epochs = 6
    dataset = dataclasses.replace(dataset, cells=True)
    report = train(config, dataset, tmp_path, mesh_of(1))
    with contextlib.closing(Checkpoints(tmp_path, 2, {}, read_only=True)) as checkpoints:
        chosen = checkpoints.best_metrics["thresholds"]
    rows = {row["rule"]: row for row in report["thresholds"]}
    assert rows["fixed"]["threshold"] == 0.5
    for name, mean in (("dice", "dice"), ("v_rand", "v_rand")):
        assert rows["fixed"][name] == pytest.approx(report["aggregate"][mean]["mean"])
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


def test_a_batch_that_the_devices_do_not_divide_is_refused(config, dataset, tmp_path):
    config.batch_size = 6
    with pytest.raises(UserError, match=r"batch_size=6.*4 devices.*multiple of 4"):
        train(config, dataset, tmp_path, mesh_of(4))
    assert not any(tmp_path.iterdir())


def test_a_model_that_predicts_one_class_is_said_aloud(config, dataset, tmp_path, capsys):
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
