"""Profiles a training step: time by layer and pass, and by operation and shape.

python -m benchmarks.profile --config=configs/isbi.py:small --out=profile.json

It runs the training step of an experiment under JAX's profiler, on noise images and all local
devices. `--config.FIELD=VALUE` works as for the launcher; `--channels` is the number of channels of
the images. A row is the median over the steps, summed over operations and averaged over devices. A
CPU runs operations in parallel, so that sums may exceed the step's time. Waiting and background
computation are not counted.
"""

import collections
import pathlib
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.profiler import ProfileData

from benchmarks.steps import Step, training_step
from benchmarks.tables import table
from benchmarks.timing import environment
from unet_jax.core.command_help import command_parser, describe_config
from unet_jax.core.errors import UserError, print_error
from unet_jax.core.files import write_json
from unet_jax.distributed import devices
from unet_jax.runs.commandline import load_config
from unet_jax.runs.experiment import check, resolve_without_data

WARM_UP, STEPS = 2, 8


def operations(program: str) -> dict[str, tuple[str, str]]:
    """Parses a compiled program's operations: name -> (result's shape, origin in the model).

    A fusion without an origin gets the most frequent one of its instructions, or else that of an
    operation that uses its result.
    """
    shapes, origins, users = {}, {}, collections.defaultdict(list)
    inside: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    computation = ""
    for line in program.splitlines():  # a called computation precedes its caller
        if begins := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            computation = begins[1]
        if not (assigned := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (\([^=]*?\)|\S+) (.*)", line)):
            continue
        name, shape, rest = assigned.groups()
        own = re.search(r'op_name="([^"]*)"', rest)
        called = re.search(r"calls=%?([\w.\-]+)", rest)
        if own:
            origins[name] = own[1]
        elif called and inside[called[1]]:
            origins[name] = inside[called[1]].most_common(1)[0][0]
        if origin := origins.get(name):
            inside[computation][origin] += 1
        shapes[name] = re.sub(r"\{[^}]*\}|/\*.*?\*/", "", shape)
        for operand in re.findall(r"%([\w.\-]+)", rest.partition(")")[0]):
            users[operand].append(name)

    def origin_of(name: str) -> str:
        """Returns its own origin, or that of the nearest user."""
        seen = [name]
        for near in seen:
            if near in origins:
                return origins[near]
            seen += [user for user in users[near] if user not in seen]
        return ""

    return {name: (shape, origin_of(name)) for name, shape in shapes.items()}


def layer_and_pass(origin: str) -> tuple[str, str]:
    """Returns layer and pass of an operation from its origin, such as ("up_0/Conv_1", "backward").

    `jit(_fun)/transpose(jvp(UNet))/UNet.core/up_0/Conv_1/cond/...`: the parts of a network have
    lower-case names with a number, or are `bottom` and `head`.
    """
    layer = re.search(r"/((?:[a-z]+_\d+|bottom|head)(?:/[A-Z]\w*_\d+)?)(?:/|$)", origin)
    if not layer:
        return "elsewhere", ""
    return layer[1], "backward" if "transpose(" in origin else "forward"


def traced(step: Step) -> tuple[dict[str, float], float]:
    """Measures the milliseconds per step of each operation, and of the whole step."""
    for _ in range(WARM_UP):
        step.run()
    walls = []
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(STEPS):
                start = time.perf_counter()
                step.run()
                walls.append(1e3 * (time.perf_counter() - start))
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        times = milliseconds(list(ProfileData.from_file(str(file)).planes), STEPS * step.devices)
    return times, statistics.median(walls)


def milliseconds(planes: Sequence[Any], executions: int) -> dict[str, float]:
    """Computes the time of each operation from a profile's planes.

    On a GPU or TPU only the devices' own planes count: the host's have the launch of each operation
    under the same name.

    Args:
      planes: planes of `jax.profiler.ProfileData`.
      executions: how often each operation was executed, over all devices.

    Returns:
      The milliseconds per execution.
    """
    on_device = [plane for plane in planes if re.match(r"/device:(GPU|TPU):\d+$", plane.name)]
    found: dict[str, list[float]] = collections.defaultdict(list)
    for name, ms in _events(on_device or planes):
        found[name].append(ms)
    if on_device:  # an operation may be several kernels of different lengths
        return {name: sum(ms) / executions for name, ms in found.items()}
    # On a CPU other processes delay some executions.
    return {name: statistics.median(ms) * len(ms) / executions for name, ms in found.items()}


def _events(planes: Sequence[Any]) -> Iterator[tuple[str, float]]:
    """Yields name and milliseconds of each event of an operation.

    A TPU repeats its operations in further lines, grouped by other criteria.
    """
    for plane in planes:
        lines = list(plane.lines)
        for line in [line for line in lines if line.name == "XLA Ops"] or lines:
            for event in line.events:
                named = dict(event.stats).get("hlo_op")
                if named is None and line.name == "XLA Ops":
                    named = event.name.partition(" = ")[0].removeprefix("%")
                if named is not None:
                    yield str(named), event.duration_ns / 1e6


def by_layer(
    times: dict[str, float], known: dict[str, tuple[str, str]]
) -> dict[str, dict[str, float]]:
    """Sums milliseconds by layer and pass: `forward`, `backward`, or "" for neither."""
    found: dict[str, dict[str, float]] = {}
    for name, ms in times.items():
        if name in known:
            layer, direction = layer_and_pass(known[name][1])
            passes = found.setdefault(layer, {})
            passes[direction] = passes.get(direction, 0) + ms
    return dict(sorted(found.items(), key=lambda item: -sum(item[1].values())))


def main(arguments: Sequence[str]) -> int:
    parser = command_parser("python -m benchmarks.profile", __doc__)
    parser.add_argument("--channels", type=int, default=1, help="channels of the images")
    parser.add_argument("--top", type=int, default=20, help="number of operations to print")
    parser.add_argument("--out", type=pathlib.Path, help="JSON file with all operations")
    describe_config(parser)
    options, rest = parser.parse_known_args(arguments)
    try:
        config = load_config(rest)
        check(config)
        devices.use_cores(config.batch_size)
        config = resolve_without_data(config)
    except UserError as error:
        return print_error(error)
    step = training_step(config, options.channels, jax.local_devices())
    known = operations(step.compiled.as_text())
    times, wall = traced(step)
    layers = by_layer(times, known)
    total = sum(sum(passes.values()) for passes in layers.values())
    print(f"a step takes {wall:.1f} ms; its operations add up to {total:.1f} ms per device\n")
    rows: list[dict[str, Any]] = [
        {"layer": layer, "forward, ms": passes.get("forward", ""), "backward, ms": backward}
        for layer, passes in layers.items()
        for backward in [passes.get("backward", passes.get("", ""))]
    ]
    print(table(rows))
    longest = sorted((name for name in times if name in known), key=lambda name: -times[name])
    described = [
        {"operation": name, "ms": times[name], "shape": known[name][0], "origin": known[name][1]}
        for name in longest
    ]
    print()
    print(table(described[: options.top]))
    if options.out:
        about = {"config": rest, **environment(), "step_ms": wall}
        write_json(options.out, about | {"layers": layers, "operations": described})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
