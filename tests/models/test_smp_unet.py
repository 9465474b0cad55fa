"""The U-Net with a pretrained encoder against its twin, which has smp's names."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from made_networks import images, make, shapes, variables_of

from unet_jax import models
from unet_jax.core.errors import UserError
from unet_jax.interchange.torch_twin import convert, twin
from unet_jax.models import torch_weights

SMALL = {"name": "smp_unet", "norm": "batch", "encoder": "resnet18", "pretrained": "", "stride": 1}


def make_smp(**fields: Any):
    return make(**SMALL | fields)


def reference_of(fields: dict[str, Any]) -> torch.nn.Module:
    torch.manual_seed(0)
    common = {"padding": "same", "upsample": "transpose", "dropout": 0.0, "dtype": "float32"}
    network = twin.build(3, **common | {"classes": 2, "width": 4, "depth": 2} | SMALL | fields)
    for name, x in network.state_dict().items():
        if name.endswith("running_var"):
            x.uniform_(0.5, 2)
        elif name.endswith(("running_mean", "bias")):
            x.normal_(0, 0.1)
    return network.eval()


@pytest.mark.parametrize(
    "fields",
    [
        {"depth": 3, "classes": 3},
        pytest.param({"depth": 5}, marks=pytest.mark.slow),
        pytest.param({"depth": 3, "stride": 4, "encoder": "resnet50"}, marks=pytest.mark.slow),
        pytest.param({"depth": 5, "encoder": "efficientnet_lite0"}, marks=pytest.mark.slow),
        pytest.param({"depth": 4, "encoder": "resnet34", "stride": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_logits_are_the_twin_s_at_odd_sizes(fields):
    reference = reference_of(fields)
    model = make_smp(**fields)
    variables = torch_weights.to_variables(reference.state_dict(), shapes(model))
    image = images(0, 2, 37, 50, 3)
    logits = jax.jit(model.apply)(variables, image)
    with torch.no_grad():
        expected = reference(torch.tensor(image).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    assert logits.dtype == np.float32 and np.std(expected) > 0
    scale = max(1, np.abs(expected).max())
    np.testing.assert_allclose(logits, expected, atol=1e-4 * scale)
    state = convert.to_state_dict(variables, reference)  # and back
    for name, x in reference.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(state[name], x), name


@pytest.mark.parametrize(
    ("encoder", "parameters"),
    [("resnet18", 14_328_209), ("resnet34", 24_436_369), ("resnet50", 32_521_105)],
)
def test_the_default_is_smp_s(encoder, parameters):
    """`smp.Unet(encoder)` of one class has as many parameters."""
    model = make_smp(encoder=encoder, width=16, depth=5, classes=1)
    assert models.parameter_count(shapes(model)) == parameters
    assert model.multiple == 32


def test_a_gradient_reaches_every_parameter():
    model = make_smp(depth=3)
    variables, image = variables_of(model), images(0, 2, 16, 16, 3)

    @jax.jit
    def gradient(params):
        def loss(params):
            logits, _ = model.apply(
                {**variables, "params": params}, image, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(logits * images(1, *logits.shape))

        return jax.grad(loss)(params)

    for path, slope in jax.tree_util.tree_leaves_with_path(gradient(variables["params"])):
        assert np.abs(slope).max() > 0, path


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_stride_costs_no_pixels(stride):
    model = make_smp(depth=3, stride=stride)
    apply = functools.partial(model.apply, train=False)
    image = jax.ShapeDtypeStruct((2, 17, 9, 1), jnp.float32)
    assert jax.eval_shape(apply, shapes(model, 1), image).shape == (2, 17, 9, 2)
    blocks = shapes(model)["params"]["decoder"]
    assert len(blocks) == 3 - (stride.bit_length() - 1)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"depth": 6}, "model.depth=6"),
        ({"stride": 3, "depth": 5}, "model.stride=3"),
        ({"stride": 4, "depth": 2}, "model.stride=4 with model.depth=2"),
        ({"norm": "group"}, "model.norm='group': smp_unet does not support it"),
        ({"padding": "valid"}, "model.padding='valid': smp_unet does not support it"),
    ],
)
def test_what_it_does_not_support_is_refused(fields, said):
    with pytest.raises(UserError, match=said):
        make_smp(**fields)


def test_bfloat16_stays_inside():
    exact, model = make_smp(depth=2), make_smp(depth=2, dtype="bfloat16")
    assert shapes(model) == shapes(exact)
    variables, image = variables_of(model), images(0, 1, 8, 8, 3)
    logits, expected = (jax.jit(m.apply)(variables, image) for m in (model, exact))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=0.05 * np.abs(expected).max())
