"""The attention gate, by numpy, and its effect on the skip connections."""

import jax
import numpy as np
from made_networks import images, make, variables_of

from unet_jax.models.attention_unet import AttentionGate


def test_a_gate_weights_the_skip_connection_by_pixel():
    gate = AttentionGate(features=2)
    rng = np.random.default_rng(0)
    skip, signal = (rng.normal(size=(1, 3, 4, c)).astype(np.float32) for c in (4, 6))
    params = {
        name: {"kernel": rng.normal(size=(1, 1, a, b)), "bias": np.zeros(b)}
        for name, a, b in (("skip", 4, 2), ("gate", 6, 2), ("weights", 2, 1))
    }
    del params["skip"]["bias"]
    kernels = {name: layer["kernel"][0, 0] for name, layer in params.items()}
    hidden = np.maximum(skip @ kernels["skip"] + signal @ kernels["gate"], 0)
    expected = skip / (1 + np.exp(-(hidden @ kernels["weights"])))
    found = jax.jit(gate.apply)({"params": params}, skip, signal)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_open_gates_leave_the_u_net():
    model = make(name="attention_unet", depth=1)
    params, image = variables_of(model)["params"], images(0, 1, 4, 6, 3)
    gate = params.pop("attention_0")
    gate["weights"] = {"kernel": 0 * gate["weights"]["kernel"], "bias": np.full(1, 50, np.float32)}
    expected = jax.jit(make(depth=1).apply)({"params": params}, image)
    logits = jax.jit(model.apply)({"params": params | {"attention_0": gate}}, image)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
