"""A run that was stopped resumes as if it had not been."""

import contextlib
import os
import random
import shutil
import time

import events
import jax
import numpy as np
import pytest
from launched import history
from made_networks import all_losses, variants, with_network
from made_runs import make_run, signal_after

import unet_jax.training.loop
import unet_jax.training.validation
from unet_jax import models
from unet_jax.core.stop import Interrupted
from unet_jax.distributed import devices as parallel
from unet_jax.inference import predictor
from unet_jax.runs.checkpoints import Checkpoints
from unet_jax.runs.log import read_history
from unet_jax.training.loop import train


def mesh_of(devices: int):
    return parallel.local_mesh(jax.devices()[:devices])


EVERYTHING = {
    "optim.schedule": "cosine",
    "optim.warmup_epochs": 1.0,
    "optim.clip_norm": 0.5,
    "optim.ema_decay": 0.9,
    "optim.learning_rate": 0.03,  # rough enough for the best not to be the last
    "optim.name": "adamw",
    "optim.weight_decay": 0.01,
    "model.dropout": 0.2,
    "data.augment": ("flip", "elastic", "noise"),
    "num_epochs": 5,
    "checkpoint.every_epochs": 2,
}


@pytest.mark.slow
@pytest.mark.parametrize("network", models.NETWORKS)
def test_a_run_that_sigterm_stopped_resumes_with_equal_results(
    config, dataset, tmp_path, monkeypatch, network
):
    """In the middle of an epoch, where no save is due: schedule, EMA, best and all."""
    config.update_from_flattened_dict(EVERYTHING)
    config = with_network(config, variants()[network], 1, all_losses(1))
    whole = train(config, dataset, tmp_path / "whole", mesh_of(1))
    for step in (3, 7):
        with monkeypatch.context() as patch:
            signal_after(step, patch)
            with pytest.raises(Interrupted):
                train(config, dataset, tmp_path / "parts", mesh_of(1))
        with contextlib.closing(Checkpoints(tmp_path / "parts", 2, {}, read_only=True)) as saved:
            assert step <= saved.latest_step() <= step + 1
    assert train(config, dataset, tmp_path / "parts", mesh_of(1)) == whole
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    chosen = []
    for name in ("whole", "parts"):
        with contextlib.closing(Checkpoints(tmp_path / name, 2, {}, read_only=True)) as saved:
            chosen.append(saved.bests)
    assert chosen[0] == chosen[1]
    runs = (tmp_path / "whole", tmp_path / "parts")
    weights = [predictor.restore(run, config, "last").variables for run in runs]
    jax.tree.map(np.testing.assert_array_equal, *weights)


def test_the_best_so_far_comes_back(config, dataset, tmp_path, monkeypatch):
    """A run that only gets worse after it was stopped reports the best from before."""
    config.num_epochs = 1
    train(config, dataset, tmp_path, mesh_of(1))
    config.num_epochs = 4
    monkeypatch.setattr(
        unet_jax.training.validation, "mean_scalars", lambda summary: {"loss": 99.0}
    )
    assert train(config, dataset, tmp_path, mesh_of(1))["step"] == 2
    assert [p.name for p in (tmp_path / "best").iterdir()] == ["2"]


@pytest.mark.slow
def test_order_and_losses_are_the_same_whatever_the_devices_and_the_stops(
    config, dataset, tmp_path, monkeypatch
):
    """4, 2 and 1 devices in turn, stopped within epochs: no example is lost or seen twice."""
    config.num_epochs = 5
    seen = []
    compiled = unet_jax.training.loop.compile_update

    def recording(*arguments):
        update = compiled(*arguments)

        def step(state, batch, key):
            seen.append((int(state.step), parallel.join(batch["index"]).tolist()))
            return update(state, batch, key)

        return step

    monkeypatch.setattr(unet_jax.training.loop, "compile_update", recording)
    report = train(config, dataset, tmp_path / "whole", mesh_of(1))
    whole, seen[:] = list(seen), []
    for devices, stop in ((4, 3), (2, 7), (1, None)):
        with monkeypatch.context() as patch:
            if stop is None:
                moved = train(config, dataset, tmp_path / "parts", mesh_of(devices))
                continue
            signal_after(stop, patch)
            with pytest.raises(Interrupted):
                train(config, dataset, tmp_path / "parts", mesh_of(devices))
    assert [step for step, _ in whole] == list(range(10))
    assert seen == whole
    assert moved["step"] == report["step"]
    np.testing.assert_allclose(moved["loss"], report["loss"], rtol=1e-3)
    losses, moved_losses = (
        [line["loss"] for line in read_history(tmp_path / name)] for name in ("whole", "parts")
    )
    np.testing.assert_allclose(moved_losses, losses, rtol=1e-3)
    for epoch in range(5):
        indices = [i for _, batch in whole[2 * epoch : 2 * epoch + 2] for i in batch]
        assert sorted(indices) == list(range(8))


def test_logs_beyond_the_restored_step_are_trimmed_and_none_is_written_twice(
    config, dataset, tmp_path
):
    """A kill after the last save: what was logged since is logged again, once."""
    config.num_epochs = 3
    whole = train(config, dataset, tmp_path, mesh_of(1))
    lines = history(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "6")  # as if it had not been saved yet
    assert train(config, dataset, tmp_path, mesh_of(1)) == whole
    assert history(tmp_path) == lines


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(config, dataset, tmp_path, monkeypatch):
    """Hours ahead and back: while it trains, saves and logs, and between two starts."""
    config.num_epochs = 4
    config.checkpoint.keep = 2
    whole = train(config, dataset, tmp_path / "whole", mesh_of(1))
    now, rng = time.time, random.Random(0)
    for epochs, days in ((3, 0), (4, -400)):
        config.num_epochs = epochs
        with monkeypatch.context() as patch:
            jump = lambda days=days: now() + 86400 * days + rng.choice((0, 9, -9)) * 3600  # noqa: E731
            patch.setattr("time.time", jump)
            report = train(config, dataset, tmp_path / "jumpy", mesh_of(1))
    assert report == whole
    assert history(tmp_path / "jumpy") == history(tmp_path / "whole")
    clocks = [line["time"] for line in read_history(tmp_path / "jumpy")]
    assert clocks != sorted(clocks)  # it did jump
    paces = [line.get("images_per_second", 1.0) for line in read_history(tmp_path / "jumpy")]
    assert min(paces) > 0
    assert {p.name for p in (tmp_path / "jumpy" / "checkpoints").iterdir()} == {"6", "8"}
    assert events.read(tmp_path / "jumpy")["scalars"]["train/loss"] == list(range(1, 9))


def test_the_newest_checkpoint_is_that_of_the_highest_step_not_of_the_latest_time(config, tmp_path):
    make_run(tmp_path, config, channels=1, steps=(2, 4))
    for step, stamp in (("2", 2e9), ("4", 1e9)):
        for path in (tmp_path / "checkpoints" / step).rglob("*"):
            os.utime(path, (stamp, stamp))
        os.utime(tmp_path / "checkpoints" / step, (stamp, stamp))
    with contextlib.closing(Checkpoints(tmp_path, 2, {}, read_only=True)) as saved:
        assert saved.latest_step() == 4
