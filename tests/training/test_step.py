"""The training step: devices, mapped axes, input range and pixel weights."""

import functools

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from made_data import make_split
from training_steps import assert_trees_close, mesh_of, updates

from unet_jax import models
from unet_jax.core.intensities import Intensities
from unet_jax.distributed import devices as parallel
from unet_jax.distributed import reductions
from unet_jax.learning import losses, optim
from unet_jax.training.state import init_state
from unet_jax.training.step import train_step


@pytest.mark.parametrize("norm", ["batch", pytest.param("group", marks=pytest.mark.slow)])
def test_four_devices_equal_one_with_unequal_ignored_pixels(config, norm):
    config.model.norm = norm
    # Adam would turn the rounding of gradients that are almost 0 into whole steps.
    config.optim.name, config.optim.learning_rate = "sgd", 0.1
    split = make_split(8, 16, seed=0)
    labels = split.read.args[1]
    for i in range(8):  # image i ignores i / 8 of its rows, so the devices' counts differ
        labels[i, : 2 * i] = 255
    one, losses_of_one = updates(config, mesh_of(1), split, steps=3)
    four, losses_of_four = updates(config, mesh_of(4), split, steps=3)
    np.testing.assert_allclose(losses_of_one, losses_of_four, rtol=1e-5)
    assert_trees_close(one.variables, four.variables, rtol=1e-3, atol=1e-5)
    for mean_or_variance in jax.tree.leaves(one.variables.get("batch_stats")):
        assert np.ptp(mean_or_variance) > 1e-3  # those of the whole batch have moved
    for leaf in jax.tree.leaves(four):
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(shards) == 4
        for shard in shards[1:]:
            np.testing.assert_array_equal(shards[0], shard)


@pytest.mark.slow
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
    logits = jax.jit(model.apply)(variables, images / 255 * (high - low) + low)
    labels = np.stack([split[i]["label"] for i in range(8)])
    assert values == [pytest.approx(float(losses.build(**config.loss)(logits, labels)), rel=1e-5)]


def test_a_step_counts_one_and_the_ema_warms_up(config):
    """The EMA's decay after step t is min(ema_decay, (1 + t) / (10 + t)), t from 0."""
    config.optim.ema_decay, config.model.norm = 0.9, "none"
    split = make_split(8, 16, seed=0)
    average = models.init(models.build(**config.model), 1, config.seed)["params"]
    for steps, decay in ((1, 1 / 10), (2, 2 / 11)):
        state, _ = updates(config, mesh_of(1), split, steps=steps)
        assert int(state.step) == steps
        average = jax.tree.map(
            lambda old, new, d=decay: d * old + (1 - d) * new, average, state.variables["params"]
        )
        assert_trees_close(state.average["params"], average, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_devices_drop_different_activations(config):
    config.model.dropout = 0.5
    split = make_split(8, 16, seed=0)
    _, plain = updates(config, mesh_of(1), split, steps=1)
    _, spread = updates(config, mesh_of(4), split, steps=1)
    assert plain != spread  # each device folds its own number into the key


def one_step(config, compile_step, place=lambda tree: tree):
    """The state and the metrics after a step of a network with all that devices share."""
    config.model.dropout, config.optim.ema_decay = 0.5, 0.9
    config.optim.name = "sgd"  # Adam would make a gradient's rounding a step of its own
    model = models.build(**config.model)
    optimizer = optim.build(config.optim, lambda _: config.optim.learning_rate)
    step = functools.partial(
        train_step,
        model=model,
        loss=losses.build(**config.loss),
        optimizer=optimizer,
        ema_decay=config.optim.ema_decay,
        intensities=Intensities.of(config.data),
    )
    split = make_split(4, 16, seed=0)
    split.read.args[1][0, :5] = 255
    batch = {key: np.stack([split[i][key] for i in range(4)]) for key in ("image", "label")}
    state = init_state(model, optimizer, 1, config.seed, config.optim.ema_decay)
    return compile_step(step)(place(state), batch, jax.random.key(config.seed))


@pytest.mark.slow
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


def test_a_step_without_reductions_over_devices_is_detected(config, monkeypatch):
    """A step whose reductions do not see the devices of its pmap must not train."""
    config.model.width = 3  # no other test has compiled this step
    monkeypatch.setattr(parallel, "is_mapped", lambda: False)
    with pytest.raises(AssertionError):
        updates(config, mesh_of(4), make_split(8, 16, seed=0), steps=1)


class Constant(nn.Module):
    """The same logit everywhere."""

    multiple: int = 1

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
        intensities=Intensities(),
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
