"""Networks in training: gradients, running statistics, dropout, and a batch over four devices."""

import functools

import jax
import numpy as np
import pytest
from made_networks import NETWORKS, images, make, variables_of

pytestmark = pytest.mark.slow


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
