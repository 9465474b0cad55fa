"""With model.dtype=bfloat16 the head, all sums, the statistics and the gradient are float32."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core
from made_networks import make, shapes

from unet_jax import models
from unet_jax.models.blocks import BatchNorm, Norm
from unet_jax.models.network import NETWORKS

FIELDS = {
    **{name: {"name": name} for name in NETWORKS},
    "group": {"norm": "group"},
    "valid": {"padding": "valid", "upsample": "nearest"},
    "deep": {"deep_supervision": True},
    "pairs": {"platform": "tpu"},
    "remat": {"remat": True},
    "efficientnet_lite0": {"name": "smp_unet", "encoder": "efficientnet_lite0"},
}
FAST = ("deep", "segnet", "efficientnet_lite0")
SUMS = {"reduce_sum", "cumsum", "psum", "reduce_window_sum", "integer_pow", "rsqrt"}


def equations(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    """All equations, also those of functions that are called."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda x: isinstance(x, core.ClosedJaxpr | core.Jaxpr),
        ):
            if isinstance(inner, core.ClosedJaxpr | core.Jaxpr):
                yield from equations(getattr(inner, "jaxpr", inner))


@pytest.mark.parametrize(
    "case", [x if x in FAST else pytest.param(x, marks=pytest.mark.slow) for x in FIELDS]
)
def test_head_sums_and_statistics_are_float32(case):
    classes = 5  # no layer has as many channels
    model = make(**{"dtype": "bfloat16", "norm": "batch", "classes": classes} | FIELDS[case])
    assert model.dtype == jnp.bfloat16
    variables, image = shapes(model), jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}

    def train(variables, image):
        return model.apply(variables, image, train=True, mutable=["batch_stats"])

    traced = jax.make_jaxpr(train)(variables, image)
    assert {x.dtype for x in traced.out_avals} == {jnp.dtype("float32")}
    heads = 0
    for equation in equations(traced.jaxpr):
        kinds = {x.aval.dtype for x in equation.invars if hasattr(x.aval, "dtype")}
        if equation.primitive.name in SUMS:
            assert jnp.dtype("bfloat16") not in kinds, equation
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            (result,) = equation.outvars
            # Pixels may be paired, so that the head has twice as many channels.
            is_head = result.aval.shape[-1] in (classes, 2 * classes)
            if case == "pairs" and equation.primitive.name == "dot_general":
                continue  # composes two kernels, which are parameters
            heads += is_head
            assert kinds == {jnp.dtype("float32" if is_head else "bfloat16")}, equation
            if is_head:
                assert "HIGHEST" in str(equation.params["precision"])
    assert heads == (2 if case == "deep" else 1)


@pytest.mark.parametrize("kind", ["batch", "group"])
def test_a_norm_of_bfloat16_has_moments_of_float32(kind):
    """In bfloat16, a sum of 2^14 numbers near 3 would stop growing at 2^10."""
    x = (3 + np.random.default_rng(0).normal(size=(1, 128, 128, 2))).astype(jnp.bfloat16)
    norm = Norm(kind, jnp.bfloat16) if kind == "group" else BatchNorm(jnp.bfloat16)
    variables = norm.init(jax.random.key(0), x, True)
    y, updated = norm.apply(variables, x, True, mutable=["batch_stats"])
    exact = np.asarray(x, np.float64)
    assert y.dtype == jnp.bfloat16
    assert abs(np.asarray(y, np.float64).mean()) < 1e-3
    if kind == "batch":
        stats = updated["batch_stats"]
        np.testing.assert_allclose(stats["mean"], 0.1 * exact.mean((0, 1, 2)), rtol=1e-5)
        np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * exact.var((0, 1, 2)), rtol=1e-5)


def test_probabilities_and_losses_have_the_precision_of_the_logits():
    logits = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)
    assert jax.eval_shape(models.probabilities, logits).dtype == jnp.float32
