"""Tests that the losses of the PyTorch twin, written from the papers, equal those in JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from benchmarks.pytorch import twin_losses
from unet_jax.core.errors import UserError
from unet_jax.learning import losses

pytestmark = pytest.mark.slow

LOSS = {
    "name": "bce",
    "weights": (),
    "class_weights": (),
    "dice_smooth": 1.0,
    "focal_gamma": 2.0,
}


def test_a_loss_that_is_unknown_or_has_no_twin_is_refused(monkeypatch):
    with pytest.raises(UserError, match="'mse' is unknown"):
        twin_losses.build(**LOSS | {"name": "mse"})
    monkeypatch.delitem(twin_losses.TERMS, "lovasz")
    with pytest.raises(UserError, match=r"^loss\.name='bce\+lovasz': lovasz has no PyTorch twin;"):
        twin_losses.build(**LOSS | {"name": "bce+lovasz"})


@pytest.mark.parametrize(
    ("name", "k", "fields"),
    [
        ("cross_entropy", 3, {"class_weights": (0.5, 0.0, 2.0)}),
        ("cross_entropy", 3, {"label_smoothing": 0.2}),
        ("dice", 3, {"class_weights": (0.5, 0.0, 2.0)}),
        ("focal", 3, {"class_weights": (0.5, 1.0, 2.0), "focal_gamma": 0.5}),
        ("bce+focal+dice", 1, {"weights": (0.5, 0.0, 2.0), "class_weights": (1.0, 3.0)}),
        ("bce", 1, {"label_smoothing": 0.1, "class_weights": (1.0, 3.0)}),
        ("bce+tversky", 1, {"tversky_alpha": 0.2}),
        ("tversky", 3, {"class_weights": (0.5, 0.0, 2.0)}),
        ("focal_tversky", 1, {}),
        ("focal_tversky", 3, {"focal_tversky_gamma": 2.0, "dice_smooth": 0.01}),
        ("lovasz", 1, {}),
        ("lovasz", 3, {"class_weights": (0.5, 1.0, 2.0)}),
        ("bce+cldice", 1, {"cldice_iterations": 3}),
        ("cldice", 3, {"cldice_iterations": 1, "class_weights": (0.5, 1.0, 2.0)}),
        ("boundary", 1, {"class_weights": (1.0, 3.0)}),
        ("boundary", 3, {"boundary_pixels": 1, "boundary_weight": 2.0}),
    ],
)
def test_losses_equal_those_in_jax(name, k, fields):
    fields = LOSS | {"name": name} | fields
    rng = np.random.default_rng(0)
    logits = (4 * rng.normal(size=(2, 3, 5, k))).astype(np.float32)
    logits[0, 0, 0] = 100 * np.eye(k)[0]  # a certain prediction
    label = rng.integers(0, max(k, 2), (2, 3, 5)).astype(np.uint8)
    label[0, 0, 0] = k == 1
    label[rng.random(label.shape) < 0.3] = 255
    weight = (rng.exponential(size=label.shape) * (label != 0)).astype(np.float32)
    weight[label == 255] = np.nan
    gradient = jax.jit(jax.value_and_grad(losses.build(**fields)), static_argnums=2)
    loss = twin_losses.build(**fields)
    for t, w in [(label, weight), (label, None), (np.full_like(label, 255), weight)]:
        value, slopes = gradient(logits, t, jnp.sum, w)
        z = torch.tensor(logits).permute(0, 3, 1, 2).requires_grad_()
        found = loss(z, torch.tensor(t), None if w is None else torch.tensor(w))
        found.backward()
        np.testing.assert_allclose(found.item(), value, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(z.grad.permute(0, 2, 3, 1), slopes, rtol=1e-4, atol=1e-7)
