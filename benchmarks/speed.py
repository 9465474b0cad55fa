"""Times the training step and the forward pass against all variants of the PyTorch twin.

python -m benchmarks.speed --model=unet --width=16 --batch=2 --size=256 --out=speed.json

Network, loss (binary cross-entropy), optimizer (Adam) and batch are the same; the batch is already
on the device. All variants are compiled and warmed up first. The rounds are interleaved, so that
other load on the machine affects all alike. A row has the median of the rounds and their range.

On a CPU both frameworks use all cores. JAX is timed on one device, and on as many as there are
cores if they divide the batch.

ratio.train, ratio.forward   PyTorch's best median over JAX's, both at --precision; above 1, JAX is
                             faster
ratio.train_any_precision    the same with PyTorch's best at any precision

It needs only jax, flax, optax, ml_collections, torch and numpy.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves memory for PyTorch

import jax
import torch

from benchmarks.pytorch.runs import torch_sources
from benchmarks.tables import table
from benchmarks.timing import (
    LOSS,
    MODEL,
    Settings,
    environment,
    jax_sources,
    prepare,
    ratios,
    time_runs,
)
from unet_jax import models
from unet_jax.core.command_help import command_parser
from unet_jax.core.files import write_json
from unet_jax.distributed import devices
from unet_jax.models.encoders.encoder import ENCODERS


def compare(
    settings: Settings,
    mode: str,
    rounds: int,
    seconds: float,
    precisions: Sequence[str] = ("float32", "bfloat16"),
) -> list[dict[str, Any]]:
    """Times all variants of both frameworks.

    Args:
      settings: the network, loss and batch.
      mode: mode of torch.compile.
      rounds: number of rounds.
      seconds: time for each variant and task.
      precisions: which of float32 and bfloat16 to time.

    Returns:
      A row for each variant and task with the median, lowest and highest round, ms; and a row with
      the reason for each variant that failed.
    """
    sources = jax_sources(settings, precisions) | torch_sources(settings, mode, precisions)
    runs, failed = prepare(sources)
    return time_runs(runs, settings.batch, rounds, seconds) + failed


def main(arguments: Sequence[str] | None = None) -> None:
    parser = command_parser("python -m benchmarks.speed", __doc__)
    group = parser.add_argument_group("network and batch")
    group.add_argument(
        "--model", metavar="NAME", default="unet", choices=models.NETWORKS, help="network"
    )
    group.add_argument("--width", type=int, default=64, help="channels of the first level")
    group.add_argument("--depth", type=int, default=4, help="number of poolings")
    group.add_argument(
        "--encoder", metavar="NAME", choices=ENCODERS, help="encoder of --model=smp_unet"
    )
    group.add_argument("--stride", type=int, help="model.stride of --model=smp_unet")
    group.add_argument("--batch", type=int, default=2, help="images per step")
    group.add_argument("--size", type=int, default=256, help="side of the images, pixels")
    group.add_argument(
        "--precision",
        metavar="TYPE",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="float32, bfloat16 or auto, as in config.model.dtype",
    )
    group = parser.add_argument_group("measurement")
    group.add_argument("--rounds", type=int, default=7, help="rounds of the timing")
    group.add_argument("--seconds", type=float, default=10.0, help="time for each variant and task")
    group.add_argument("--compile", default="default", help="mode of torch.compile")
    group.add_argument("--out", type=pathlib.Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    devices.use_cores(options.batch)
    if options.precision == "auto":  # as config.model.dtype
        options.precision = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if torch.cuda.is_available() != (jax.default_backend() == "gpu"):
        raise SystemExit("only one framework has a GPU: install both with GPU support, or neither")

    model = {"name": options.model, "width": options.width, "depth": options.depth, **MODEL}
    own = {"encoder": options.encoder, "stride": options.stride}
    model |= {name: value for name, value in own.items() if value is not None}
    settings = Settings(model, LOSS, channels=1, batch=options.batch, size=options.size)
    rows = compare(settings, options.compile, options.rounds, options.seconds)
    ratio = ratios(rows, options.precision)
    timed = [row for row in rows if "ms" in row]
    print(table(sorted(timed, key=lambda row: (row["task"], row["ms"]))))
    for row in rows:
        if "failed" in row:
            print(f"{row['framework']} {row['variant']} {row['precision']}: {row['failed']}")
    print({name: value and round(value, 3) for name, value in ratio.items()})
    if options.out:
        described = {k: v for k, v in vars(options).items() if k != "out"}
        write_json(
            options.out, {"settings": described, **environment(), "rows": rows, "ratio": ratio}
        )


if __name__ == "__main__":
    main()
