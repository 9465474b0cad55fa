"""Gradient accumulation: the gradient of the whole batch, from micro-batches."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_data import make_split
from training_steps import assert_trees_close, mesh_of

from unet_jax import models
from unet_jax.core.errors import UserError
from unet_jax.distributed import devices as parallel
from unet_jax.distributed import reductions
from unet_jax.learning import losses, optim
from unet_jax.learning.registry import LOSSES
from unet_jax.models.blocks import Norm
from unet_jax.runs.experiment import check
from unet_jax.training.accumulation import loss_and_gradient
from unet_jax.training.state import init_state
from unet_jax.training.step import compile_update

TERMS = [(name, k) for name in sorted(LOSSES) for k in (1, 3) if k in LOSSES[name].logits]
FAST = [("bce", 1), ("cross_entropy", 3), ("dice", 3)]
OPTIONS = {"cldice_iterations": 2, "boundary_pixels": 1, "focal_gamma": 2.0, "weights": ()}


class Levels(nn.Module):
    """A convolution with a group norm, and logits of two levels."""

    classes: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(Norm("group")(nn.Conv(4, (3, 3), use_bias=False)(x), train=True))
        head = nn.Conv(self.classes, (1, 1))
        return head(x), head(x[:, ::2, ::2])


def batch_of(k: int, seed: int):
    """Eight images, each of which ignores another share of its pixels, one of them all."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, max(k, 2), (8, 6, 5)).astype(np.uint8)
    label[rng.random(label.shape) < np.linspace(0, 1, 8)[:, None, None]] = 255
    return {
        "image": rng.normal(size=(*label.shape, 2)).astype(np.float32),
        "label": rng.permutation(label),
        "weight": rng.exponential(size=label.shape).astype(np.float32),
        "index": np.arange(8),
    }


@functools.cache
def compiled(name: str, k: int, count: int, devices: int = 1):
    """A function of (params, batch) that returns loss and gradient over some devices."""
    model = Levels(k)
    fields = OPTIONS | {"name": name, "class_weights": (0.5, 2.0, 1.0)[: max(k, 2)]}

    def step(params, batch):
        value, gradient, updated = loss_and_gradient(
            lambda params, images, _: (model.apply({"params": params}, images), {}),
            losses.build(**fields),
            params,
            {},
            batch,
            jax.random.key(0),
            count=count,
            pixel_weights=losses.pixel_weights(**fields),
        )
        assert not updated
        return value, reductions.mean(gradient)

    if devices == 1:
        return jax.jit(step)
    mapped = jax.pmap(step, reductions.AXIS, in_axes=(None, 0), out_axes=None)

    def over_devices(params, batch):
        return mapped(params, {k: x.reshape(devices, -1, *x.shape[1:]) for k, x in batch.items()})

    return over_devices


@pytest.mark.parametrize(
    ("name", "k", "count", "devices"),
    [
        *((*term, 4, 1) for term in FAST),
        *(pytest.param(*term, 4, 1, marks=pytest.mark.slow) for term in TERMS if term not in FAST),
        ("bce+dice", 1, 2, 4),
        pytest.param("bce+focal", 1, 2, 2, marks=pytest.mark.slow),
        pytest.param("cross_entropy+cldice", 3, 8, 1, marks=pytest.mark.slow),
    ],
)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_loss_and_gradient_are_those_of_the_whole_batch(name, k, count, devices, seed):
    """Of every loss term, with ignored pixels, pixel and class weights and deep supervision."""
    batch = batch_of(k, seed)
    params = Levels(k).init(jax.random.key(seed), batch["image"])["params"]
    value, gradient = compiled(name, k, 1)(params, batch)
    own_value, own_gradient = compiled(name, k, count, devices)(params, batch)
    assert float(own_value) == pytest.approx(float(value), rel=1e-6)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(gradient))
    assert largest > 0
    assert_trees_close(own_gradient, gradient, rtol=0, atol=1e-6 * max(largest, 1))


def traced(name: str, forward, count: int = 4, stats=None):
    """Loss, gradient and statistics of a network with one parameter, on `batch_of`."""
    fields = OPTIONS | {"name": name, "class_weights": ()}
    return loss_and_gradient(
        forward,
        losses.build(**fields),
        {"logit": jnp.float32(0.3)},
        stats or {},
        batch_of(1, 0),
        jax.random.key(7),
        count=count,
        pixel_weights=losses.pixel_weights(**fields),
    )


@pytest.mark.parametrize(("name", "passes"), [("bce+focal", 1), ("bce+dice", 2), ("boundary", 2)])
def test_only_a_loss_that_is_no_mean_over_pixels_needs_two_forward_passes(name, passes):
    shapes = []

    def forward(params, images, _):
        shapes.append(images.shape)
        return params["logit"] * images[..., :1], {}

    traced(name, forward)
    assert shapes == [(2, 6, 5, 2)] * passes


@pytest.mark.parametrize("name", ["bce", "dice"])
def test_each_micro_batch_has_its_own_dropout_the_same_in_both_passes(name):
    def forward(params, images, key):
        noise = jax.random.bernoulli(key, 0.5, images.shape[:3])
        return (params["logit"] * noise)[..., None], {"drawn": jax.random.uniform(key)}

    value, gradient, updated = traced(name, forward, stats={"drawn": jnp.float32(5)})
    keys = [jax.random.fold_in(jax.random.key(7), i) for i in range(4)]
    drawn = [float(jax.random.uniform(key)) for key in keys]
    assert len(set(drawn)) == 4
    assert float(updated["drawn"]) == pytest.approx(np.mean(drawn), rel=1e-6)
    noise = np.empty((8, 6, 5, 1), np.float32)
    for i, key in enumerate(keys):
        noise[i::4, ..., 0] = jax.random.bernoulli(key, 0.5, (2, 6, 5))
    whole = traced(name, lambda params, images, _: (params["logit"] * noise, {}), count=1)
    assert float(value) == pytest.approx(float(whole[0]), rel=1e-6)
    assert float(gradient["logit"]) == pytest.approx(float(whole[1]["logit"]), rel=1e-5)


def after_steps(config, devices: int = 1, steps: int = 2):
    """The state after some steps on eight images, in numpy, and the metrics of the last."""
    model, mesh = models.build(**config.model), mesh_of(devices)
    optimizer = optim.build(config.optim, lambda _: 0.01, model.encoder_modules, 1)
    state = init_state(model, optimizer, 1, config.seed, config.optim.ema_decay)
    split = make_split(8, 16, seed=0)
    split.read.args[1][:, 0] = np.arange(16) // 2 * 30  # other ignored pixels in each image
    batch = {k: np.stack([split[i][k] for i in range(8)]) for k in ("image", "label")}
    batch["label"][0, :6] = batch["label"][5, :12] = 255
    if config.data.border_weight:
        batch["weight"] = np.random.default_rng(0).exponential(size=batch["label"].shape)
        batch["weight"] = batch["weight"].astype(np.float32)
    batch = jax.tree.map(lambda x: parallel.spread(x, mesh), batch)
    state = parallel.replicate(state, mesh)
    metrics = {}
    for step in range(1, steps + 1):
        frozen = step == 1 and bool(config.optim.frozen_epochs)
        update = compile_update(config, model, optimizer, mesh, frozen)
        state, metrics = update(state, batch, jax.random.key(0))
    return parallel.to_host(state), {name: float(x) for name, x in metrics.items()}


@pytest.fixture
def config(config):
    config.batch_size, config.model.norm = 8, "group"
    config.optim.name = "sgd"  # Adam would make a gradient's rounding a step of its own
    config.optim.clip_norm, config.optim.ema_decay = 0.5, 0.9
    config.loss.name = "bce+dice"
    return config


@pytest.mark.parametrize(
    "changes",
    [
        {"data.border_weight": 1.0},
        pytest.param(
            {"optim.frozen_epochs": 1.0, "optim.encoder_rate": 0.5}, marks=pytest.mark.slow
        ),
        pytest.param({"model.deep_supervision": True, "loss.name": "bce"}, marks=pytest.mark.slow),
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_steps_of_micro_batches_equal_steps_of_the_whole_batch(config, changes):
    """With clipping and an EMA; clipping is by the norm of the accumulated gradient."""
    config.update_from_flattened_dict(changes)
    if config.model.deep_supervision:
        config.model.depth = 2
    whole, metrics = after_steps(config)
    config.optim.accumulate = 4
    parts, own_metrics = after_steps(config)
    assert metrics["gradient_norm"] > config.optim.clip_norm
    assert own_metrics == pytest.approx(metrics, rel=1e-5)
    assert_trees_close(parts, whole, rtol=1e-5, atol=1e-6)


def test_running_statistics_move_once_by_the_mean_of_the_micro_batches(config):
    config.model.norm, config.optim.accumulate = "batch", 2
    config.optim.learning_rate = 0.0
    before, _ = after_steps(config, steps=0)
    after, _ = after_steps(config, steps=1)
    model, split = models.build(**config.model), make_split(8, 16, seed=0)
    images = np.stack([split[i]["image"] for i in range(8)]).astype(np.float32) / 127.5 - 1
    apply = jax.jit(lambda x: model.apply(before.variables, x, True, mutable=["batch_stats"])[1])
    halves = [apply(images[i::2])["batch_stats"] for i in range(2)]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    assert_trees_close(after.variables["batch_stats"], mean, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_micro_batches_have_the_same_images_on_any_number_of_devices(config):
    """With batch normalisation, whose statistics depend on which these are."""
    config.model.norm, config.optim.accumulate = "batch", 2
    one, metrics = after_steps(config)
    four, own_metrics = after_steps(config, devices=4)
    assert own_metrics == pytest.approx(metrics, rel=1e-4)
    assert_trees_close(one.variables, four.variables, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_frozen_norms_keep_their_statistics_bit_for_bit(config):
    config.model.norm, config.optim.accumulate = "batch", 4
    config.optim.frozen_norm = "all"
    before, _ = after_steps(config, steps=0)
    after, _ = after_steps(config, steps=1)
    same = jax.tree.map(np.array_equal, *(x.variables["batch_stats"] for x in (before, after)))
    assert all(jax.tree.leaves(same))


def test_a_number_of_micro_batches_that_does_not_divide_the_batch_is_refused(config):
    config.optim.accumulate = 3
    with pytest.raises(UserError, match=r"^optim\.accumulate=3: .* batch_size=8.* a divisor of it"):
        check(config)
    parallel.check_batch_size(8, mesh_of(2), 4)
    with pytest.raises(UserError, match=r"batch_size=8: .*accumulate=8; use a multiple of 16$"):
        parallel.check_batch_size(8, mesh_of(2), 8)
