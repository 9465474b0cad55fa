"""`model.pretrained`: a run that starts with the weights of a pretrained encoder."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_networks import shapes
from made_runs import signal_after
from safetensors.numpy import save_file
from training_steps import mesh_of

from unet_jax import models
from unet_jax.core.errors import UserError
from unet_jax.core.stop import Interrupted
from unet_jax.models import torch_weights
from unet_jax.models.encoders.encoder import ENCODERS
from unet_jax.runs.experiment import resolve
from unet_jax.training.encoder_weights import with_pretrained_encoder
from unet_jax.training.loop import train
from unet_jax.training.parent import initial_variables


@pytest.fixture
def weights(tmp_path):
    """A file of random weights of ResNet-18's first levels for RGB images, with a classifier."""
    image = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)
    init = functools.partial(ENCODERS["resnet18"](2).init, train=False)
    rng, state = np.random.default_rng(0), {"fc.weight": np.ones((5, 64), np.float32)}
    for path, x in torch_weights.leaves_by_path(jax.eval_shape(init, jax.random.key(0), image)):
        values = rng.normal(1, 0.1, x.shape).astype(np.float32)
        values = values / 30 if path[-1] == "kernel" else values
        state[torch_weights.torch_name(path)] = torch_weights.to_torch_layout(path, values)
    path = tmp_path / "resnet18.safetensors"
    save_file(state, path)
    return path


@pytest.fixture
def pretrained(config, dataset, weights):
    """The experiment with these weights; its images have one channel."""
    config.update_from_flattened_dict({"model.name": "smp_unet", "model.depth": 2})
    config = resolve(config, dataset.classes)
    config.model.encoder, config.model.pretrained = "resnet18", str(weights)
    return config


def test_the_encoder_s_weights_are_taken_and_recorded(
    pretrained, dataset, tmp_path, weights, capsys
):
    model = models.build(**pretrained.model)
    start = jax.tree.map(lambda x: np.full(x.shape, 0.5, x.dtype), shapes(model, 1))
    found = initial_variables(None, tmp_path, pretrained, dataset, start)
    jax.tree.map(
        np.testing.assert_array_equal, found["params"]["decoder"], start["params"]["decoder"]
    )
    for kind in ("params", "batch_stats"):
        for x in jax.tree.leaves(found[kind]["encoder"]):
            assert not (x == 0.5).all()
    record = json.loads((tmp_path / "initial.json").read_text())
    assert record["modules"]["encoder"] == "adapted" and record["modules"]["decoder"] == "new"
    assert record["pretrained"]["source"] == str(weights)
    printed = capsys.readouterr().out
    assert "without fc" in printed
    assert "adapted      the first convolution, from 3 to 1 channels: summed" in printed


def test_a_deeper_encoder_than_the_file_s_is_refused(pretrained, tmp_path):
    pretrained.model.depth = 3
    with pytest.raises(UserError, match=r"layer2\.0\.conv1\.weight is missing"):
        with_pretrained_encoder(tmp_path, pretrained, {})


@pytest.mark.slow
def test_a_run_begins_with_them_and_resumes_without_the_file(
    pretrained, dataset, tmp_path, weights, monkeypatch
):
    """At a learning rate of 0 the encoder stays that of the file."""
    pretrained.num_epochs, pretrained.optim.learning_rate = 2, 0.0
    with monkeypatch.context() as patch:
        signal_after(1, patch)
        with pytest.raises(Interrupted):
            train(pretrained, dataset, tmp_path / "run", mesh_of(1))
    weights.unlink()
    report = train(pretrained, dataset, tmp_path / "run", mesh_of(1))
    assert np.isfinite(report["loss"])
    with pytest.raises(UserError, match="no such file"):
        train(pretrained, dataset, tmp_path / "another", mesh_of(1))
