"""The primitives of JAX that can be translated.

A function that is registered under the name of a primitive gets the graph, the equation and the
equation's inputs, and returns its output:

    @OPERATORS.register("exp")
    def exp(graph, equation, x): ...

It raises NotImplementedError, with a few words on the case, for parameters that it cannot
translate.
"""

from collections.abc import Callable

from unet_jax.core.registry import Registry
from unet_jax.interchange.onnx_graph.graph import Tensor

OPERATORS: Registry[Callable[..., Tensor | list[Tensor]]] = Registry(
    "unet_jax.interchange.onnx_graph"
)
