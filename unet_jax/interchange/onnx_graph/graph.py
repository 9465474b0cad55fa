"""An ONNX graph under construction: its nodes, constants, and sizes computed from the input's."""

import ast
import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Self

import jax
import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 18  # of ONNX Runtime 1.14 (2023) and later
IR_VERSION = 8
Dimension = Any  # an int, or a symbolic expression of `jax.export.symbolic_shape`

# ONNX Runtime computes only some operators on integers of 8 and 16 bits.
WIDENED = {np.dtype(np.int8): np.dtype(np.int32), np.dtype(np.int16): np.dtype(np.int32)}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An array of a traced function, and how the graph stores it.

    JAX's arrays have the channels last, ONNX's images have them first. The order of the axes is
    therefore part of the tensor, so that most operators need no transposition. An axis that was
    broadcast is stored with size 1 as long as possible, because ONNX's operators broadcast too.

    Attributes:
      shape: the sizes in JAX.
      dtype: the type in JAX.
      stored: the name of the graph's tensor, or the array of a constant.
      order: axis i of the stored tensor is axis order[i] in JAX. That of a constant is 0, 1, ....
      stretched: axes in JAX whose stored size is 1, though `shape` has another.
    """

    shape: tuple[Dimension, ...]
    dtype: np.dtype
    stored: str | np.ndarray
    order: tuple[int, ...]
    stretched: frozenset[int] = frozenset()

    @classmethod
    def constant(cls, array: Any) -> Self:
        array = np.asarray(array)
        return cls(array.shape, array.dtype, array, tuple(range(array.ndim)))

    @property
    def is_static(self) -> bool:
        return all(isinstance(size, int) for size in self.shape)

    @property
    def is_constant(self) -> bool:
        """Whether the whole array is known, and not only the values that are broadcast."""
        return isinstance(self.stored, np.ndarray) and self.is_static

    def array(self) -> np.ndarray:
        """Returns the array of a constant, in JAX's order."""
        return np.broadcast_to(self.stored, self.shape)

    def stored_size(self, axis: int) -> Dimension:
        """Returns the stored size of an axis in JAX."""
        return 1 if axis in self.stretched else self.shape[axis]

    def position(self, axis: int) -> int:
        """Returns the stored axis of an axis in JAX."""
        return self.order.index(axis)


@dataclasses.dataclass
class Node:
    """An operator with one output, whose name is its own."""

    operator: str
    name: str
    inputs: tuple[str, ...]
    attributes: dict[str, Any]


class Graph:
    """Collects the nodes and constants of a graph.

    Attributes:
      nodes: the nodes by their output, in an order in which they can be computed.
      scope: prefix of the names of new nodes, such as `UNet/down_0/Conv_0`.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.scope = ""
        self.constants: dict[str, np.ndarray] = {}
        self._names: dict[Any, str] = {}  # names of constants, by their content
        self._sizes: dict[str, str] = {}  # names of sizes, by their symbolic expression
        self._inputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def add_input(self, name: str, dtype: Any, shape: Sequence[int | str]) -> None:
        """Adds an input of the graph.

        Args:
          name: its name.
          dtype: its type.
          shape: its stored shape; a text is the variable of a symbolic size.
        """
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        for axis, size in enumerate(shape):
            if isinstance(size, str):
                self._sizes[size] = self.node("Shape", name, start=axis, end=axis + 1)

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node with one output; returns the output's name."""
        self._count += 1
        name = "/".join(filter(None, (self.scope, f"{operator}_{self._count}")))
        self.nodes[name] = Node(operator, name, inputs, attributes)
        return name

    def constant(self, array: Any, dtype: Any = None) -> str:
        """Returns the name of a constant; equal ones are stored once."""
        array = np.asarray(array, dtype)
        array = array.astype(WIDENED.get(array.dtype, array.dtype))
        content = hashlib.sha256(array.tobytes()).digest()
        key = array.dtype.str, array.shape, content
        if key not in self._names:
            name = f"constant_{len(self.constants)}"
            self._names[key], self.constants[name] = name, array
        return self._names[key]

    def size(self, dimension: Dimension) -> str:
        """Returns the name of a size, int64 [1], as the graph computes it from the input's shape.

        Args:
          dimension: an int or a symbolic expression.
        """
        text = str(dimension)
        if text not in self._sizes:
            scope, self.scope = self.scope, "sizes"
            # The text of an expression is documented; its class is not public.
            self._sizes[text] = self._evaluate(ast.parse(text.replace("^", "**"), mode="eval").body)
            self.scope = scope
        return self._sizes[text]

    def sizes(self, dimensions: Iterable[Dimension]) -> str:
        """Returns the name of a vector of sizes, int64 [k]."""
        dimensions = [*dimensions]
        if all(isinstance(dimension, (int, np.integer)) for dimension in dimensions):
            return self.constant(dimensions, np.int64)
        return self.node("Concat", *map(self.size, dimensions), axis=0)

    def _evaluate(self, expression: ast.expr) -> str:
        match expression:
            case ast.Constant(value=int(number)):
                return self.constant([number], np.int64)
            case ast.Name(id=name):
                return self._sizes[name]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self.node("Neg", self._evaluate(operand))
            case ast.BinOp(op=op, left=left, right=right):
                operator = {"Add": "Add", "Sub": "Sub", "Mult": "Mul", "Pow": "Pow"}
                name = operator[type(op).__name__]
                return self.node(name, self._evaluate(left), self._evaluate(right))
            case ast.Call(func=ast.Name(id="floordiv"), args=[left, right]):
                a, b = self._evaluate(left), self._evaluate(right)
                # ONNX's division of integers rounds towards zero.
                return self.node("Div", self.node("Sub", a, self.node("Mod", a, b)), b)
            case ast.Call(func=ast.Name(id="mod" | "max" | "min" as name), args=arguments):
                return self.node(name.capitalize(), *map(self._evaluate, arguments))
        raise NotImplementedError(f"a size of {ast.unparse(expression)}")

    def name(self, tensor: Tensor, order: Sequence[int] | None = None, full: bool = True) -> str:
        """Returns the name of a tensor that is stored as asked for.

        Args:
          tensor: the tensor.
          order: the order of its axes; by default its own.
          full: whether broadcast axes must have their whole size.
        """
        order = tensor.order if order is None else tuple(order)
        moved = [tensor.order.index(axis) for axis in order]
        if isinstance(tensor.stored, np.ndarray):
            name = self.constant(tensor.stored.transpose(moved))
        else:
            name = tensor.stored
            if moved != sorted(moved):
                name = self.node("Transpose", name, perm=moved)
        if full and tensor.stretched:
            name = self.node("Expand", name, self.sizes(tensor.shape[axis] for axis in order))
        return name

    def model(self, outputs: dict[str, tuple[Tensor, tuple[int, ...]]]) -> onnx.ModelProto:
        """Builds the model, without the nodes and constants that no output needs.

        Args:
          outputs: the outputs and the orders of their axes, by their names.
        """
        values, needed = [], set()
        for name, (tensor, order) in outputs.items():
            self.nodes[name] = Node("Identity", name, (self.name(tensor, order),), {})
            shape = [x if isinstance(x, int) else str(x) for x in tensor.shape]
            values.append(
                helper.make_tensor_value_info(
                    name,
                    helper.np_dtype_to_tensor_dtype(tensor.dtype),
                    [shape[axis] for axis in order],
                )
            )
            needed.add(name)
        for node in reversed([*self.nodes.values()]):
            if node.name in needed:
                needed.update(node.inputs)
        nodes = [
            helper.make_node(node.operator, node.inputs, [node.name], node.name, **node.attributes)
            for node in self.nodes.values()
            if node.name in needed
        ]
        constants = [
            numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
            for name, array in self.constants.items()
            if name in needed
        ]
        graph = helper.make_graph(nodes, "network", self._inputs, values, constants)
        return helper.make_model(
            graph,
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
            producer_name="unet_jax",
        )


def onnx_type(dtype: Any) -> int:
    """Returns ONNX's number of the type in which arrays of a type are stored."""
    dtype = np.dtype(dtype)
    return helper.np_dtype_to_tensor_dtype(WIDENED.get(dtype, dtype))


def is_symbolic(dimension: Dimension) -> bool:
    return not isinstance(dimension, (int, np.integer))


def abstract(tensor: Tensor) -> jax.ShapeDtypeStruct:
    """Returns what JAX traces a function with."""
    return jax.ShapeDtypeStruct(tensor.shape, tensor.dtype)
