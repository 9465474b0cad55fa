"""The share of the roofline that each layer reaches within the training step.

The peaks are measured here: a large matrix product gives the arithmetic, a negated array the memory
bandwidth. A layer needs at least max(operations / peak, bytes / bandwidth), where bytes are those
of its input, output and kernel, each read or written once. `benchmarks.profile` measures what it
takes in the step. Fused operations count for one layer only, so that a share may exceed 1 where its
neighbour has more than its own work; the sum over all layers does not depend on that.
"""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from benchmarks.accelerator.record import Recorder
from benchmarks.profile import by_layer, operations, traced
from benchmarks.steps import training_step
from configs import base
from unet_jax import models
from unet_jax.models.blocks import Norm, UpConv

ROUNDS = 7
ADAM_ARRAYS = 7  # reads parameter, gradient and two moments, writes all but the gradient


class Cost(NamedTuple):
    """What a layer must do in one pass."""

    flop: float
    bytes: float


class Peaks(NamedTuple):
    """What the device can do."""

    flops: float  # operations per second
    bandwidth: float  # bytes per second, read and written

    def bound(self, cost: Cost) -> float:
        """Returns the shortest possible time in ms."""
        return 1e3 * max(cost.flop / self.flops, cost.bytes / self.bandwidth)


def rates(run: Callable[[], jax.Array], work: float, seconds: float) -> list[float]:
    """Returns the work per second in each round; runs are started without waiting for the last."""
    jax.block_until_ready([run(), run()])
    start = time.perf_counter()
    jax.block_until_ready(run())
    repeats = max(1, round(seconds / ROUNDS / (time.perf_counter() - start)))
    found = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(repeats - 1):
            run()
        jax.block_until_ready(run())
        found.append(work * repeats / (time.perf_counter() - start))
    return found


def measure_peaks(dtype: str, side: int, copied: int, seconds: float) -> tuple[Peaks, dict]:
    """Measures the device's peaks.

    Args:
      dtype: of the matrices; JAX's default precision for it, as in the network.
      side: side of the square matrices.
      copied: bytes of the array that is read and written.
      seconds: time for each of both.

    Returns:
      The highest rates, and a description with medians and ranges.
    """
    one, two = (jax.random.normal(jax.random.key(seed), (side, side), dtype) for seed in range(2))
    multiply, negate = jax.jit(jnp.matmul), jax.jit(jnp.negative)
    flops = rates(lambda: multiply(one, two), 2 * side**3, seconds)
    array = jax.random.normal(jax.random.key(2), (copied // 4,), jnp.float32)
    bandwidth = rates(lambda: negate(array), 2 * array.nbytes, seconds)
    described = {}
    for name, found, unit in (("tflops", flops, 1e12), ("gb_per_second", bandwidth, 1e9)):
        values = {"median": statistics.median(found), "low": min(found), "high": max(found)}
        described[name] = {key: value / unit for key, value in values.items()}
    return Peaks(max(flops), max(bandwidth)), described


def layer_costs(config: ConfigDict, channels: int) -> dict[tuple[str, str], Cost]:
    """Counts what each convolution and norm must do, by layer and pass; nothing is computed.

    Args:
      config: a resolved experiment; its `batch_size` is that of the device.
      channels: channels of the images.
    """
    # The plain form of the layers, for any platform.
    model = models.build(**config.model, platform="cpu")
    item = jnp.dtype(model.dtype).itemsize
    found: dict[tuple[str, str], Cost] = {}

    def record(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext):
        y = call(*args, **kwargs)
        layer, name = context.module, "/".join(context.module.path)
        if context.method_name != "__call__" or not isinstance(layer, nn.Conv | UpConv | Norm):
            return y
        x = args[0]
        read, written = x.size * item, y.size * y.dtype.itemsize
        if isinstance(layer, Norm):
            found[name, "forward"] = Cost(0, read + written)
            found[name, "backward"] = Cost(0, 2 * read + written)
            return y
        kernel = layer.variables["params"]["kernel"]
        pixels = math.prod((x if isinstance(layer, UpConv) else y).shape[:3])
        flop = 2.0 * pixels * kernel.size
        first = not found  # no gradient by the images is needed
        found[name, "forward"] = Cost(flop, read + written + kernel.nbytes)
        back = read + written + 2 * kernel.nbytes + (0 if first else read)
        found[name, "backward"] = Cost(flop * (1 if first else 2), back)
        return y

    image = jax.ShapeDtypeStruct(
        (config.batch_size, config.data.size, config.data.size, channels), jnp.float32
    )
    with nn.intercept_methods(record):
        jax.eval_shape(lambda key, x: model.init(key, x, train=True), jax.random.key(0), image)
    return found


def shares(
    measured: dict[str, dict[str, float]], costs: dict[tuple[str, str], Cost], peaks: Peaks
) -> list[dict[str, Any]]:
    """Returns a row for each layer and pass, the longest first; no share where no cost is known."""
    rows = []
    for layer, passes in measured.items():
        for direction, ms in passes.items():
            row: dict[str, Any] = {"layer": layer, "pass": direction, "ms": ms}
            if cost := costs.get((layer, direction)):
                bound = peaks.bound(cost)
                arithmetic = 1e3 * cost.flop / peaks.flops == bound
                row |= {
                    "bound_ms": bound,
                    "bound_by": "arithmetic" if arithmetic else "bandwidth",
                    "share": bound / ms if ms else None,
                    "gflop": cost.flop / 1e9,
                    "mib": cost.bytes / 2**20,
                }
            rows.append(row)
    return sorted(rows, key=lambda row: -row["ms"])


def measure(settings: dict[str, Any], recorder: Recorder) -> None:
    """Measures the peaks, profiles the training step, and records a row for each layer and pass."""
    peaks, described = measure_peaks(
        settings["precision"], settings["matrix"], settings["copied"], settings["seconds"]
    )
    recorder.write([], peaks=described)
    config = base.get_config()
    config.batch_size, config.data.size = settings["batch"], settings["size"]
    config.model.width, config.model.depth = settings["width"], settings["depth"]
    config.model.dtype = settings["precision"]
    costs = layer_costs(config, channels=1)
    step = training_step(config, 1, jax.local_devices()[:1])
    times, wall = traced(step)
    measured = by_layer(times, operations(step.compiled.as_text()))
    about = {"width": settings["width"], "precision": settings["precision"]}
    variables = models.init(models.build(**config.model), 1, config.seed)
    adam = Cost(0, ADAM_ARRAYS * 4 * models.parameter_count(variables))
    bound = sum(peaks.bound(cost) for cost in [*costs.values(), adam])
    total = sum(sum(passes.values()) for passes in measured.values())
    recorder.write(
        [about | row for row in shares(measured, costs, peaks)],
        step_ms=wall,
        step_bound_ms=bound,
        step_share=bound / wall,
        # Far from 1 on an accelerator, the profile lacks operations or counts some twice.
        operations_of_step=total / wall,
    )
