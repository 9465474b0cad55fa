"""SegNet: its order of layers, its levels, and its way of the indices, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_runs import small_config

from unet_jax import models
from unet_jax.models.blocks import max_pool_with_indices, max_unpool
from unet_jax.models.network import Network
from unet_jax.models.segnet import ConvReluNorm, SegNet


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def random_values(module, x, **arguments) -> dict:
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), x, **arguments))
    paths, tree = jax.tree_util.tree_flatten_with_path(variables)
    values = [0.5 * normal(i, *leaf.shape) for i, (_, leaf) in enumerate(paths)]
    values = [abs(v) if p[-1].key == "var" else v for (p, _), v in zip(paths, values, strict=True)]
    return jax.tree.unflatten(tree, values)


def convolve(x, layer):
    numbers = ("NHWC", "HWIO", "NHWC")
    kernel, bias = layer["kernel"], layer["bias"]
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers) + bias


def test_a_block_convolves_rectifies_and_then_normalises():
    block = ConvReluNorm((3, 5))
    x = normal(0, 2, 4, 5, 2)
    variables = random_values(block, x, train=False)
    params, stats = variables["params"], variables["batch_stats"]
    expected = jnp.asarray(x)
    for i in range(2):
        expected = jnp.maximum(convolve(expected, params[f"Conv_{i}"]), 0)
        (norm,), (running,) = params[f"Norm_{i}"].values(), stats[f"Norm_{i}"].values()
        expected = (expected - running["mean"]) / np.sqrt(running["var"] + 1e-5)
        expected = expected * norm["scale"] + norm["bias"]
    assert expected.shape == (2, 4, 5, 5) and np.min(expected) < 0
    out = block.apply(variables, x, train=False)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_every_convolution_has_a_bias(norm):
    model = SegNet(2, width=2, depth=3, norm=norm)
    x = jnp.zeros((1, 8, 8, 3))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), x))["params"]
    blocks = [*(params[f"{way}_{i}"] for way in ("down", "up") for i in range(3))]
    layers = [layer for block in blocks for name, layer in block.items() if "Conv" in name]
    assert len(layers) == 2 * (2 + 2 + 3) - 1
    assert all(set(layer) == {"kernel", "bias"} for layer in [*layers, params["head"]])


@pytest.mark.parametrize(
    ("depth", "down", "up"),
    [
        (1, [[2, 2]], [[2]]),
        (2, [[2, 2], [4, 4]], [[2], [4, 2]]),
        (
            4,
            [[2, 2], [4, 4], [8, 8, 8], [16, 16, 16]],
            [[2], [4, 2], [8, 8, 4], [16, 16, 8]],
        ),
        (
            6,
            [[2, 2], [4, 4], [8, 8, 8], *3 * [[16, 16, 16]]],
            [[2], [4, 2], [8, 8, 4], [16, 16, 8], *2 * [[16, 16, 16]]],
        ),
    ],
)
def test_depth_and_width_set_the_levels(depth, down, up):
    model = SegNet(classes=5, width=2, depth=depth)
    x = jnp.zeros((1, 2**depth, 2**depth, 3))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), x))["params"]
    levels = [*(f"{way}_{level}" for way in ("down", "up") for level in range(depth))]
    assert set(params) == {*levels, "head"}
    for name, features in zip(levels, down + up, strict=True):
        block = params[name]
        assert [block[f"Conv_{i}"]["kernel"].shape[-1] for i in range(len(features))] == features
        assert f"Conv_{len(features)}" not in block
    assert params["head"]["kernel"].shape == (3, 3, 2, 5)


def test_each_level_is_unpooled_by_its_own_indices():
    model = SegNet(classes=2, width=2, depth=3, norm="none")
    x = normal(0, 2, 16, 8, 3)
    variables = random_values(model, x)
    params = variables["params"]

    def block(name, x):
        for layer in params[name].values():
            x = jnp.maximum(convolve(x, layer), 0)
        return x

    expected, indices = jnp.asarray(x), []
    for level in range(3):
        expected, index = max_pool_with_indices(block(f"down_{level}", expected))
        indices.append(index)
    assert [np.unique(index).size for index in indices] == [4, 4, 4]
    for level in (2, 1, 0):
        expected = block(f"up_{level}", max_unpool(expected, indices[level]))
    expected = convolve(expected, params["head"])
    logits = np.asarray(jax.jit(model.apply)(variables, x))
    assert np.min(logits) < 0 < np.std(logits)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.std(logits))


def test_an_incomplete_network_is_refused_before_its_training():
    class Incomplete(Network):
        classes: int

        @property
        def multiple(self) -> int:
            return 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "NETWORKS", {**models.NETWORKS, "incomplete": Incomplete})
        missing = "encoder_modules, head_modules, margin, first_kernel, dtype"
        with pytest.raises(TypeError, match=f"Incomplete must define {missing}"):
            models.build(**small_config(model__name="incomplete").model)
