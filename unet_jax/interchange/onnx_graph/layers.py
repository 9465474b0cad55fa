"""JAX's convolutions, window and other reductions, and matrix products as ONNX operators."""

import string
from typing import Any

import numpy as np

from unet_jax.interchange.onnx_graph.graph import Graph, Tensor, onnx_type
from unet_jax.interchange.onnx_graph.registry import OPERATORS


@OPERATORS.register("conv_general_dilated")
def convolve(graph: Graph, equation: Any, x: Tensor, kernel: Tensor) -> Tensor:
    """A convolution, or a transposed one, which JAX writes as one with a dilated input."""
    parameters, numbers = equation.params, equation.params["dimension_numbers"]
    if not kernel.is_constant or parameters["batch_group_count"] != 1:
        raise NotImplementedError("convolution with a computed kernel")
    weights = kernel.array().transpose(numbers.rhs_spec)  # [F, C, ...]
    dilation, stretch = parameters["rhs_dilation"], parameters["lhs_dilation"]
    before, after = zip(*parameters["padding"], strict=True)
    attributes = {"dilations": dilation, "group": parameters["feature_group_count"]}
    if any(factor > 1 for factor in stretch):
        if any(step > 1 for step in parameters["window_strides"]) or attributes["group"] > 1:
            raise NotImplementedError("transposed convolution with strides or groups")
        # The transposed convolution of ONNX spreads each pixel by the kernel.
        weights = np.flip(weights, tuple(range(2, weights.ndim))).swapaxes(0, 1)
        reach = [(size - 1) * d for size, d in zip(weights.shape[2:], dilation, strict=True)]
        pads = [r - p for side in (before, after) for r, p in zip(reach, side, strict=True)]
        if min(pads) < 0:
            raise NotImplementedError("transposed convolution with padding")
        operator, attributes["strides"] = "ConvTranspose", stretch
    else:
        pads, operator = [*before, *after], "Conv"
        attributes["strides"] = parameters["window_strides"]
    name = graph.node(
        operator,
        graph.name(x, numbers.lhs_spec),
        graph.constant(weights),
        pads=pads,
        **attributes,
    )
    out = equation.outvars[0].aval
    return Tensor(out.shape, out.dtype, name, numbers.out_spec)


@OPERATORS.register("reduce_window_max")
def window_max(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    parameters = equation.params
    if any(factor > 1 for factor in parameters["base_dilation"]):
        raise NotImplementedError("pooling of a dilated input")
    window, padding = parameters["window_dimensions"], parameters["padding"]
    moving = [axis for axis, size in enumerate(window) if size > 1]
    if len(window) - len(moving) != 2:
        raise NotImplementedError("pooling over images or channels")
    order = (*(axis for axis in range(len(window)) if axis not in moving), *moving)
    name = graph.node(
        "MaxPool",
        graph.name(x, order),
        kernel_shape=[window[axis] for axis in moving],
        strides=[parameters["window_strides"][axis] for axis in moving],
        dilations=[parameters["window_dilation"][axis] for axis in moving],
        pads=[padding[axis][end] for end in (0, 1) for axis in moving],
    )
    return Tensor(equation.outvars[0].aval.shape, x.dtype, name, order)


def add_reduction(primitive: str, operator: str) -> None:
    @OPERATORS.register(primitive)
    def reduce(graph: Graph, equation: Any, x: Tensor) -> Tensor:
        axes, out = equation.params["axes"], equation.outvars[0].aval
        places = graph.constant(sorted(x.position(axis) for axis in axes), np.int64)
        name = graph.node(operator, graph.name(x), places, keepdims=0)
        return Tensor(out.shape, out.dtype, name, _order_without(x, axes))


for _primitive in ("sum", "max", "min", "prod"):
    add_reduction(f"reduce_{_primitive}", f"Reduce{_primitive.capitalize()}")


@OPERATORS.register("argmax")
def argmax(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    (axis,), out = equation.params["axes"], equation.outvars[0].aval
    name = graph.node("ArgMax", graph.name(x), axis=x.position(axis), keepdims=0)
    name = graph.node("Cast", name, to=onnx_type(out.dtype))
    return Tensor(out.shape, out.dtype, name, _order_without(x, (axis,)))


def _order_without(x: Tensor, axes: tuple[int, ...]) -> tuple[int, ...]:
    kept = [axis for axis in range(len(x.order)) if axis not in axes]
    return tuple(kept.index(axis) for axis in x.order if axis in kept)


@OPERATORS.register("dot_general")
def product(graph: Graph, equation: Any, a: Tensor, b: Tensor) -> Tensor:
    """A matrix product, written with a letter for each axis, as in `numpy.einsum`."""
    (contracted_a, contracted_b), (batch_a, batch_b) = equation.params["dimension_numbers"]
    letters = iter(string.ascii_lowercase)
    of_a = [next(letters) for _ in a.shape]
    same = dict(zip((*contracted_b, *batch_b), (*contracted_a, *batch_a), strict=True))
    of_b = [of_a[same[axis]] if axis in same else next(letters) for axis in range(len(b.shape))]
    free_a = [x for i, x in enumerate(of_a) if i not in (*contracted_a, *batch_a)]
    free_b = [x for i, x in enumerate(of_b) if i not in same]
    result = [*(of_a[axis] for axis in batch_a), *free_a, *free_b]
    # The result's axes are stored in the order of the larger factor, so that few are moved later.
    main, other = (of_a, free_b) if len(of_a) >= len(of_b) else (of_b, free_a)
    order_of_main, replaced = (a if main is of_a else b).order, False
    stored: list[str] = []
    for axis in order_of_main:
        if main[axis] in result:
            stored.append(main[axis])
        elif not replaced:
            stored, replaced = [*stored, *other], True
    stored += [x for x in result if x not in stored]
    inputs = ",".join("".join(names[k] for k in t.order) for names, t in ((of_a, a), (of_b, b)))
    name = graph.node(
        "Einsum", graph.name(a), graph.name(b), equation=f"{inputs}->{''.join(stored)}"
    )
    out = equation.outvars[0].aval
    return Tensor(out.shape, out.dtype, name, tuple(result.index(x) for x in stored))
