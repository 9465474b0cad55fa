"""JAX's elementwise primitives as ONNX operators."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from unet_jax.interchange.onnx_graph.graph import Graph, Tensor, onnx_type
from unet_jax.interchange.onnx_graph.registry import OPERATORS

# Primitives with an equal operator of ONNX.
SAME = {
    "abs": "Abs", "add": "Add", "ceil": "Ceil", "cos": "Cos", "div": "Div", "erf": "Erf",
    "eq": "Equal", "exp": "Exp", "floor": "Floor", "ge": "GreaterOrEqual", "gt": "Greater",
    "le": "LessOrEqual", "log": "Log", "logistic": "Sigmoid", "lt": "Less", "min": "Min",
    "mul": "Mul", "neg": "Neg", "pow": "Pow", "sign": "Sign", "sin": "Sin", "sqrt": "Sqrt",
    "sub": "Sub", "tanh": "Tanh",
}  # fmt: skip
LOGICAL = {"and": "And", "or": "Or", "xor": "Xor", "not": "Not"}
CONVOLUTIONS = ("Conv", "ConvTranspose")


def elementwise(graph: Graph, equation: Any, operator: str, inputs: Sequence[Tensor]) -> Tensor:
    """Applies an operator that broadcasts its inputs; their ranks are equal, or 0."""
    (out,) = (variable.aval for variable in equation.outvars)
    arrays = [x for x in inputs if x.order]
    like = next((x for x in arrays if isinstance(x.stored, str)), (arrays or inputs)[0])
    names = [graph.name(x, like.order if x.order else (), full=False) for x in inputs]
    stretched = {
        axis
        for axis, size in enumerate(out.shape)
        if size != 1 and all(x.stored_size(axis) == 1 for x in arrays)
    }
    stored = graph.node(operator, *names)
    return Tensor(out.shape, out.dtype, stored, like.order, frozenset(stretched))


def add_same(primitive: str, operator: str) -> None:
    @OPERATORS.register(primitive)
    def convert(graph: Graph, equation: Any, *inputs: Tensor) -> Tensor:
        return elementwise(graph, equation, operator, inputs)


for _primitive, _operator in SAME.items():
    if _primitive not in ("add", "mul"):
        add_same(_primitive, _operator)


@OPERATORS.register("add")
@OPERATORS.register("mul")
def scale_or_shift(graph: Graph, equation: Any, a: Tensor, b: Tensor) -> Tensor:
    """Changes the weights of a convolution, if its channels are scaled or shifted by constants.

    This folds a batch normalisation, or a bias, into the convolution before it. If nothing else
    needs the convolution without them, it is left out of the model.
    """
    for x, other in ((a, b), (b, a)):
        node = graph.nodes.get(x.stored) if isinstance(x.stored, str) else None
        if node is None or node.operator not in CONVOLUTIONS or x.stretched:
            continue
        values, channel = _by_channel(x, other), int(node.operator == "ConvTranspose")
        if values is None:
            continue
        names = node.inputs[1:]
        kernel = graph.constants[names[0]]
        bias = graph.constants[names[1]] if len(names) > 1 else np.zeros_like(values)
        if equation.primitive.name == "mul":
            shape = [1] * kernel.ndim
            shape[channel] = -1
            kernel, bias = kernel * values.reshape(shape), bias * values
        else:
            bias = bias + values
        weights = graph.constant(kernel), graph.constant(bias)
        scope, graph.scope = graph.scope, node.name.rpartition("/")[0]  # it is still that layer
        stored = graph.node(node.operator, node.inputs[0], *weights, **node.attributes)
        graph.scope = scope
        return Tensor(x.shape, x.dtype, stored, x.order)
    return elementwise(graph, equation, SAME[equation.primitive.name], (a, b))


def _by_channel(convolved: Tensor, other: Tensor) -> np.ndarray | None:
    """Returns the constant of each channel, [C], if `other` has one for each."""
    if not isinstance(other.stored, np.ndarray):
        return None
    axis = convolved.order[1]  # ONNX's convolutions have the channels there
    channels = convolved.shape[axis]
    if other.stored.size == 1:
        return np.full(channels, other.stored.ravel()[0], other.dtype)
    if other.order and other.stored.size == channels == other.stored_size(axis):
        return other.stored.ravel()
    return None


@OPERATORS.register("max")
def maximum(graph: Graph, equation: Any, a: Tensor, b: Tensor) -> Tensor:
    for x, other in ((a, b), (b, a)):
        if isinstance(other.stored, np.ndarray) and other.dtype.kind == "f" and not other.order:
            if other.stored == 0:
                return elementwise(graph, equation, "Relu", [x])
    return elementwise(graph, equation, "Max", (a, b))


@OPERATORS.register("clamp")
def clamp(graph: Graph, equation: Any, low: Tensor, x: Tensor, high: Tensor) -> Tensor:
    raised = elementwise(graph, equation, "Max", (x, low))
    return elementwise(graph, equation, "Min", (raised, high))


@OPERATORS.register("convert_element_type")
def convert_type(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    dtype = np.dtype(equation.params["new_dtype"])
    if onnx_type(dtype) == onnx_type(x.dtype):
        return Tensor(x.shape, dtype, x.stored, x.order, x.stretched)
    stored = graph.node("Cast", graph.name(x, full=False), to=onnx_type(dtype))
    return Tensor(x.shape, dtype, stored, x.order, x.stretched)


@OPERATORS.register("copy")
@OPERATORS.register("copy_p")
@OPERATORS.register("stop_gradient")
@OPERATORS.register("optimization_barrier")
def unchanged(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    return x


@OPERATORS.register("square")
def square(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    return elementwise(graph, equation, "Mul", (x, x))


@OPERATORS.register("integer_pow")
def integer_pow(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    exponent = Tensor.constant(np.array(equation.params["y"], x.dtype))
    return elementwise(graph, equation, "Pow", (x, exponent))


@OPERATORS.register("rsqrt")
def rsqrt(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    root = elementwise(graph, equation, "Sqrt", [x])
    return elementwise(graph, equation, "Reciprocal", [root])


@OPERATORS.register("round")
def round_to_even(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    if int(equation.params["rounding_method"]) != 1:  # RoundingMethod.TO_NEAREST_EVEN
        raise NotImplementedError("round away from zero")
    return elementwise(graph, equation, "Round", [x])


@OPERATORS.register("ne")
def not_equal(graph: Graph, equation: Any, a: Tensor, b: Tensor) -> Tensor:
    equal = elementwise(graph, equation, "Equal", (a, b))
    return elementwise(graph, equation, "Not", [equal])


@OPERATORS.register("rem")
def remainder(graph: Graph, equation: Any, a: Tensor, b: Tensor) -> Tensor:
    """The remainder has the sign of the dividend."""
    whole = elementwise(graph, equation, "Div", (a, b))
    if a.dtype.kind == "f":
        raise NotImplementedError("rem of floats")
    return elementwise(graph, equation, "Sub", (a, elementwise(graph, equation, "Mul", (whole, b))))


@OPERATORS.register("select_n")
def select(graph: Graph, equation: Any, which: Tensor, *cases: Tensor) -> Tensor:
    if which.dtype != np.bool_ or len(cases) != 2:
        raise NotImplementedError("select_n of more than two cases")
    return elementwise(graph, equation, "Where", (which, cases[1], cases[0]))


def add_logical(primitive: str, operator: str) -> None:
    @OPERATORS.register(primitive)
    def convert(graph: Graph, equation: Any, *inputs: Tensor) -> Tensor:
        if inputs[0].dtype != np.bool_:
            raise NotImplementedError(f"{primitive} of integers")
        return elementwise(graph, equation, operator, inputs)


for _primitive, _operator in LOGICAL.items():
    add_logical(_primitive, _operator)
