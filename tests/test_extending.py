"""The code of docs/extending.md runs, and each of its files is enough by itself."""

import ast
import dataclasses
import pathlib
import types

import jax
import numpy as np
import pytest
from documented import added, code_blocks
from made_files import noise
from ml_collections import ConfigDict

from unet_jax import models
from unet_jax.core.errors import UserError
from unet_jax.data.dataset import Dataset
from unet_jax.distributed import devices
from unet_jax.inference.predict import Cut, Job, Tile
from unet_jax.inference.predictor import Predictor, load
from unet_jax.learning import losses
from unet_jax.runs.experiment import check
from unet_jax.training.loop import train

ROOT = pathlib.Path(__file__).parents[1]
ATTENTION = "unet_jax/models/attention_unet.py"
TVERSKY = "unet_jax/learning/tversky.py"


def train_two_steps(config: ConfigDict, dataset: Dataset, run: pathlib.Path) -> dict:
    """Trains on four images for two epochs of one batch; returns the test report."""
    config.num_epochs, config.batch_size, config.eval.every_epochs = 2, 4, 2
    split = dataclasses.replace(
        dataset.splits["train"],
        names=dataset.splits["train"].names[:4],
        sizes=dataset.splits["train"].sizes[:4],
    )
    dataset = dataclasses.replace(dataset, splits={**dataset.splits, "train": split})
    check(config)
    return train(config, dataset, run, devices.local_mesh(jax.devices()[:1]))


@pytest.mark.parametrize("path", code_blocks())
def test_each_file_is_new_and_has_a_docstring(path):
    assert not (ROOT / path).exists()
    assert ast.get_docstring(ast.parse(code_blocks()[path]))


def test_a_file_is_found_and_removed_again(tmp_path):
    assert "attention_unet" not in models.NETWORKS
    with added(ATTENTION, tmp_path):
        assert {"attention_unet", "unet"} <= {*models.NETWORKS}
    assert "attention_unet" not in models.NETWORKS and "unet" in models.NETWORKS


def test_the_attention_u_net_trains_and_predicts_tiles_as_the_whole(
    documented, config, dataset, tmp_path
):
    documented(ATTENTION)
    config.model.name, config.model.padding = "attention_unet", "valid"
    run = tmp_path / "run"
    report = train_two_steps(config, dataset, run)
    assert np.isfinite(report["loss"]) and report["step"] == 2

    (step,), predictor = load({run: config}, "last", devices.local_mesh(jax.devices()[:1]))
    assert (step, predictor.channels) == (2, 1)
    assert (predictor.margin, predictor.multiple, predictor.unpadded) == (20, 4, True)
    image = noise((40, 28, 1))
    whole, tiled = (in_tiles(predictor, config, image, side) for side in (40, 16))
    assert whole.shape == (40, 28, 1) and np.ptp(whole) > 0
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


def in_tiles(predictor: Predictor, config: ConfigDict, image: np.ndarray, side: int) -> np.ndarray:
    """Probabilities of an image that is split into tiles if they are smaller."""
    size = image.shape[:2]
    cut, job = Cut(config, predictor, side, [size]), Job(pathlib.Path("a"), [size], masks=None)
    page = types.SimpleNamespace(size=size, rows=lambda start, stop: image[start:stop])
    tiles = [Tile(job, *tile) for tile in cut.tiles(page)]
    assert (len(tiles) > 1) == (side < max(size))
    results = (probabilities for _, probabilities in predictor.stream(tiles))
    return np.concatenate([band.copy() for band in cut.join(size, results)])


def test_attention_weights_the_skip_connections(documented):
    module = documented(ATTENTION)
    gate = module.AttentionGate(features=2)
    rng = np.random.default_rng(0)
    skip, signal = (rng.normal(size=(1, 3, 4, c)).astype(np.float32) for c in (4, 6))
    variables = gate.init(jax.random.key(0), skip, signal)
    kernels = {name: leaf["kernel"][0, 0] for name, leaf in variables["params"].items()}
    hidden = np.maximum(skip @ kernels["skip"] + signal @ kernels["gate"], 0)
    expected = skip / (1 + np.exp(-(hidden @ kernels["weights"])))  # all biases are 0
    np.testing.assert_allclose(gate.apply(variables, skip, signal), expected, rtol=1e-4, atol=1e-6)


def test_the_tversky_loss_trains(documented, config, dataset, tmp_path):
    documented(TVERSKY)
    config.loss.name = "bce+tversky"
    report = train_two_steps(config, dataset, tmp_path / "run")
    assert np.isfinite(report["loss"])


@pytest.mark.parametrize("k", [1, 3])
def test_the_tversky_loss_is_that_of_the_paper(documented, k):
    documented(TVERSKY)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 4, 5, k)).astype(np.float32)
    label = rng.integers(0, max(k, 2), (2, 4, 5)).astype(np.uint8)
    label[0, 0] = 255
    z, t = logits[label != 255], label[label != 255]
    if k == 1:
        p, t = 1 / (1 + np.exp(-z)), t[:, None] == 1
    else:
        p, t = np.exp(z) / np.exp(z).sum(-1, keepdims=True), t[:, None] == np.arange(k)
    hits, false_positives, false_negatives = (p * t).sum(0), (p * ~t).sum(0), ((1 - p) * t).sum(0)
    fields = {"name": "tversky", "weights": (), "class_weights": ()}
    for alpha, beta in ((0.3, 0.7), (0.5, 0.5)):
        expected = np.mean(1 - hits / (hits + alpha * false_positives + beta * false_negatives))
        loss = losses.build(**fields, tversky_alpha=alpha, tversky_beta=beta)
        assert float(loss(logits, label)) == pytest.approx(expected, rel=1e-5)
    dice = losses.build(**fields | {"name": "dice"}, dice_smooth=1e-8)
    assert float(loss(logits, label)) == pytest.approx(float(dice(logits, label)), rel=1e-5)
    with pytest.raises(UserError, match=r"^loss\.tversky_beta=0\.0: must be a number in \(0, 1\]"):
        losses.build(**fields, tversky_beta=0.0)
    assert not losses.is_mean_over_pixels(**fields)
