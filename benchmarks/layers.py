"""Times this project's layers against the library's: forward and backward, on the local device.

python -m benchmarks.layers

Each pair computes the same values and gradients (tests/models). The two are interleaved, so that
other load on the machine affects both; the table gives medians and ranges.
"""

import statistics
import time
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

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


def milliseconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    command_parser("python -m benchmarks.layers", __doc__).parse_args()
    pooled = jax.random.normal(jax.random.key(0), (2, 256, 256, 64))
    small = jax.random.normal(jax.random.key(1), (2, 64, 64, 128))
    kernel = jax.random.normal(jax.random.key(2), (2, 2, 128, 64))
    bias = jnp.zeros(64)
    own, library = UpConv(64), nn.ConvTranspose(64, (2, 2), (2, 2))

    def apply(layer: nn.Module) -> Callable:
        return lambda x, kernel, bias: layer.apply({"params": {"kernel": kernel, "bias": bias}}, x)

    pairs = {
        "2x2 max-pooling, 2x256x256x64": (
            compile_gradient(max_pool, pooled),
            compile_gradient(lambda x: nn.max_pool(x, (2, 2), (2, 2)), pooled),
        ),
        "2x2 transposed convolution, 2x64x64x128 -> 2x128x128x64": (
            compile_gradient(apply(own), small, kernel, bias),
            compile_gradient(apply(library), small, kernel, bias),
        ),
    }

    def same(convolution: Callable) -> Callable:
        margins = ((1, 1), (1, 1))
        return lambda x, k: convolution(x, k, (1, 1), margins, dimension_numbers=LAYOUT)

    for size, channels, features in ((256, 16, 16), (256, 32, 16), (64, 256, 256), (32, 512, 512)):
        x = jax.random.normal(jax.random.key(3), (1, size, size, channels))
        weights = jax.random.normal(jax.random.key(4), (3, 3, channels, features))
        pairs[f"3x3 convolution, 1x{size}x{size}x{channels} -> {features}"] = (
            compile_gradient(same(convolve), x, weights),
            compile_gradient(same(jax.lax.conv_general_dilated), x, weights),
        )
    for size, channels, side in ((64, 96, 3), (32, 240, 5)):
        x = jax.random.normal(jax.random.key(5), (1, size, size, channels))
        weights = jax.random.normal(jax.random.key(6), (side, side, 1, channels))
        pairs[f"{side}x{side} depthwise convolution, 1x{size}x{size}x{channels}"] = (
            compile_gradient(lambda x, k: depthwise.convolve(x, k, 1), x, weights),
            compile_gradient(lambda x, k: depthwise._plain(x, k, 1), x, weights),
        )
    device = jax.devices()[0].device_kind
    print(f"jax {jax.__version__}, {device}, float32, {ROUNDS} interleaved rounds\n")
    print("| layer, forward and backward | own, ms | library, ms | ratio |")
    print("| --- | ---: | ---: | ---: |")
    for name, runs in pairs.items():
        times = [[milliseconds(run) for run in runs] for _ in range(ROUNDS)]
        columns = list(zip(*times, strict=True))
        own_ms, library_ms = (statistics.median(column) for column in columns)
        spread = [f"{min(c):.1f}-{max(c):.1f}" for c in columns]
        print(
            f"| {name} | {own_ms:.1f} ({spread[0]}) | {library_ms:.1f} ({spread[1]}) "
            f"| {library_ms / own_ms:.1f} |"
        )


if __name__ == "__main__":
    main()
