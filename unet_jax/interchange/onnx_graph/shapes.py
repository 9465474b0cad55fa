"""JAX's primitives that move, select or repeat values, as ONNX operators."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.errors import InconclusiveDimensionOperation

from unet_jax.interchange.onnx_graph.graph import Dimension, Graph, Tensor, is_symbolic, onnx_type
from unet_jax.interchange.onnx_graph.registry import OPERATORS


@OPERATORS.register("broadcast_in_dim")
def broadcast(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    shape, axes = equation.outvars[0].aval.shape, equation.params["broadcast_dimensions"]
    kept = {axis: x.stored_size(i) for i, axis in enumerate(axes)}
    stretched = {a for a, size in enumerate(shape) if size != 1 and kept.get(a, 1) == 1}
    new = [axis for axis in range(len(shape)) if axis not in axes]
    if isinstance(x.stored, np.ndarray):
        array = np.expand_dims(x.stored, tuple(new))
        return Tensor(shape, x.dtype, array, tuple(range(len(shape))), frozenset(stretched))
    order = [axes[axis] for axis in x.order]
    for axis in new:  # each is stored after the axis before it
        order.insert(order.index(axis - 1) + 1 if axis else 0, axis)
    name = graph.name(x, full=False)
    if new:
        places = sorted(order.index(axis) for axis in new)
        name = graph.node("Unsqueeze", name, graph.constant(places, np.int64))
    return Tensor(shape, x.dtype, name, tuple(order), frozenset(stretched))


@OPERATORS.register("transpose")
def transpose(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    permutation, shape = equation.params["permutation"], equation.outvars[0].aval.shape
    new_axis = {old: new for new, old in enumerate(permutation)}
    stretched = frozenset(new_axis[axis] for axis in x.stretched)
    if isinstance(x.stored, np.ndarray):
        return Tensor(shape, x.dtype, x.stored.transpose(permutation), x.order, stretched)
    return Tensor(shape, x.dtype, x.stored, tuple(new_axis[a] for a in x.order), stretched)


@OPERATORS.register("reshape")
def reshape(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    shape = equation.outvars[0].aval.shape
    groups = _groups(x.shape, shape)
    places = [[x.position(axis) for axis in old] for old, _ in groups]
    kept = all(at == [*range(at[0], at[0] + len(at))] for at in places if at)
    order = x.order if kept else tuple(range(len(x.shape)))
    first = {tuple(old): order.index(old[0]) for old, _ in groups if old}
    # Groups without an axis before are new axes of size 1, which may be stored anywhere.
    moved = sorted(groups, key=lambda group: first.get(tuple(group[0]), -1))
    new_order = tuple(axis for _, new in moved for axis in new)
    name = graph.node(
        "Reshape",
        graph.name(x, order),
        graph.sizes(shape[axis] for axis in new_order),
        allowzero=1,  # a size of 0 means no images, not the size before
    )
    return Tensor(shape, x.dtype, name, new_order)


def _groups(
    old: Sequence[Dimension], new: Sequence[Dimension]
) -> list[tuple[list[int], list[int]]]:
    """Returns the axes before and after a reshape in the smallest groups of equal products."""
    groups, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        left, right = [*range(i, min(i + 1, len(old)))], [*range(j, min(j + 1, len(new)))]
        while (a := math.prod(old[k] for k in left)) != (b := math.prod(new[k] for k in right)):
            try:
                left_grows = j + len(right) >= len(new) or (i + len(left) < len(old) and a < b)
            except (
                InconclusiveDimensionOperation
            ):  # unknown which is smaller: the rest is one group
                return [*groups, ([*range(i, len(old))], [*range(j, len(new))])]
            if left_grows:
                left.append(i + len(left))
            else:
                right.append(j + len(right))
        groups.append((left, right))
        i, j = i + len(left), j + len(right)
    return groups


@OPERATORS.register("squeeze")
def squeeze(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    removed = equation.params["dimensions"]
    shape = equation.outvars[0].aval.shape
    return _without(graph, x, removed, shape)


def _without(graph: Graph, x: Tensor, removed: Sequence[int], shape: Sequence[Dimension]) -> Tensor:
    """Removes axes of size 1."""
    if not removed:
        return x
    kept = [axis for axis in range(len(x.order)) if axis not in removed]
    order = tuple(kept.index(axis) for axis in x.order if axis in kept)
    places = sorted(x.position(axis) for axis in removed)
    name = graph.node("Squeeze", graph.name(x, full=False), graph.constant(places, np.int64))
    stretched = frozenset(kept.index(axis) for axis in x.stretched if axis in kept)
    return Tensor(tuple(shape), x.dtype, name, order, stretched)


@OPERATORS.register("concatenate")
def concatenate(graph: Graph, equation: Any, *inputs: Tensor) -> Tensor:
    axis = equation.params["dimension"]
    like = next((x for x in inputs if isinstance(x.stored, str)), inputs[0])
    names = [graph.name(x, like.order) for x in inputs]
    name = graph.node("Concat", *names, axis=like.position(axis))
    return Tensor(equation.outvars[0].aval.shape, like.dtype, name, like.order)


@OPERATORS.register("pad")
def pad(graph: Graph, equation: Any, x: Tensor, value: Tensor) -> Tensor:
    config = equation.params["padding_config"]
    if any(is_symbolic(inner) or inner for _, _, inner in config):
        raise NotImplementedError("pad between values")
    edges = [config[axis][end] for end in (0, 1) for axis in x.order]
    name = graph.node("Pad", graph.name(x), graph.sizes(edges), graph.name(value))
    return Tensor(equation.outvars[0].aval.shape, x.dtype, name, x.order)


@OPERATORS.register("slice")
def cut(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    parameters = equation.params
    rank = len(x.shape)
    starts, ends = parameters["start_indices"], parameters["limit_indices"]
    steps = parameters["strides"] or (1,) * rank
    axes = [
        axis
        for axis in range(rank)
        if (starts[axis], steps[axis]) != (0, 1) or ends[axis] != x.shape[axis]
    ]
    shape = equation.outvars[0].aval.shape
    if not axes:
        return x
    name = graph.node(
        "Slice",
        graph.name(x),
        graph.sizes(starts[axis] for axis in axes),
        graph.sizes(ends[axis] for axis in axes),
        graph.constant([x.position(axis) for axis in axes], np.int64),
        graph.constant([steps[axis] for axis in axes], np.int64),
    )
    return Tensor(shape, x.dtype, name, x.order)


@OPERATORS.register("split")
def split(graph: Graph, equation: Any, x: Tensor) -> list[Tensor]:
    axis, parts, end = equation.params["axis"], [], 0
    place = graph.constant([x.position(axis)], np.int64)
    for size, out in zip(equation.params["sizes"], equation.outvars, strict=True):
        start, end = end, end + size
        name = graph.node("Slice", graph.name(x), graph.size(start), graph.size(end), place)
        parts.append(Tensor(out.aval.shape, x.dtype, name, x.order))
    return parts


@OPERATORS.register("gather")
def gather(graph: Graph, equation: Any, x: Tensor, indices: Tensor) -> Tensor:
    """A window of the array, or the rows of one axis that `indices` lists.

    An index outside the array, for which JAX has several rules, is an error of the runtime.
    """
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    axes, collapsed = numbers.start_index_map, numbers.collapsed_slice_dims
    shape = equation.outvars[0].aval.shape
    if len(indices.shape) == 1 and not numbers.operand_batching_dims:
        starts = graph.node("Cast", graph.name(indices), to=onnx_type(np.int64))
        return _window(graph, x, axes, starts, sizes, collapsed, shape)
    others = [size == full for size, full in zip(sizes, x.shape, strict=True)]
    rows = tuple(set(range(len(shape))) - set(numbers.offset_dims))
    one_axis = len(axes) == 1 and collapsed == axes == rows and len(indices.shape) == 2
    if not one_axis or not all(same for axis, same in enumerate(others) if axis not in axes):
        raise NotImplementedError("gather along several axes")
    flat = graph.node("Squeeze", graph.name(indices, (0, 1)), graph.constant([1], np.int64))
    name = graph.node("Gather", graph.name(x), flat, axis=x.position(axes[0]))
    return Tensor(shape, x.dtype, name, x.order)


@OPERATORS.register("dynamic_slice")
def dynamic_slice(graph: Graph, equation: Any, x: Tensor, *starts: Tensor) -> Tensor:
    """A window, which must lie in the array."""
    sizes, shape = equation.params["slice_sizes"], equation.outvars[0].aval.shape
    axes = [axis for axis, size in enumerate(sizes) if size != x.shape[axis]]
    if not axes:
        return x
    one = graph.constant([0], np.int64)
    vectors = [graph.node("Unsqueeze", graph.name(starts[axis]), one) for axis in axes]
    joined = graph.node("Concat", *vectors, axis=0)
    first = graph.node("Cast", joined, to=onnx_type(np.int64))
    return _window(graph, x, axes, first, sizes, (), shape)


def _window(
    graph: Graph,
    x: Tensor,
    axes: Sequence[int],
    starts: str,
    sizes: Sequence[Dimension],
    removed: Sequence[int],
    shape: Sequence[Dimension],
) -> Tensor:
    """Returns the window of `sizes` that starts at `starts` on some axes, at 0 on the others."""
    places = graph.constant([x.position(axis) for axis in axes], np.int64)
    ends = graph.node("Add", starts, graph.sizes(sizes[axis] for axis in axes))
    name = graph.node("Slice", graph.name(x), starts, ends, places)
    return _without(graph, Tensor(tuple(sizes), x.dtype, name, x.order), removed, shape)


@OPERATORS.register("iota")
def iota(graph: Graph, equation: Any) -> Tensor:
    """Numbers 0, 1, ... along one axis."""
    out, axis = equation.outvars[0].aval, equation.params["dimension"]
    scalar = graph.node("Squeeze", graph.size(out.shape[axis]), graph.constant([0], np.int64))
    zero, one = (graph.constant(number, np.int64) for number in (0, 1))
    name = graph.node("Range", zero, scalar, one)
    name = graph.node("Cast", name, to=onnx_type(out.dtype))
    others = [other for other in range(len(out.shape)) if other != axis]
    if others:
        name = graph.node("Unsqueeze", name, graph.constant(others, np.int64))
    stretched = frozenset(other for other in others if out.shape[other] != 1)
    return Tensor(out.shape, out.dtype, name, tuple(range(len(out.shape))), stretched)


@OPERATORS.register("dim_as_value")
def size_as_value(graph: Graph, equation: Any) -> Tensor:
    out = equation.outvars[0].aval
    size = graph.node("Squeeze", graph.size(equation.params["dim"]), graph.constant([0], np.int64))
    return Tensor((), out.dtype, graph.node("Cast", size, to=onnx_type(out.dtype)), ())
