"""Compiles an experiment's steps for a TPU slice, without having TPUs.

python -m benchmarks.tpu --topology=v5e:2x2 --config=configs/isbi.py --out=tpu.json

Topologies are v5e:2x2, v4:2x2x1, v6e:2x2 and larger ones; `--config.FIELD=VALUE` works as for the
launcher. No image is read: `--channels` is the number of their channels. It compiles the training
and evaluation steps and prints what a device needs at a per-device batch of `--batch`: memory;
floating-point operations and bytes accessed per image, as XLA counts them; the collectives of a
step; the roofline, which is the highest possible rate of images given the chip's peak and memory
bandwidth; and the `--top` operations of the training step that move the most bytes (`--out` has
all). Then it finds the largest per-device batch whose training step fits, a multiple of
`--granularity`, by compiling batches from `--batch` up to `--most`, and, with `--most_side`, the
largest square images of which `--batch` per device fit, whose side is a multiple of 256 pixels.

It needs libtpu, the package in the version that the installed JAX requires, or its file libtpu.so,
given by the variable TPU_LIBRARY_PATH. Without it, an error has the command that installs it.
"""

import collections
import dataclasses
import importlib.util
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from ml_collections import ConfigDict

from benchmarks.tables import table
from benchmarks.tpu.traffic import Operation, all_reduce_bytes, traffic
from unet_jax import models
from unet_jax.core.command_help import command_parser, describe_config
from unet_jax.core.errors import UserError, print_error
from unet_jax.core.files import write_json
from unet_jax.core.intensities import Intensities
from unet_jax.distributed import devices as parallel
from unet_jax.evaluation.evaluator import compile_evaluation
from unet_jax.inference.ensemble import single_network
from unet_jax.learning import optim
from unet_jax.runs.commandline import load_config
from unet_jax.runs.experiment import check, resolve_without_data
from unet_jax.training.state import init_state
from unet_jax.training.step import compile_update


@dataclasses.dataclass(frozen=True)
class Chip:
    """A chip's data sheet: https://cloud.google.com/tpu/docs/system-architecture"""

    accelerator: str  # libtpu's name of a small slice
    memory_gib: int
    peak_tflops: float  # bfloat16
    bandwidth_gb: float  # GB/s
    all_reduce_gb: float  # GB/s, a Pod's all-reduce bandwidth divided by its chips


CHIPS = {
    "v4": Chip("v4-8", 32, 275, 1228, 268),
    "v5e": Chip("v5litepod-4", 16, 197, 819, 200),
    "v6e": Chip("v6e-4", 32, 918, 1640, 400),
}
SIDE_STEP = 256  # pixels
COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)


def required_libtpu() -> str:
    """Returns the requirement of the installed JAX for libtpu, such as `libtpu==0.0.50.*`."""
    requirements = metadata.requires("jax") or []
    return next(r.partition(";")[0].strip() for r in requirements if r.startswith("libtpu"))


def _has_libtpu() -> bool:
    found = importlib.util.find_spec("libtpu")
    # A folder of that name, into which libtpu was installed, is found as well, without a file.
    return "TPU_LIBRARY_PATH" in os.environ or bool(found and found.origin)


def describe_slice(topology: str) -> tuple[Chip, Sequence[jax.Device]]:
    """Returns the chip and the devices of a slice such as v5e:2x2.

    Must be called before JAX uses any device, because libtpu reads its environment only once.

    Raises:
      UserError: the topology is unknown, or libtpu is missing.
    """
    chip = CHIPS.get(topology.partition(":")[0])
    if chip is None:
        chips = ", ".join(CHIPS)
        raise UserError(f"--topology={topology}: no such chip; use one of {chips}, as in v5e:2x2")
    if not _has_libtpu():
        raise UserError(
            f"--topology={topology}: libtpu is not installed; run "
            f"`pip install --no-deps --target tpu_library '{required_libtpu()}'`, and set "
            f"TPU_LIBRARY_PATH=tpu_library/libtpu/libtpu.so"
        )
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",  # no request to a cloud metadata server
        "TPU_ACCELERATOR_TYPE": chip.accelerator,
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no TPU is used, so other processes need no lock
    }
    try:
        described = topologies.get_topology_desc(topology_name=topology, platform="tpu")
    except RuntimeError as error:  # includes JaxRuntimeError
        raise UserError(f"--topology={topology}: {str(error).splitlines()[0]}") from error
    return chip, described.devices


class Steps:
    """Compiles the steps of one experiment for given devices."""

    def __init__(self, config: ConfigDict, channels: int, devices: Sequence[jax.Device]):
        self.config, self.channels = config, channels
        self.mesh = parallel.local_mesh(devices)
        self.model = models.build(**config.model, platform="tpu")
        self.optimizer = optim.build(
            config.optim, optim.build_schedule(config.optim, 1, 1), self.model.encoder_modules
        )
        state = init_state(
            self.model, self.optimizer, channels, config.seed, config.optim.ema_decay
        )
        self.state = jax.eval_shape(lambda: state)

    def train(self, batch: int, side: int | None = None) -> Any:
        """Compiles the training step for `batch` images per device, of `data.size` or `side`."""
        step: Any = compile_update(self.config, self.model, self.optimizer, self.mesh)
        images = self._images(batch, side or self.config.data.size)
        if self.config.data.border_weight:
            images["weight"] = jax.ShapeDtypeStruct(images["label"].shape, np.float32)
        key = jax.eval_shape(lambda: jax.random.key(0))
        return step.lower(self.state, images, key).compile()

    def evaluate(self, batch: int) -> Any:
        """Compiles the evaluation step for `batch` images per device."""
        network = single_network(self.model, Intensities.of(self.config.data))
        step: Any = compile_evaluation(self.config, network, self.mesh)
        images = self._images(batch, self.config.data.size)
        return step.lower(self.state.variables, images).compile()

    def sizes(self) -> dict[str, int]:
        """Returns the number of parameters, and the bytes of a model and of a training state."""

        def held(tree: Any) -> int:
            return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

        return {
            "parameters": models.parameter_count(self.state.variables),
            "model_bytes": held(self.state.evaluated),
            "state_bytes": held(self.state),
        }

    def _images(self, batch: int, side: int) -> dict[str, jax.ShapeDtypeStruct]:
        shape = (self.mesh.size, batch, side, side)
        return {
            "image": jax.ShapeDtypeStruct((*shape, self.channels), np.uint8),
            "label": jax.ShapeDtypeStruct(shape, np.uint8),
        }


def figures(compiled: Any, batch: int, chip: Chip) -> dict[str, Any]:
    """Returns what a device needs for a compiled step of `batch` images."""
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    flops, accessed = cost["flops"] / batch, cost["bytes accessed"] / batch
    return {
        "batch_per_device": batch,
        "memory_bytes": held + memory.temp_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "flops_per_image": flops,
        "bytes_per_image": accessed,
        "collectives": collectives(compiled.as_text()),
        "all_reduce_bytes": all_reduce_bytes(compiled.as_text()),
        "roofline_images_per_second": roofline(chip, flops, accessed),
    }


def roofline(chip: Chip, flops: float, accessed: float) -> float:
    """Returns the upper bound of images per second, from operations and bytes per image."""
    return min(chip.peak_tflops * 1e12 / flops, chip.bandwidth_gb * 1e9 / accessed)


def collectives(program: str) -> dict[str, int]:
    """Counts the collectives of a compiled program's text by kind."""
    # An asynchronous collective is two instructions; its start is counted.
    found = re.findall(rf" ({'|'.join(COLLECTIVES)})(?:-start)?\(", program)
    return dict(sorted(collections.Counter(found).items()))


def compile_if_fitting(steps: Steps, batch: int, side: int) -> Any | None:
    """Compiles a training step; returns None if it does not fit into a device's memory."""
    try:
        return steps.train(batch, side)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None


def fits(steps: Steps, batch: int, side: int) -> bool:
    """Tests whether a training step of `batch` images fits into a device's memory."""
    fitting = compile_if_fitting(steps, batch, side) is not None
    result = "fit" if fitting else "too large"
    print(f"  {batch} images of {side}x{side} pixels per device: {result}", flush=True)
    return fitting


def largest(fits: Callable[[int], bool], step: int, most: int, known: int = 0) -> int:
    """Finds the largest multiple of `step`, up to `most`, that fits; 0 if none does.

    If a number fits, all smaller ones are assumed to fit; `known` fits. It doubles the number and
    then bisects, so that `fits` is called few times.
    """
    low = min(known, most) // step * step  # fits
    high = 2 * low or step
    while high <= most and fits(high):
        low, high = high, 2 * high
    high = min(high, (most // step + 1) * step)  # does not fit or is above `most`
    while high - low > step:
        middle = (low + high) // 2 // step * step
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def search(title: str, fits: Callable[[int], bool], step: int, most: int, known: int) -> int:
    """Finds and prints the largest number that fits, see `largest`."""
    found = largest(fits, step, most, known)
    limited = ", the largest that was tried" if found + step > most else ""
    print(f"{title}: {found}{limited}")
    return found


def measure(steps: Steps, chip: Chip, batch: int) -> tuple[dict[str, Any], list[Operation]]:
    """Returns the figures of the training step, under `evaluate` those of the evaluation step.

    The second result lists the training step's operations and the bytes that they move.

    Raises:
      UserError: the training step does not fit into a device's memory.
    """
    side = steps.config.data.size
    trained = compile_if_fitting(steps, batch, side)
    if trained is None:
        raise UserError(
            f"--batch={batch}: a training step of {side}x{side} pixels does not fit into the "
            f"{chip.memory_gib} GiB of a device; lower --batch or data.size, or set "
            f"model.remat=True"
        )
    report = {"train": figures(trained, batch, chip)}
    report["evaluate"] = figures(steps.evaluate(batch), batch, chip)
    for name, found in report.items():
        counted = ", ".join(f"{n} {kind}" for kind, n in found["collectives"].items())
        print(
            f"{name}: {batch} images per device take {found['memory_bytes'] / 2**30:.2f} GiB, "
            f"{found['temporary_bytes'] / 2**30:.2f} of them temporary; an image takes "
            f"{found['flops_per_image'] / 1e9:.1f} GFLOP and "
            f"{found['bytes_per_image'] / 1e9:.2f} GB; at most "
            f"{found['roofline_images_per_second']:.0f} images/s per chip; "
            f"collectives: {counted or 'none'}, {found['all_reduce_bytes'] / 1e6:.1f} MB",
            flush=True,
        )
    return report.pop("train") | report, traffic(trained.as_text())


def main(arguments: Sequence[str]) -> int:
    parser = command_parser("python -m benchmarks.tpu", __doc__)
    group = parser.add_argument_group("what is compiled")
    group.add_argument("--topology", default="v5e:2x2", help="TPU slice")
    group.add_argument("--channels", type=int, default=3, help="channels of the images")
    group.add_argument("--batch", type=int, default=16, help="images per device")
    group = parser.add_argument_group("largest batch, largest images")
    group.add_argument(
        "--granularity", type=int, default=8, help="step of the search for the largest batch"
    )
    group.add_argument(
        "--most", type=int, default=128, help="largest batch that is tried; 0 tries none"
    )
    group.add_argument(
        "--most_side", type=int, default=0, help="largest side that is tried, pixels; 0 tries none"
    )
    group = parser.add_argument_group("output")
    group.add_argument("--top", type=int, default=20, help="number of operations to print")
    group.add_argument("--out", type=pathlib.Path, help="JSON file to write")
    describe_config(parser)
    options, rest = parser.parse_known_args(arguments)
    try:
        chip, devices = describe_slice(options.topology)
        config = load_config(rest)
        check(config)
        config = resolve_without_data(config, platform="tpu")
        count = config.optim.accumulate
        if options.batch % count or options.granularity % count:
            raise UserError(
                f"--batch={options.batch}, --granularity={options.granularity}: must be multiples "
                f"of optim.accumulate={count}"
            )
        steps = Steps(config, options.channels, devices)
        report, moves = measure(steps, chip, options.batch)
    except UserError as error:
        return print_error(error)
    report |= steps.sizes()
    report["operations"] = [operation._asdict() for operation in moves]
    rows: list[dict[str, Any]] = [
        {"operation": name, "result": shape, "layer": layer, "pass": direction}
        | {"GB written": written / 1e9, "GB read": read / 1e9}
        for name, shape, layer, direction, written, read in moves[: options.top]
    ]
    if rows:
        print(table(rows))

    def fitting(batch: int = options.batch, side: int = config.data.size) -> bool:
        return fits(steps, batch, side)

    if options.most:
        title = f"largest batch per device of {chip.memory_gib} GiB"
        report["largest_batch_per_device"] = search(
            title, fitting, options.granularity, options.most, options.batch
        )
    if options.most_side:
        title = f"largest side, pixels, of images of which {options.batch} fit"
        report["largest_side"] = search(
            title,
            lambda side: fitting(side=side),
            SIDE_STEP,
            options.most_side,
            config.data.size,
        )
    if options.out:
        about = {"topology": options.topology, "config": rest, "jax": jax.__version__}
        write_json(options.out, about | report)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
