"""Steps of a frozen encoder and of frozen norms."""

import contextlib

import jax
import numpy as np
import pytest
from launched import history
from made_data import make_split
from made_runs import signal_after
from training_steps import assert_trees_close, mesh_of

from unet_jax import models
from unet_jax.core.errors import UserError
from unet_jax.core.stop import Interrupted
from unet_jax.distributed import devices as parallel
from unet_jax.learning import optim
from unet_jax.runs.checkpoints import Checkpoints
from unet_jax.runs.experiment import check
from unet_jax.training.loop import train
from unet_jax.training.state import init_state
from unet_jax.training.step import compile_update


@pytest.fixture
def config(config):
    config.optim.frozen_epochs, config.optim.ema_decay = 1.0, 0.9
    config.optim.encoder_rate, config.optim.weight_decay = 0.5, 0.1
    config.optim.name = "adamw"
    return config


def after_steps(config, devices: int, frozen_steps: int, steps: int):
    """The states after each step, the first of them before any, in numpy."""
    model, mesh = models.build(**config.model), mesh_of(devices)
    optimizer = optim.build(config.optim, lambda _: 0.01, model.encoder_modules, frozen_steps)
    state = init_state(model, optimizer, 1, config.seed, config.optim.ema_decay)
    split, states = make_split(8, 16, seed=0), [state]
    batch = {k: np.stack([split[i][k] for i in range(8)]) for k in ("image", "label")}
    batch = jax.tree.map(lambda x: parallel.spread(x, mesh), batch)
    state = parallel.replicate(state, mesh)
    for step in range(1, steps + 1):
        update = compile_update(config, model, optimizer, mesh, step <= frozen_steps)
        state, metrics = update(state, batch, jax.random.key(0))
        assert np.isfinite(metrics["loss"])
        states.append(parallel.to_host(state))
    return model, states


def parts_of(model, tree):
    """The encoder's arrays, and the others."""
    parts = ({}, {})
    for name, arrays in tree.items():
        parts[not name.startswith(model.encoder_modules)][name] = arrays
    return parts


def moved(before, after) -> list[bool]:
    return [
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    ]


def test_a_frozen_encoder_keeps_its_parameters_until_it_is_trained(config):
    model, states = after_steps(config, 1, frozen_steps=1, steps=2)
    params = [parts_of(model, state.variables["params"]) for state in states]
    assert not any(moved(params[0][0], params[1][0]))
    assert all(moved(params[0][1], params[1][1]))
    assert all(moved(params[1][0], params[2][0]))
    stats = [parts_of(model, state.variables["batch_stats"])[0] for state in states]
    assert all(moved(stats[0], stats[1]))  # its norms are not frozen


@pytest.mark.parametrize("frozen", ["encoder", "all"])
def test_frozen_norms_keep_their_statistics_and_train_scale_and_bias(config, frozen):
    config.optim.frozen_norm = frozen
    model, states = after_steps(config, 1, frozen_steps=0, steps=1)
    before, after = (parts_of(model, state.variables["batch_stats"]) for state in states)
    assert not any(moved(before[0], after[0]))
    assert any(moved(before[1], after[1])) == (frozen == "encoder")
    before, after = (parts_of(model, state.variables["params"]) for state in states)
    assert all(moved(before[0], after[0])) and all(moved(before[1], after[1]))


def test_norms_without_running_statistics_cannot_be_frozen(config):
    config.optim.frozen_norm, config.model.norm = "all", "group"
    with pytest.raises(UserError, match=r"^optim\.frozen_norm=all: model\.norm=group .*=none"):
        check(config)


@pytest.mark.slow
def test_two_devices_equal_one(config):
    _, one = after_steps(config, 1, frozen_steps=1, steps=2)
    _, two = after_steps(config, 2, frozen_steps=1, steps=2)
    assert_trees_close(one[-1].variables, two[-1].variables, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_run_stopped_in_either_phase_resumes_bit_for_bit(config, dataset, tmp_path, monkeypatch):
    config.num_epochs = 3  # of two steps, the first of which are frozen
    whole = train(config, dataset, tmp_path / "whole", mesh_of(1))
    for step in (1, 3):
        with monkeypatch.context() as patch:
            signal_after(step, patch)
            with pytest.raises(Interrupted):
                train(config, dataset, tmp_path / "parts", mesh_of(1))
    assert train(config, dataset, tmp_path / "parts", mesh_of(1)) == whole
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    last = []
    for name in ("whole", "parts"):
        with contextlib.closing(Checkpoints(tmp_path / name, 2, {}, read_only=True)) as saved:
            last.append(saved._latest.restore(6))
    jax.tree.map(np.testing.assert_array_equal, last[0]["model"], last[1]["model"])
    jax.tree.map(np.testing.assert_array_equal, last[0]["optimizer"], last[1]["optimizer"])
