"""The least work of each layer is counted, and compared with the measured time."""

import jax
import numpy as np
import pytest

from benchmarks.accelerator import roofline
from benchmarks.accelerator.roofline import Cost, Peaks
from configs import base
from unet_jax import models


@pytest.fixture
def config():
    config = base.get_config()
    config.batch_size, config.data.size = 2, 32
    config.model.width, config.model.depth = 8, 2
    config.model.dtype = "bfloat16"
    return config


def test_a_layers_work_is_counted(config):
    costs = roofline.layer_costs(config, channels=3)
    pixels, kernel = 2 * 32 * 32, 9 * 3 * 8
    assert costs["down_0/Conv_0", "forward"] == Cost(
        2 * pixels * kernel, 2 * pixels * (3 + 8) + 4 * kernel
    )
    # The images need no gradient.
    assert costs["down_0/Conv_0", "backward"].flop == 2 * pixels * kernel
    assert costs["down_0/Conv_1", "backward"] == Cost(
        4 * pixels * 9 * 8 * 8, 2 * pixels * 3 * 8 + 8 * 9 * 8 * 8
    )
    assert costs["down_0/Norm_0", "forward"] == Cost(0, 2 * pixels * 2 * 8)
    pixels = 2 * 16 * 16
    assert costs["upconv_0", "forward"].flop == 2 * pixels * 4 * 16 * 8
    assert costs["head", "forward"].flop == 2 * 2 * 32 * 32 * 8


@pytest.mark.slow
def test_the_work_of_all_layers_is_that_of_the_network(config):
    config.data.size = 256
    costs = roofline.layer_costs(config, channels=1)
    model = models.build(**config.model)
    total = models.forward_gflop(model, models.init(model, 1, 0), config.data.size, 1)
    counted = sum(cost.flop for (_, way), cost in costs.items() if way == "forward")
    # XLA counts norms and activations too, but no products with the zeros around an image.
    assert counted == pytest.approx(1e9 * config.batch_size * total, rel=0.05)


def test_a_share_is_the_bound_over_the_time():
    costs = {("a", "forward"): Cost(2e9, 1e6), ("a", "backward"): Cost(1e9, 9e9)}
    measured = {"a": {"forward": 4.0, "backward": 10.0}, "elsewhere": {"": 1.0}}
    rows = roofline.shares(measured, costs, Peaks(flops=1e12, bandwidth=1e12))
    assert [(row["layer"], row["pass"]) for row in rows] == [
        ("a", "backward"), ("a", "forward"), ("elsewhere", ""),
    ]  # fmt: skip
    back, forward, elsewhere = rows
    assert (back["bound_by"], back["share"]) == ("bandwidth", pytest.approx(0.9))
    assert (forward["bound_by"], forward["share"]) == ("arithmetic", pytest.approx(0.5))
    assert "share" not in elsewhere


def test_a_rate_counts_every_run(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def run():
        clock[0] += 0.5
        return np.zeros(1)

    monkeypatch.setattr(jax, "block_until_ready", lambda x: x)
    assert roofline.rates(run, work=10.0, seconds=14.0) == [20.0] * roofline.ROUNDS
