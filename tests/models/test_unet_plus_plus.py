"""UNet++: its nodes, and what each of them reads."""

import jax
import numpy as np
import pytest
from made_networks import images, make, shapes, variables_of


def test_a_node_reads_all_earlier_nodes_of_its_level():
    params = shapes(make(name="unet_plus_plus", width=2, depth=3, classes=5))["params"]
    nodes = [(i, j) for i in range(3) for j in range(1, 4 - i)]
    names = {*(f"{kind}_{i}_{j}" for kind in ("up", "upconv") for i, j in nodes)}
    assert set(params) == names | {"down_0", "down_1", "down_2", "bottom", "head"}
    for i, j in nodes:
        channels = 2 * 2**i
        assert params[f"upconv_{i}_{j}"]["kernel"].shape == (2, 2, 2 * channels, channels)
        assert params[f"up_{i}_{j}"]["Conv_0"]["kernel"].shape[2:] == (
            (j + 1) * channels,
            channels,
        )
    assert params["head"]["kernel"].shape == (1, 1, 2, 5)


def test_depth_one_is_the_u_net():
    model = make(name="unet_plus_plus", depth=1)
    params, image = variables_of(model)["params"], images(0, 1, 5, 6, 3)
    renamed = {name.replace("_0_1", "_0"): layers for name, layers in params.items()}
    expected = jax.jit(make(depth=1).apply)({"params": renamed}, image)
    found = jax.jit(model.apply)({"params": params}, image)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_gradients_reach_every_node_by_its_own_skip_connection():
    """Without the nodes below it, the first level is a chain of its own nodes."""
    model = make(name="unet_plus_plus", depth=2)
    params = variables_of(model)["params"]
    for j in (1, 2):
        params[f"upconv_0_{j}"] = jax.tree.map(np.zeros_like, params[f"upconv_0_{j}"])
    image, weight = images(0, 1, 8, 8, 3), images(1, 1, 8, 8, 2)

    @jax.jit
    def gradient(params):
        return jax.grad(lambda p: (model.apply({"params": p}, image) * weight).sum())(params)

    found = gradient(params)
    for name in ("down_0", "up_0_1", "up_0_2", "head"):
        assert all(np.any(leaf) for leaf in jax.tree.leaves(found[name])), name
    for name in ("down_1", "bottom", "up_1_1"):
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(found[name])), name
