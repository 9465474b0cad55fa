"""Tests that the twin's training matches JAX's: same batches, scores and run folder."""

import json
import signal

import jax
import numpy as np
import pytest
from made_data import make_split
from pictures import _no_pictures as _no_pictures

from benchmarks.pytorch import train_twin
from benchmarks.pytorch.train_twin import TwinEvaluator, choose_variant, open_config
from unet_jax import models
from unet_jax.core.errors import UserError
from unet_jax.core.intensities import Intensities
from unet_jax.core.stop import Interrupted
from unet_jax.distributed import devices
from unet_jax.evaluation.evaluator import Evaluator
from unet_jax.inference.ensemble import single_network
from unet_jax.interchange.torch_twin import twin
from unet_jax.runs.log import Writer, read_history
from unet_jax.training.loop import train

# ml_collections loads configs with a deprecated function.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def losses_of(folder, split):
    return [line["loss"] for line in read_history(folder) if line["split"] == split]


@pytest.fixture
def longer(config):
    config.num_epochs = 4
    config.optim.schedule = "cosine"
    return config


@pytest.mark.slow
def test_both_frameworks_learn_the_same(longer, dataset, tmp_path):
    longer.data.augment = ("elastic", "brightness")
    longer.data.border_weight = 10.0
    longer.data.input_range = "unit"
    mesh = devices.local_mesh(jax.devices()[:1])
    ours = train(longer, dataset, tmp_path / "jax", mesh)
    theirs = train_twin.train(longer, dataset, tmp_path / "torch", mode="")
    for split, count in (("train", 8), ("validation", 4), ("test", 1)):
        found, expected = (losses_of(tmp_path / name, split) for name in ("torch", "jax"))
        assert len(found) == count
        np.testing.assert_allclose(found, expected, rtol=2e-3)
        assert split == "test" or len(set(found)) == count
    assert set(ours["aggregate"]) == set(theirs["aggregate"])
    assert ours["step"] == theirs["step"]
    for metric, values in ours["aggregate"].items():
        assert theirs["aggregate"][metric]["mean"] == pytest.approx(values["mean"], abs=5e-3)


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(longer, dataset, tmp_path, monkeypatch):
    longer.model.dropout = 0.3
    train_twin.train(longer, dataset, tmp_path / "whole", mode="")

    write = Writer.write

    def write_and_stop(self, step, epoch, split, scalars):
        write(self, step, epoch, split, scalars)
        if (step, split) == (3, "train"):
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(Writer, "write", write_and_stop)
        with pytest.raises(Interrupted):
            train_twin.train(longer, dataset, tmp_path / "stopped", mode="")
    assert len(losses_of(tmp_path / "stopped", "train")) == 3
    train_twin.train(longer, dataset, tmp_path / "stopped", mode="")
    for split in ("train", "validation", "test"):
        whole, stopped = (losses_of(tmp_path / name, split) for name in ("whole", "stopped"))
        np.testing.assert_allclose(stopped, whole, rtol=1e-6)
    reports = [json.loads((tmp_path / n / "report.json").read_text()) for n in ("whole", "stopped")]
    assert reports[0]["aggregate"] == reports[1]["aggregate"]


@pytest.mark.slow
def test_without_validation_the_last_weights_are_reported(longer, dataset, tmp_path):
    dataset.splits["validation"] = make_split(0, 32, seed=2)
    assert train_twin.train(longer, dataset, tmp_path, mode="")["step"] == 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fit", "classes", "dtype"), [("crop", 3, np.uint16), ("resize", 1, np.uint8)]
)
def test_the_same_weights_predict_the_same(config, dataset, fit, classes, dtype):
    config.data.fit = fit
    config.model.classes = classes
    config.loss.name = "bce" if classes == 1 else "cross_entropy"
    split = make_split(3, 24, seed=5, ignored=0.2)
    factor = 257 if dtype == np.uint16 else 1

    def read(index):
        image, label = make_split(3, 24, seed=5, ignored=0.2).read(index)
        return image.astype(dtype) * dtype(factor), label

    split = type(split)(split.names, split.sizes, read)
    mesh = devices.local_mesh(jax.devices()[:1])
    model = models.build(**config.model)
    variables = models.init(model, 1, seed=3)
    reference = twin.build(1, **config.model)
    other = TwinEvaluator(config, dataset, reference, choose_variant(config, ""), mesh)
    ours = Evaluator(
        config, dataset, single_network(model, Intensities.of(config.data)), mesh
    ).predictions(variables, split)
    theirs = other.predictions(variables, split)
    for (i, p, loss), (j, q, other_loss) in zip(ours, theirs, strict=True):
        assert i == j
        np.testing.assert_allclose(p, q, atol=1e-5)
        assert loss == pytest.approx(other_loss, rel=1e-4)


def test_settings_that_the_twin_s_loop_does_not_support_are_refused(stacks):
    arguments = ["--config=configs/isbi.py:small,flips", f"--config.data.root={stacks}"]
    config, dataset = open_config(arguments)
    assert (config.model.width, len(dataset.splits["train"])) == (16, 24)
    others = {"name": "adamw", "clip_norm": "1.0", "ema_decay": "0.9"}
    others |= {"encoder_rate": "0.1", "frozen_epochs": "1.0", "frozen_norm": "all"}
    for field, value in others.items():
        with pytest.raises(UserError, match=f"optim.{field}="):
            open_config([*arguments, f"--config.optim.{field}={value}"])
