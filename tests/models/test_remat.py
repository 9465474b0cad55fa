"""Rematerialisation: the same values, gradients and parameters, with less memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_networks import images, make, shapes, variables_of

from unet_jax.core.errors import UserError
from unet_jax.models.blocks import frozen_norms
from unet_jax.models.network import NETWORKS, Network

CASES = {
    **{name: {"name": name} for name in NETWORKS if name != "smp_unet"},
    "valid": {"padding": "valid", "upsample": "nearest", "norm": "group"},
    "deep": {"deep_supervision": True},
    "pairs": {"platform": "tpu", "dtype": "float32"},
    **{
        encoder: {"name": "smp_unet", "encoder": encoder}
        for encoder in ("resnet18", "resnet50", "efficientnet_lite0")
    },
}


def both(**fields):
    """A network with and without rematerialisation."""
    fields = {"norm": "batch"} | fields
    return [make(remat=remat, **fields) for remat in (True, False)]


def value_and_grad(model, image):
    """A function of the variables: loss, updated statistics and gradient, in training."""
    weight = images(1, *image.shape[:3], 2)

    def loss(params, others):
        apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
        logits, updated = apply(
            {**others, "params": params}, image, rngs={"dropout": jax.random.key(0)}
        )
        levels = logits if isinstance(logits, tuple) else (logits,)
        return sum(jnp.vdot(x, weight[:, : x.shape[1], : x.shape[2]]) for x in levels), updated

    def function(variables):
        others = {name: x for name, x in variables.items() if name != "params"}
        return jax.value_and_grad(loss, has_aux=True)(variables["params"], others)

    return function


def recomputations(function, *arguments) -> int:
    return str(jax.make_jaxpr(function)(*arguments)).count("= remat2[")


FAST = ("deep", "segnet", "unet_plus_plus", "efficientnet_lite0")


@pytest.mark.parametrize(
    "case", [x if x in FAST else pytest.param(x, marks=pytest.mark.slow) for x in CASES]
)
def test_parameters_are_the_same_and_only_a_gradient_recomputes(case):
    depth = 2 if case == "deep" or "encoder" in CASES[case] else 1
    rematerialised, plain = both(depth=depth, **CASES[case])
    variables, image = shapes(plain), jnp.zeros((1, 8, 8, 3))
    assert shapes(rematerialised) == variables
    assert recomputations(rematerialised.apply, variables, image) == 0
    assert recomputations(value_and_grad(plain, image), variables) == 0
    assert recomputations(value_and_grad(rematerialised, image), variables) >= 2 * depth


@pytest.mark.parametrize(
    "case", [x if x == "deep" else pytest.param(x, marks=pytest.mark.slow) for x in CASES]
)
def test_loss_statistics_and_gradient_are_the_same(case):
    models = both(depth=2, dropout=0.3, **CASES[case])
    variables, image = variables_of(models[1]), images(0, 2, 16, 16, 3)
    found, expected = (jax.jit(value_and_grad(model, image))(variables) for model in models)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected[1]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * largest),
        found,
        expected,
    )


@pytest.mark.slow
def test_frozen_norms_keep_their_statistics():
    model, _ = both(depth=1)
    variables = variables_of(model)
    with frozen_norms(("",)):
        (_, updated), _ = jax.jit(value_and_grad(model, images(0, 2, 8, 8, 3)))(variables)
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])


def kept_bytes(model, variables, image) -> int:
    """The arrays that the forward pass keeps for the backward pass, without the variables."""

    def backward(variables):
        apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
        return jax.vjp(lambda variables: apply(variables, image)[0], variables)[1]

    arrays = [*jax.tree.leaves(jax.eval_shape(backward, variables)), *jax.tree.leaves(variables)]
    sizes = [x.size * x.dtype.itemsize for x in arrays]
    return sum(sizes) - 2 * sum(sizes[-len(jax.tree.leaves(variables)) :])


@pytest.mark.parametrize("case", ["unet", "segnet", "resnet18"])
def test_a_gradient_keeps_less(case):
    rematerialised, plain = both(**CASES[case])
    variables, image = shapes(plain), images(0, 2, 64, 64, 3)
    kept = kept_bytes(rematerialised, variables, image)
    assert 0 < kept < 0.5 * kept_bytes(plain, variables, image)


def test_a_network_that_does_not_mention_it_refuses_it(monkeypatch):
    monkeypatch.setattr(NETWORKS["segnet"], "choices", Network.choices)
    line = r"^model\.remat=True: segnet does not support it; choose False, or model\.name='unet'"
    with pytest.raises(UserError, match=line):
        make(name="segnet", remat=True, norm="batch")
