"""Translates a traced function equation by equation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend.core import Literal

from unet_jax.core.errors import UserError
from unet_jax.interchange.onnx_graph.calls import called, translate_call
from unet_jax.interchange.onnx_graph.graph import Graph, Tensor
from unet_jax.interchange.onnx_graph.registry import OPERATORS

# Where a layer has forms for several platforms, that of TPU is the one of few large operations.
PLATFORM = "tpu"


def translate(graph: Graph, traced: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Adds what a traced function computes to a graph.

    What does not depend on the inputs is computed here, and becomes a constant.

    Args:
      graph: the graph.
      traced: the function, a `ClosedJaxpr`.
      inputs: its inputs in the graph.

    Returns:
      Its outputs.

    Raises:
      UserError: it has an operation that cannot be translated.
    """
    values: dict[Any, Tensor] = {}

    def read(variable: Any) -> Tensor:
        if not isinstance(variable, Literal):
            return values[variable]
        aval: Any = variable.aval
        return Tensor.constant(np.asarray(variable.val, aval.dtype))

    values |= zip(traced.jaxpr.constvars, map(Tensor.constant, traced.consts), strict=True)
    values |= zip(traced.jaxpr.invars, inputs, strict=True)
    scope = graph.scope
    for equation in traced.jaxpr.eqns:
        stack = str(equation.source_info.name_stack)
        graph.scope = "/".join(filter(None, (scope, stack)))
        outputs = _translate(graph, equation, [read(variable) for variable in equation.invars])
        values |= zip(equation.outvars, outputs, strict=True)
    graph.scope = scope
    return [read(variable) for variable in traced.jaxpr.outvars]


def _translate(graph: Graph, equation: Any, inputs: list[Tensor]) -> Sequence[Tensor]:
    name = equation.primitive.name
    if name == "platform_index":
        return [Tensor.constant(np.int32(_platform(equation.params["platforms"])))]
    if name == "cond" and inputs[0].is_constant:
        branch = equation.params["branches"][int(inputs[0].array())]
        return translate(graph, branch, inputs[1:])
    if (function := called(equation)) is not None:
        if len(inputs) == 1 and not inputs[0].is_constant:
            if (output := translate_call(graph, equation, inputs[0])) is not None:
                return [output]
        return translate(graph, function, inputs)
    if all(x.is_constant for x in inputs) and _is_static(equation):
        found = equation.primitive.bind(*(x.array() for x in inputs), **equation.params)
        results = found if equation.primitive.multiple_results else [found]
        return [Tensor.constant(result) for result in results]
    try:
        if name not in OPERATORS:
            raise NotImplementedError(name)
        outputs = OPERATORS[name](graph, equation, *inputs)
    except NotImplementedError as error:
        raise UserError(
            f"--format=onnx: the network computes {error} ({graph.scope}), which "
            f"unet_jax/interchange/onnx_graph cannot translate; --format=stablehlo exports it"
        ) from error
    return outputs if isinstance(outputs, list) else [outputs]


def _is_static(equation: Any) -> bool:
    """Returns whether neither the results nor the parameters depend on the sizes of the input."""
    shapes = [variable.aval.shape for variable in equation.outvars]
    return equation.primitive.name != "dim_as_value" and all(
        isinstance(size, int) for shape in shapes for size in shape
    )


def _platform(platforms: Sequence[tuple[str, ...] | None]) -> int:
    for number, names in enumerate(platforms):
        if names is None or PLATFORM in names:
            return number
    raise UserError(f"--format=onnx: a layer has no form for {PLATFORM} ({platforms})")
