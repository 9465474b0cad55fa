"""Tests of the PyTorch twin: parameters, losses, borders, and execution variants."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from benchmarks.pytorch import twin_losses
from benchmarks.pytorch.variants import Variant, variants
from unet_jax.core.errors import UserError
from unet_jax.interchange.torch_twin import twin
from unet_jax.models.blocks import Norm, max_pool_with_indices

pytestmark = pytest.mark.slow

torch.set_num_threads(1)  # more threads do not pay at these sizes

LOSS = {
    "name": "bce",
    "weights": (),
    "class_weights": (),
    "dice_smooth": 1.0,
    "focal_gamma": 2.0,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "transpose": {},
    "valid": {"padding": "valid"},
    "bilinear": {"upsample": "bilinear"},
    "unet2": {"name": "unet2"},
    "segnet": {"name": "segnet"},
    "attention_unet": {"name": "attention_unet"},
    "residual_unet": {"name": "residual_unet"},
    "unet_plus_plus": {"name": "unet_plus_plus"},
    "deep": {"deep_supervision": True},
}


def make(**fields) -> torch.nn.Module:
    small: dict[str, Any] = {
        "name": "unet",
        "classes": 2,
        "width": 4,
        "depth": 2,
        "padding": "same",
        "norm": "batch",
        "upsample": "transpose",
        "dropout": 0.0,
        "dtype": "auto",
    }
    torch.manual_seed(0)
    return twin.build(3, **small | fields)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("fields", "count"),
    [  # as in tests/models/test_unet.py
        ({}, 31_037_698),
        ({"padding": "valid"}, 31_037_698),
        ({"upsample": "nearest"}, 17_263_042),
        ({"upsample": "bilinear"}, 17_263_042),
        ({"upsample": "bilinear_corners"}, 17_263_042),
        ({"width": 32, "depth": 5}, 31_100_546),
        ({"name": "unet2"}, 31_037_698 + 3_133_440 + 960),
        ({"name": "segnet"}, 15_279_170),
        ({"name": "segnet", "depth": 5}, 29_444_162),
        ({"name": "attention_unet"}, 31_386_822),
        ({"name": "residual_unet"}, 153_903_234),
        ({"name": "unet_plus_plus"}, 36_165_314),
        ({"deep_supervision": True}, 31_039_496),
    ],
)
def test_parameter_count_of_the_published_networks(fields, count):
    with torch.device("meta"):
        model = make(**{"width": 64, "depth": 4} | fields)
    assert sum(x.numel() for x in model.parameters()) == count


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("size", [(1, 1), (17, 9), (16, 16)])
def test_logits_have_the_image_s_size(network, size):
    logits = make(**NETWORKS[network], depth=3).eval()(draw(0, 2, 3, *size))
    assert logits.shape == (2, 2, *size)
    assert logits.dtype == torch.float32 and logits.isfinite().all()


def test_a_setting_that_a_network_does_not_support_is_refused():
    with pytest.raises(UserError, match=r"model\.padding='valid': segnet"):
        make(name="segnet", padding="valid")


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (19, 30)])
def test_the_margin_is_mirrored(size):
    image = draw(0, 1, 2, *size)
    mirrored = twin.mirror(image, depth=2)
    pads = [(20, side - 20 - n) for n, side in zip(size, mirrored.shape[2:], strict=True)]
    np.testing.assert_array_equal(mirrored, np.pad(image, ((0, 0), (0, 0), *pads), "reflect"))


def test_max_pooling_chooses_the_first_of_tied_maxima():
    x = torch.zeros(1, 1, 8, 8).random_(0, 3, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    pooled, index = torch.nn.MaxPool2d(2, return_indices=True)(x)
    expected, place = max_pool_with_indices(jnp.asarray(x.detach()).transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(pooled.detach()[:, 0], expected[..., 0])
    np.testing.assert_array_equal(index[:, 0] % 2 + 2 * (index[:, 0] // 8 % 2), place[..., 0])
    pooled.sum().backward()
    taken = torch.zeros(64).scatter_(0, index.flatten(), 1.0).view_as(x)
    np.testing.assert_array_equal(x.grad, taken)


def test_running_statistics_differ_only_by_the_variance_s_bias():
    x = draw(0, 2, 5, 3, 4)  # N, H, W, C
    norm = Norm("batch")
    apply = functools.partial(norm.apply, train=True, mutable=["batch_stats"])
    start = norm.init(jax.random.key(0), jnp.zeros((1, 1, 1, 4)), train=False)
    _, updated = jax.vmap(apply, (None, 0), axis_name="batch")(start, jnp.asarray(x)[None])
    (flax,) = updated["batch_stats"].values()
    reference = twin.make_norm("batch", 4)
    reference(x.permute(0, 3, 1, 2))
    n = 2 * 5 * 3
    biased = 0.9 + (reference.running_var - 0.9) * (n - 1) / n
    np.testing.assert_allclose(flax["mean"][0], reference.running_mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(flax["var"][0], biased, rtol=1e-5)
    assert not np.allclose(flax["var"][0], reference.running_var, rtol=1e-3)


def train_and_predict(variant: Variant, network: str) -> tuple[list[float], torch.Tensor]:
    """Returns the losses of three steps and the logits after them."""
    model = make(**NETWORKS[network], classes=1)
    image, label = draw(0, 2, 3, 8, 12), (draw(1, 2, 8, 12) > 0).byte()
    step = variant.train_step(model, twin_losses.build(**LOSS), variant.optimizer(model, 0.01))
    values = [step(image, label).item() for _ in range(3)]
    return values, variant.forward(model)(image)


@pytest.mark.parametrize("network", ["transpose", "segnet", "deep"])
def test_variants_compute_the_same(network):
    values, logits = train_and_predict(Variant(), network)
    assert values[0] > values[1] > values[2]
    for variant in variants():
        if variant.compile:
            continue
        found, found_logits = train_and_predict(variant, network)
        assert found_logits.dtype == torch.float32 and not found_logits.requires_grad
        error = (found_logits - logits).norm() / logits.norm()
        if variant.bfloat16:
            assert 1e-4 < error < 0.2
            assert found == pytest.approx(values, rel=0.05)
        else:
            assert error < 1e-4
            assert found == pytest.approx(values, rel=1e-4)


@pytest.mark.slow
def test_a_compiled_step_is_one_graph(monkeypatch):
    compiled = torch.compile
    # Only captures the graph: building its kernels would take a minute.
    monkeypatch.setattr(
        torch, "compile", lambda f, mode: compiled(f, backend="eager", fullgraph=True)
    )
    values, logits = train_and_predict(Variant(), "segnet")
    found, found_logits = train_and_predict(Variant(compile="default"), "segnet")
    assert found == pytest.approx(values, rel=1e-4)
    torch.testing.assert_close(found_logits, logits, rtol=1e-3, atol=1e-4)


def test_variants_have_distinct_names():
    names = [str(variant) for variant in variants()]
    assert len(set(names)) == len(names) == 8
    assert "eager NCHW float32" in names and "compiled (default) channels_last bfloat16" in names
