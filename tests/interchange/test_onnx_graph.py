"""Traced functions as ONNX graphs: the same values at every size."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export

from unet_jax.core.errors import UserError
from unet_jax.interchange.onnx_graph.graph import Graph, Tensor
from unet_jax.interchange.onnx_graph.translate import translate
from unet_jax.models import blocks

CHANNELS = 4
SIZES = ((1, 5, 8), (3, 2, 7))
NCHW = (0, 3, 1, 2)
rng = np.random.default_rng(0)


def to_onnx(function: Callable) -> onnxruntime.InferenceSession:
    """Translates a function of images [n, h, w, CHANNELS]; its result is `y`, in JAX's order."""
    graph, shape = Graph(), (*export.symbolic_shape("n, h, w"), CHANNELS)
    graph.add_input("x", np.float32, ["n", CHANNELS, "h", "w"])
    traced = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(shape, np.float32))
    (y,) = translate(graph, traced, [Tensor(shape, np.dtype(np.float32), "x", NCHW)])
    model = graph.model({"y": (y, tuple(range(len(y.shape))))})
    return onnxruntime.InferenceSession(model.SerializeToString())


def check_equal(function: Callable) -> None:
    """Compares a function with its translation at several sizes."""
    session, program = to_onnx(function), jax.jit(function)
    for size in SIZES:
        x = rng.normal(size=(*size, CHANNELS)).astype(np.float32)
        (found,) = session.run(None, {"x": x.transpose(NCHW)})
        expected = np.asarray(program(x))
        assert found.dtype == expected.dtype or expected.dtype == np.int8
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


def padded(step: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """Pads before a step that needs even sizes."""
    return lambda x: step(blocks.pad_to_multiple(x, 2))


def by_rows(x: jax.Array) -> jax.Array:
    rows = jnp.arange(x.shape[1])
    return x + jnp.where(rows % 2 == 1, rows, -rows).astype(x.dtype)[:, None, None]


def unpooled(x: jax.Array) -> jax.Array:
    return blocks.max_unpool(*blocks.max_pool_with_indices(x))


KERNEL = rng.normal(size=(3, 3, CHANNELS, CHANNELS)).astype(np.float32)
VECTOR = rng.normal(size=CHANNELS).astype(np.float32)


def convolved(x: jax.Array, stride: int = 1) -> jax.Array:
    padding, layout = ((2 - stride, 1),) * 2, ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, KERNEL, (stride, stride), padding, dimension_numbers=layout
    )


# From images [n, h, w, 4] to images of any size and as many channels.
STEPS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "convolution": convolved,
    "strided": padded(lambda x: convolved(x, 2)),
    "up": lambda x: blocks.upconvolve(x, KERNEL[:2, :2]),
    "scale": lambda x: x * VECTOR + VECTOR[::-1],
    "shift": lambda x: VECTOR - x,
    "pool": padded(blocks.max_pool),
    "unpool": padded(unpooled),
    "average": padded(lambda x: sum(blocks.window_pixels(x)) / 4),
    "window": lambda x: nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))),
    "mirror": lambda x: blocks.mirror(x, 3, x.shape[1] + 5, x.shape[2] + 4),
    "centre": lambda x: blocks.crop_to(x, x[:, : (x.shape[1] + 1) // 2]),
    "first rows": lambda x: x[:, : (x.shape[1] + 1) // 2],
    "group norm": lambda x: nn.GroupNorm(2).apply({"params": {"scale": VECTOR, "bias": VECTOR}}, x),
    "join": lambda x: jnp.concatenate([x[..., :2], jnp.ones_like(x[..., :1]), x[..., 3:]], -1),
    "halves": lambda x: jnp.concatenate(jnp.split(x, 2, axis=-1)[::-1], axis=-1),
    "gate": lambda x: nn.sigmoid(x[..., :1]) * x,
    "softmax": jax.nn.softmax,
    "relu6": nn.relu6,
    "deviation": lambda x: x - x.mean((1, 2), keepdims=True),
    "swap": lambda x: x.swapaxes(1, 2),
    "flat": lambda x: (x.reshape(x.shape[0], -1, CHANNELS) * 2).reshape(x.shape),
    "stacked": lambda x: x[:, :, :, None].repeat(2, 3).max(3),
    "index": lambda x: x + x.argmax(-1)[..., None].astype(x.dtype),
    "rows": by_rows,
    **{
        method: lambda x, method=method: blocks.resize_double(x, method)
        for method in ("nearest", "bilinear", "bilinear_corners")
    },
    "resize": lambda x: jax.image.resize(x, (x.shape[0], 6, 9, CHANNELS), "bilinear"),
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_a_step_has_the_same_values(name):
    check_equal(STEPS[name])


@pytest.mark.slow
@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from([*STEPS]), min_size=2, max_size=5))
def test_any_sequence_of_steps_has_the_same_values(names):
    def function(x: jax.Array) -> jax.Array:
        for name in names:
            x = STEPS[name](x)
            x = x / (1 + abs(x).max())  # keeps the numbers of one size
        return x

    check_equal(function)


def operators(session_of: Callable) -> list[str]:
    graph = Graph()
    shape = (*export.symbolic_shape("n, h, w"), CHANNELS)
    graph.add_input("x", np.float32, ["n", CHANNELS, "h", "w"])
    traced = jax.make_jaxpr(session_of)(jax.ShapeDtypeStruct(shape, np.float32))
    (y,) = translate(graph, traced, [Tensor(shape, np.dtype(np.float32), "x", NCHW)])
    return [node.op_type for node in graph.model({"y": (y, y.order)}).graph.node]


def test_what_scales_and_shifts_a_convolution_is_part_of_it():
    def block(x):
        y = convolved(x) * VECTOR + VECTOR
        return nn.relu(blocks.upconvolve(nn.relu(y), KERNEL[:2, :2]) + VECTOR)

    assert operators(block) == ["Conv", "Relu", "ConvTranspose", "Relu", "Identity"]
    both = operators(lambda x: (y := convolved(x)) + y * VECTOR)
    assert both == ["Conv", "Conv", "Add", "Identity"]


@pytest.mark.parametrize(
    ("name", "expected"), [("pool", "MaxPool"), ("nearest", "Resize"), ("bilinear", "Resize")]
)
def test_known_functions_are_one_operator(name, expected):
    found = operators(STEPS[name])
    assert expected in found
    assert not {"Where", "Einsum", "Gather", "Transpose"} & {*found}


def test_what_cannot_be_translated_is_one_line():
    with pytest.raises(UserError, match=r"computes sort .*; --format=stablehlo exports it"):
        to_onnx(lambda x: jnp.sort(x, axis=1))
