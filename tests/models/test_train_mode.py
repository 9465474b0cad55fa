"""Networks in training: gradients, running statistics, dropout, and a batch over four devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_networks import NETWORKS, images, make, variables_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("norm", "network"),
    [
        ("group", "transpose"),
        pytest.param("batch", "nearest", marks=pytest.mark.slow),
        ("none", "valid"),
        pytest.param("batch", "unet2", marks=pytest.mark.slow),
        ("batch", "segnet"),
        ("group", "attention_unet"),
        ("batch", "residual_unet"),
        ("none", "residual_unet"),
        ("batch", "unet_plus_plus"),
        ("batch", "smp_unet"),
    ],
)
def test_every_parameter_gets_a_gradient_in_training(norm, network):
    model = make(depth=1, norm=norm, **NETWORKS[network])
    variables = variables_of(model)
    image, weight = images(0, 1, 2, 16, 16, 3), images(1, 1, 2, 16, 16, 2)

    def loss(params):
        def apply(image):
            changed = {**variables, "params": params}
            return model.apply(changed, image, train=True, mutable=["batch_stats"])[0]

        return jnp.vdot(jax.vmap(apply, axis_name="batch")(image), weight)

    gradient = jax.jit(jax.grad(loss))(variables["params"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.any(np.abs(leaf) > 1e-6), jax.tree_util.keystr(path)
        assert np.all(np.isfinite(leaf)), jax.tree_util.keystr(path)


@pytest.mark.parametrize(
    "network",
    ["transpose", "segnet", "attention_unet", "residual_unet", "unet_plus_plus", "smp_unet"],
)
def test_a_batch_over_four_devices_trains_as_on_one(network):
    model = make(depth=1, norm="batch", **NETWORKS[network])
    variables = variables_of(model)
    image = images(0, 4, 8, 8, 3)

    def apply(image):
        return model.apply(variables, image, train=True, mutable=["batch_stats"])

    results = []
    for devices in (1, 4):
        spread = image.reshape(devices, 4 // devices, 8, 8, 3)
        logits, updated = jax.jit(jax.vmap(apply, axis_name="batch"))(spread)
        results.append((logits.reshape(4, 8, 8, 2), updated))
    (logits, one), (spread_logits, four) = results
    np.testing.assert_allclose(spread_logits, logits, rtol=1e-3, atol=1e-4)
    for device in range(4):
        jax.tree.map(
            lambda a, b, d=device: np.testing.assert_allclose(b[d], a[0], rtol=1e-4, atol=1e-5),
            one,
            four,
        )


@pytest.mark.parametrize("network", ["transpose", "segnet"])
def test_training_changes_the_running_statistics_and_evaluation_does_not(network):
    model = make(depth=1, norm="batch", **NETWORKS[network])
    variables = variables_of(model)
    image = images(0, 1, 2, 8, 8, 3)

    def apply(train):
        function = functools.partial(
            model.apply, variables, train=train, mutable=["batch_stats"], rngs={}
        )
        _, updated = jax.jit(jax.vmap(function, axis_name="batch"))(image)
        return jax.tree.map(lambda x: x[0], updated["batch_stats"])

    for train in (False, True):
        changed = jax.tree.map(
            lambda a, b: not np.array_equal(a, b), variables["batch_stats"], apply(train)
        )
        assert set(jax.tree.leaves(changed)) == {train}


@pytest.mark.parametrize("network", ["transpose", "segnet"])
def test_dropout_acts_in_training_only(network):
    fields = {"depth": 1} | NETWORKS[network]
    model, without = make(dropout=0.5, **fields), make(**fields)
    variables = variables_of(model)
    image = images(0, 1, 8, 8, 3)

    @jax.jit
    def train(key):
        return model.apply(variables, image, train=True, rngs={"dropout": key})

    first, second = train(jax.random.key(0)), train(jax.random.key(1))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, train(jax.random.key(0)))
    expected = jax.jit(without.apply)(variables, image)
    np.testing.assert_array_equal(jax.jit(model.apply)(variables, image), expected)
