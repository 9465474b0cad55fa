"""Tests of the network and the loss of docs/extending.md, each a new file of the package."""

import ast
import pathlib

import jax
import numpy as np
import pytest
from documented import added, code_blocks
from made_networks import images, make, variables_of

from unet_jax import models
from unet_jax.core.errors import UserError
from unet_jax.learning import losses

ROOT = pathlib.Path(__file__).parents[1]
LINK = "unet_jax/models/link_unet.py"
GENERALIZED_DICE = "unet_jax/learning/generalized_dice.py"


@pytest.mark.parametrize("path", code_blocks())
def test_each_file_is_new_and_has_a_docstring(path):
    assert not (ROOT / path).exists()
    assert ast.get_docstring(ast.parse(code_blocks()[path]))


def test_a_file_is_found_and_removed_again(tmp_path):
    assert "link_unet" not in models.NETWORKS
    with added(LINK, tmp_path):
        assert {"link_unet", "unet"} <= {*models.NETWORKS}
    assert "link_unet" not in models.NETWORKS and "unet" in models.NETWORKS


def test_summed_skip_connections_are_a_concatenation_with_equal_kernels(documented):
    documented(LINK)
    link = make(name="link_unet", depth=1, classes=1)
    variables, image = variables_of(link), images(0, 1, 4, 6, 3)
    unet = jax.tree.map(np.copy, variables)
    first = unet["params"]["up_0"]["Conv_0"]
    first["kernel"] = np.concatenate([first["kernel"]] * 2, axis=2)
    expected = make(depth=1, classes=1).apply(unet, image)
    np.testing.assert_allclose(link.apply(variables, image), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [1, 3])
def test_the_generalized_dice_loss_is_that_of_the_paper(documented, k):
    documented(GENERALIZED_DICE)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 4, 5, k)).astype(np.float32)
    label = rng.integers(0, 2, (2, 4, 5)).astype(np.uint8)  # class 2 is absent
    label[0, 0] = 255
    z, t = logits[label != 255], label[label != 255]
    if k == 1:
        z = np.concatenate([0 * z, z], axis=-1)
    p, t = np.exp(z) / np.exp(z).sum(-1, keepdims=True), t[:, None] == np.arange(max(k, 2))
    fields = {"name": "generalized_dice", "weights": (), "class_weights": ()}
    for power in (2.0, 0.5):
        f = np.array([1 / t[:, c].sum() ** power for c in (0, 1)])
        hits, counts = (p * t).sum(0)[:2], (p + t).sum(0)[:2]
        loss = jax.jit(jax.value_and_grad(losses.build(**fields, generalized_dice_power=power)))
        expected = 1 - 2 * (f * hits).sum() / (f * counts).sum()
        assert float(loss(logits, label)[0]) == pytest.approx(expected, rel=1e-5)
        nothing = loss(logits, np.full_like(label, 255))
        assert nothing[0] == 0 and not np.any(nothing[1])
    message = r"^loss\.generalized_dice_power=3\.0: must be a number in \[0, 2\]"
    with pytest.raises(UserError, match=message):
        losses.build(**fields, generalized_dice_power=3.0)
    assert not losses.is_mean_over_pixels(**fields)
