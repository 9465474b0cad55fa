"""Functions whose calls JAX keeps when it traces, and that ONNX has an operator for.

Translated operation by operation they would be right too, but slower: a maximum over windows that
is written as comparisons of four slices, or a resize that is written as matrix products.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from unet_jax.interchange.onnx_graph.graph import Graph, Tensor, abstract
from unet_jax.models import blocks

NCHW = (0, 3, 1, 2)  # the order of the axes of an image in ONNX


class Known(NamedTuple):
    """A function of one array.

    Attributes:
      function: (array, shape of the result) -> result.
      operator: the operator of ONNX.
      inputs: its further inputs; "" leaves one out.
      attributes: its attributes.
      order: the order of the axes that it needs; None is any.
    """

    function: Callable[[jax.Array, Any], jax.Array]
    operator: str
    inputs: tuple[Any, ...] = ()
    attributes: dict[str, Any] = {}  # noqa: RUF012 - never changed
    order: tuple[int, ...] | None = NCHW


def _resize(method: str) -> Callable[[jax.Array, Any], jax.Array]:
    return lambda x, shape: jax.image.resize(x, shape, method)


DOUBLE = ("", (1.0, 1.0, 2.0, 2.0))  # no region of interest; factors
NEAREST = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
LINEAR = {"coordinate_transformation_mode": "half_pixel"}

# The primitives that call a function, and the parameter that has it.
CALLERS = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}

# By the names under which JAX keeps the calls.
CALLS = {
    "max_pool": (
        Known(
            lambda x, _: blocks.max_pool(x),
            "MaxPool",
            attributes={"kernel_shape": (2, 2), "strides": (2, 2)},
        ),
    ),
    "relu6": (Known(lambda x, _: nn.relu6(x), "Clip", (0.0, 6.0), order=None),),
    "_resize": (
        Known(_resize("nearest"), "Resize", DOUBLE, {"mode": "nearest"} | NEAREST),
        Known(_resize("bilinear"), "Resize", DOUBLE, {"mode": "linear"} | LINEAR),
    ),
}


def translate_call(graph: Graph, equation: Any, x: Tensor) -> Tensor | None:
    """Translates the call of a known function; returns None for any other call.

    A call is known if its trace is that of the function, so that neither another function of that
    name nor another version of JAX changes the result.
    """
    name, out = called(equation).jaxpr.debug_info.func_name, equation.outvars[0].aval
    for known in CALLS.get(name, ()):
        doubled = known.operator != "Resize" or _is_double(x.shape, out.shape)
        if doubled and _trace(known.function, x, out.shape) == _text(equation):
            inputs = [graph.constant(i, "f4") if i != "" else "" for i in known.inputs]
            order = known.order or x.order
            stored = graph.node(known.operator, graph.name(x, order), *inputs, **known.attributes)
            return Tensor(out.shape, out.dtype, stored, order)
    return None


def _is_double(before: tuple, after: tuple) -> bool:
    return (before[0], 2 * before[1], 2 * before[2], before[3]) == after


def _trace(function: Callable, x: Tensor, shape: tuple) -> str:
    (equation,) = jax.make_jaxpr(lambda array: function(array, shape))(abstract(x)).eqns
    return _text(equation)


def _text(equation: Any) -> str:
    return f"{equation.primitive} {called(equation)}"


def called(equation: Any) -> Any:
    """Returns the function that an equation calls, a `ClosedJaxpr`, or None if it calls none."""
    parameter = CALLERS.get(equation.primitive.name)
    return equation.params[parameter] if parameter else None
