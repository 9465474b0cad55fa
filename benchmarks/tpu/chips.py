"""Estimates what limits a run on 8, 64 and 256 TPU chips; docs/scaling.md has the formulae.

python -m benchmarks.tpu --topology=v5e:2x4 --config=configs/voc.py --batch=16 --out=voc.json
python -m benchmarks.tpu.chips voc.json --train=1318 --validation=146 --core=200 --score_ms=2.4

voc.json has what the compiler says of a step, which has as many images per chip on any number of
chips. `--core` is the number of images per second that one core reads and augments, measured by
`benchmarks.reading`; `--score_ms` is the time of one core to score an image, measured by
`benchmarks.metrics`. The other flags have assumed values or those of the data sheet of a v5e.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from benchmarks.tables import table
from benchmarks.tpu.compile import CHIPS
from unet_jax.core.command_help import command_parser
from unet_jax.core.errors import UserError, print_error
from unet_jax.runs.commandline import load_config
from unet_jax.training.plan import make_plan

NAMED = 0.1  # a loss of this share of the time, or more, is named as a limit


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The hosts of a run, and what they work on; `add_flags` says what the fields mean."""

    train: int
    validation: int
    core: float
    score_ms: float
    chips_per_host: int = 4
    cores: int = 56
    efficiency: float = 1.0
    hop_us: float = 1.0
    bucket_mb: float = 200.0

    def local_chips(self, chips: int) -> int:
        return min(chips, self.chips_per_host)

    def hosts(self, chips: int) -> int:
        return math.ceil(chips / self.chips_per_host)


def step_times(step: dict[str, Any], cluster: Cluster, chips: int) -> dict[str, float]:
    """Returns the seconds of a step: its computation, its all-reduces, and reading its images."""
    images = step["batch_per_device"]
    network = CHIPS[step["topology"].partition(":")[0]].all_reduce_gb * 1e9
    hops = 2 * math.ceil(math.sqrt(chips)) if chips > 1 else 0  # there and back, on a torus
    latency = step["collectives"].get("all-reduce", 0) * hops * cluster.hop_us * 1e-6
    # Each chip sends its part to all, and then the sums, of which it has one chip's share.
    sent = 2 * step["all_reduce_bytes"] * (chips - 1) / chips
    return {
        "computation": images / (cluster.efficiency * step["roofline_images_per_second"]),
        "all-reduces": latency + sent / network,
        "input": cluster.local_chips(chips) * images / (cluster.cores * cluster.core),
    }


def validation_time(
    step: dict[str, Any], config: ConfigDict, cluster: Cluster, chips: int
) -> float:
    """Returns the seconds of a validation, in which a host scores while its chips predict."""
    images = math.ceil(cluster.validation / cluster.hosts(chips))  # of one host
    per_chip = math.ceil(config.eval.batch_size / chips)
    batches = math.ceil(images / (per_chip * cluster.local_chips(chips)))
    rate = cluster.efficiency * step["evaluate"]["roofline_images_per_second"]
    return max(batches * per_chip / rate, images * cluster.score_ms / 1e3)


def written_bytes(step: dict[str, Any], config: ConfigDict) -> float:
    """Returns the bytes per epoch if each validation finds a better model."""
    saves, validations = config.checkpoint.every_epochs, config.eval.every_epochs
    states = 1 / saves + 1 / validations - 1 / math.lcm(saves, validations)
    return states * step["state_bytes"] + step["model_bytes"] / validations


def estimate(
    step: dict[str, Any], config: ConfigDict, cluster: Cluster, chips: int
) -> dict[str, Any]:
    """Estimates an epoch.

    Args:
      step: the content of the file that `benchmarks.tpu` wrote.
      config: the experiment; `batch_size` is ignored.
      cluster: the hosts.
      chips: number of chips.

    Returns:
      A column of the table: values by the titles of their rows.
    """
    times = step_times(step, cluster, chips)
    busy = times["computation"] + times["all-reduces"]
    seconds = max(busy, times["input"])
    config = config.copy_and_resolve_references()
    config.batch_size = chips * step["batch_per_device"]
    steps = make_plan(config, cluster.train).steps_per_epoch
    validation = validation_time(step, config, cluster, chips)
    working = steps * seconds + validation / config.eval.every_epochs
    writing = written_bytes(step, config) / (cluster.bucket_mb * 1e6)
    epoch = max(working, writing)
    lost = {
        "all-reduces": steps * times["all-reduces"],
        "input": steps * (seconds - busy),
        "validation": validation / config.eval.every_epochs,
        "checkpoints": epoch - working,
    }
    repeated = config.batch_size / (cluster.train * config.data.crops_per_image)
    limits = [f"{name} {part / epoch:.0%}" for name, part in lost.items() if part >= NAMED * epoch]
    return {
        "hosts": cluster.hosts(chips),
        "images in a batch": config.batch_size,
        "share of the training images in a batch": f"{repeated:.0%}",
        "steps per epoch": steps,
        "computation of a step, ms": 1e3 * times["computation"],
        "its all-reduces, ms": 1e3 * times["all-reduces"],
        "reading its images, ms": 1e3 * times["input"],
        f"cores of a host that are needed, of {cluster.cores}": cluster.cores
        * times["input"]
        / busy,
        "steps of an epoch, s": steps * seconds,
        "a validation, s": validation,
        "writing per epoch, s": writing,
        "epoch, s": epoch,
        "images/s": steps * config.batch_size / epoch,
        "computation's share of the time": f"{steps * times['computation'] / epoch:.0%}",
        "lost to": ", ".join(limits) or "little",
    }


def format_columns(columns: Sequence[dict[str, Any]], chips: Sequence[int]) -> str:
    """Formats estimates for each number of chips as the columns of a Markdown table."""
    names = [f"{n} chips" for n in chips]
    return table(
        [
            {"": title} | {name: column[title] for name, column in zip(names, columns, strict=True)}
            for title in columns[0]
        ]
    )


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds a flag for each field of `Cluster`; those without a default must be measured."""
    group = parser.add_argument_group("images, and what was measured")
    group.add_argument("--train", type=int, metavar="N", required=True, help="training images")
    group.add_argument(
        "--validation", type=int, metavar="N", required=True, help="validation images"
    )
    group.add_argument(
        "--core",
        type=float,
        metavar="N",
        required=True,
        help="images per second that one core reads and augments",
    )
    group.add_argument(
        "--score_ms",
        type=float,
        metavar="N",
        required=True,
        help="milliseconds of one core to score an image",
    )
    group = parser.add_argument_group("assumptions")
    group.add_argument(
        "--chips_per_host",
        type=int,
        metavar="N",
        default=Cluster.chips_per_host,
        help="chips of a host",
    )
    group.add_argument(
        "--cores", type=int, metavar="N", default=Cluster.cores, help="cores of a host"
    )
    group.add_argument(
        "--efficiency",
        type=float,
        metavar="N",
        default=Cluster.efficiency,
        help="share of the roofline that a step reaches",
    )
    group.add_argument(
        "--hop_us",
        type=float,
        metavar="N",
        default=Cluster.hop_us,
        help="latency of an all-reduce, microseconds per chip it passes",
    )
    group.add_argument(
        "--bucket_mb",
        type=float,
        metavar="N",
        default=Cluster.bucket_mb,
        help="MB per second that one host writes to the bucket",
    )


def main(arguments: Sequence[str]) -> int:
    parser = command_parser("python -m benchmarks.tpu.chips", __doc__)
    parser.add_argument("step", type=pathlib.Path, help="file that benchmarks.tpu --out wrote")
    parser.add_argument(
        "--chips",
        type=int,
        nargs="+",
        metavar="N",
        default=[8, 64, 256],
        help="numbers of chips",
    )
    add_flags(parser)
    options = vars(parser.parse_args(arguments))
    file, chips = options.pop("step"), options.pop("chips")
    step = json.loads(file.read_text())
    try:
        if "all_reduce_bytes" not in step:
            raise UserError(f"{file}: an earlier version wrote it; run benchmarks.tpu again")
        config = load_config(step["config"])
    except UserError as error:
        return print_error(error)
    columns = [estimate(step, config, Cluster(**options), n) for n in chips]
    print(format_columns(columns, chips))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
