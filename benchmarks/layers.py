"""Times this project's layers against the library's and PyTorch's: forward and backward.

python -m benchmarks.layers

The layers of a row compute the same values and gradients (tests/models), on the local device;
PyTorch's are eager, channels_last, with as many threads as there are cores. All are interleaved, so
that other load on the machine affects them alike; the table gives medians and ranges. It needs
PyTorch besides what the main job needs.
"""

import statistics
import time
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.pytorch.runs import device as torch_device
from unet_jax.core.command_help import command_parser
from unet_jax.models.blocks import UpConv, max_pool
from unet_jax.models.kernels import depthwise
from unet_jax.models.kernels.convolution import LAYOUT, convolve

ROUNDS = 15


def compile_gradient(layer: Callable, *inputs: jax.Array) -> Callable[[], object]:
    """Compiles sum(layer(inputs)^2) and its gradient by all inputs; returns a function to run."""

    def loss(*inputs: jax.Array) -> jax.Array:
        return jnp.sum(layer(*inputs) ** 2)

    gradient = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(inputs)))))
    jax.block_until_ready(gradient(*inputs))
    return lambda: jax.block_until_ready(gradient(*inputs))


def torch_gradient(layer: Callable, *inputs: jax.Array) -> Callable[[], object]:
    """As `compile_gradient`, of a PyTorch layer.

    Args:
      layer: the layer, of [N, C, H, W] and of kernels [O, I, H, W].
      *inputs: as those of `compile_gradient`: [N, H, W, C], kernels [H, W, I, O], biases.
    """
    order = ((0, 3, 1, 2), (3, 2, 0, 1), (0,))  # of images, kernels and biases
    tensors = []
    for x, axes in zip(inputs, order, strict=False):
        tensor = torch.tensor(np.asarray(x).transpose(axes), device=torch_device())
        form = torch.channels_last if x.ndim == 4 else torch.contiguous_format
        tensors.append(tensor.contiguous(memory_format=form).requires_grad_())

    def run() -> None:
        value = (layer(*tensors) ** 2).sum()
        torch.autograd.grad(value, tensors)
        if value.is_cuda:
            torch.cuda.synchronize()

    run()
    return run


def milliseconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def torch_depthwise(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.conv2d(x, kernel, padding="same", groups=x.shape[1])


def main() -> None:
    command_parser("python -m benchmarks.layers", __doc__).parse_args()
    pooled = jax.random.normal(jax.random.key(0), (2, 256, 256, 64))
    small = jax.random.normal(jax.random.key(1), (2, 64, 64, 128))
    kernel = jax.random.normal(jax.random.key(2), (2, 2, 128, 64))
    bias = jnp.zeros(64)
    own_layer, library_layer = UpConv(64), nn.ConvTranspose(64, (2, 2), (2, 2))

    def apply(layer: nn.Module) -> Callable:
        return lambda x, kernel, bias: layer.apply({"params": {"kernel": kernel, "bias": bias}}, x)

    def up(x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv_transpose2d(x, kernel, bias, stride=2)

    rows = {
        "2x2 max-pooling, 2x256x256x64": (
            compile_gradient(max_pool, pooled),
            compile_gradient(lambda x: nn.max_pool(x, (2, 2), (2, 2)), pooled),
            torch_gradient(lambda x: torch.nn.functional.max_pool2d(x, 2), pooled),
        ),
        "2x2 transposed convolution, 2x64x64x128 -> 2x128x128x64": (
            compile_gradient(apply(own_layer), small, kernel, bias),
            compile_gradient(apply(library_layer), small, kernel, bias),
            torch_gradient(up, small, kernel.swapaxes(2, 3), bias),
        ),
    }

    def same(convolution: Callable) -> Callable:
        margins = ((1, 1), (1, 1))
        return lambda x, k: convolution(x, k, (1, 1), margins, dimension_numbers=LAYOUT)

    for size, channels, features in ((256, 16, 16), (256, 32, 16), (64, 256, 256), (32, 512, 512)):
        x = jax.random.normal(jax.random.key(3), (1, size, size, channels))
        weights = jax.random.normal(jax.random.key(4), (3, 3, channels, features))
        rows[f"3x3 convolution, 1x{size}x{size}x{channels} -> {features}"] = (
            compile_gradient(same(convolve), x, weights),
            compile_gradient(same(jax.lax.conv_general_dilated), x, weights),
            torch_gradient(
                lambda x, k: torch.nn.functional.conv2d(x, k, padding="same"), x, weights
            ),
        )
    for size, channels, side in ((64, 96, 3), (32, 240, 5)):
        x = jax.random.normal(jax.random.key(5), (1, size, size, channels))
        weights = jax.random.normal(jax.random.key(6), (side, side, 1, channels))
        rows[f"{side}x{side} depthwise convolution, 1x{size}x{size}x{channels}"] = (
            compile_gradient(lambda x, k: depthwise.convolve(x, k, 1), x, weights),
            compile_gradient(lambda x, k: depthwise._plain(x, k, 1), x, weights),
            torch_gradient(torch_depthwise, x, weights),
        )
    device = jax.devices()[0].device_kind
    versions = f"jax {jax.__version__}, torch {torch.__version__}"
    print(f"{versions}, {device}, float32, {ROUNDS} interleaved rounds\n")
    heads = ("own, ms", "library, ms", "library / own", "PyTorch, ms", "PyTorch / own")
    print(f"| layer, forward and backward | {' | '.join(heads)} |")
    print("| --- |" + " ---: |" * len(heads))
    for name, runs in rows.items():
        times = [[milliseconds(run) for run in runs] for _ in range(ROUNDS)]
        columns = list(zip(*times, strict=True))
        own, library, pytorch = (statistics.median(column) for column in columns)
        shown = [
            f"{ms:.1f} ({min(column):.1f}-{max(column):.1f})"
            for ms, column in zip((own, library, pytorch), columns, strict=True)
        ]
        cells = [*shown[:2], f"{library / own:.1f}", shown[2], f"{pytorch / own:.1f}"]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
