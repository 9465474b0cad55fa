"""Times the training step and the forward pass against all variants of the PyTorch twin.

python -m benchmarks.speed --model=unet --width=16 --batch=2 --size=256 --out=speed.json

Network, loss (binary cross-entropy), optimizer (Adam) and batch are the same; the batch is already
on the device. All variants are compiled and warmed up first. The rounds are interleaved, so that
other load on the machine affects all alike. A row has the median of the rounds and their range.

On a CPU both frameworks use all cores. JAX may split them into devices that share the batch; with
XLA_FLAGS=--xla_force_host_platform_device_count=2 that is timed as well.

ratio.train, ratio.forward   PyTorch's best median over JAX's, both at --precision; above 1, JAX is
                             faster
ratio.train_any_precision    the same with PyTorch's best at any precision

It needs only jax, flax, optax, ml_collections, torch and numpy.
"""

import argparse
import dataclasses
import functools
import gc
import itertools
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves memory for PyTorch

import flax
import jax
import numpy as np
import optax
import torch
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.parity import table
from benchmarks.pytorch import twin
from benchmarks.pytorch.variants import Variant, variants
from unet_jax import models
from unet_jax.core.files import write_json
from unet_jax.learning import losses

LEARNING_RATE = 1e-3
MODEL: dict[str, Any] = {
    "classes": 1,
    "padding": "same",
    "norm": "batch",
    "upsample": "transpose",
    "dropout": 0.0,
    "dtype": "float32",
}
LOSS: dict[str, Any] = {
    "name": "bce",
    "weights": (),
    "class_weights": (),
    "dice_smooth": 1.0,
    "focal_gamma": 2.0,
}
KEYS = ("framework", "variant", "precision", "task")
Run = Callable[[], None]  # runs one training step or forward pass and waits for its end


@dataclasses.dataclass(frozen=True)
class Settings:
    """The network, loss and batch that are timed."""

    model: dict[str, Any]  # fields of config.model, except dtype
    loss: dict[str, Any]  # fields of config.loss
    channels: int  # channels of the images
    batch: int
    size: int  # side of the images, pixels

    def make_batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns images, float32 [N, H, W, C], and labels, uint8 [N, H, W]."""
        rng = np.random.default_rng(0)
        shape = (self.batch, self.size, self.size)
        image = rng.uniform(-1, 1, (*shape, self.channels)).astype(np.float32)
        classes = max(self.model["classes"], 2)
        return image, rng.integers(0, classes, shape).astype(np.uint8)


def device() -> torch.device:
    """Returns PyTorch's device: the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def jax_runs(settings: Settings, dtype: str, devices: int = 1) -> dict[str, Run]:
    """Builds JAX's runs: a donated, pmapped training step, and a forward pass, on `devices`."""
    model = models.build(**settings.model | {"dtype": dtype})
    loss, optimizer = losses.build(**settings.loss), optax.adam(LEARNING_RATE)
    variables = models.init(model, settings.channels, seed=0)
    state = (variables, optimizer.init(variables["params"]))

    def step(state: tuple, image: jax.Array, label: jax.Array) -> tuple[tuple, jax.Array]:
        variables, opt_state = state

        def objective(params: dict) -> tuple[jax.Array, Any]:
            everything = variables | {"params": params}
            logits, updated = model.apply(everything, image, train=True, mutable=["batch_stats"])
            return loss(logits, label), updated

        params = variables["params"]
        (value, updated), gradient = jax.value_and_grad(objective, has_aux=True)(params)
        updates, opt_state = optimizer.update(jax.lax.pmean(gradient, "batch"), opt_state, params)
        return ({**updated, "params": optax.apply_updates(params, updates)}, opt_state), value

    chosen = jax.local_devices()[:devices]
    everywhere, parts = (
        NamedSharding(Mesh(np.array(chosen), ("batch",)), PartitionSpec(*axes))
        for axes in ((), ("batch",))
    )
    mapped = functools.partial(jax.pmap, axis_name="batch", devices=chosen)
    update = mapped(step, in_axes=(None, 0, 0), out_axes=(None, 0), donate_argnums=0)
    apply = mapped(functools.partial(model.apply, train=False), in_axes=(None, 0))
    image, label = (
        jax.device_put(x.reshape(devices, -1, *x.shape[1:]), parts) for x in settings.make_batch()
    )
    holder = [jax.device_put(state, everywhere)]

    def train() -> None:
        holder[0], value = update(holder[0], image, label)
        jax.block_until_ready((holder[0], value))

    evaluated = jax.device_put(variables, everywhere)

    def forward() -> None:
        jax.block_until_ready(apply(evaluated, image))

    return {"train": train, "forward": forward}


def device_counts(batch: int) -> list[int]:
    """Returns 1 and, if XLA splits the CPU into devices that can share the batch, their number."""
    count = jax.local_device_count()
    several = jax.default_backend() == "cpu" and count > 1 and batch % count == 0
    return [1, count] if several else [1]


def torch_runs(settings: Settings, variant: Variant) -> dict[str, Run]:
    """Builds the twin's runs in one of its variants, on the GPU if there is one."""
    target = device()
    torch.manual_seed(0)
    model = twin.build(settings.channels, **settings.model).to(target)
    image, label = settings.make_batch()
    image = torch.tensor(image).permute(0, 3, 1, 2).contiguous().to(target)
    image, label = variant.place(image), torch.tensor(label).to(target)
    wait = torch.cuda.synchronize if target.type == "cuda" else lambda: None

    def timed(run: Callable, *arguments: torch.Tensor) -> Run:
        def once() -> None:
            run(*arguments)
            wait()

        return once

    other = twin.build(settings.channels, **settings.model).to(target)
    optimizer = variant.optimizer(model, LEARNING_RATE)
    step = variant.train_step(model, twin.build_loss(**settings.loss), optimizer)
    return {
        "train": timed(step, image, label),
        "forward": timed(variant.forward(other), image),
    }


def measure(runs: dict[str, Run], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Times each run, interleaved; returns the milliseconds per run for each round.

    A round repeats each run for at least `seconds` / rounds. An untimed run comes first, because
    the other framework's run before has evicted the caches, which does not happen in training.
    """
    repeats = {}
    for name, run in runs.items():
        start = time.perf_counter()
        run()
        once = time.perf_counter() - start
        repeats[name] = max(1, round(seconds / rounds / max(once, 1e-6)))
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            run()
            start = time.perf_counter()
            for _ in range(repeats[name]):
                run()
            found[name].append(1e3 * (time.perf_counter() - start) / repeats[name])
    return found


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
    sources = {}
    for precision, devices in itertools.product(precisions, device_counts(settings.batch)):
        name = "compiled NHWC" + (f", {devices} devices" if devices > 1 else "")
        sources["jax", name, precision] = functools.partial(jax_runs, settings, precision, devices)
    for variant in variants(mode):
        precision = "bfloat16" if variant.bfloat16 else "float32"
        if precision not in precisions:
            continue
        name = str(variant).removesuffix(f" {precision}")
        sources["torch", name, precision] = functools.partial(torch_runs, settings, variant)
    runs: dict[tuple[str, ...], Run] = {}
    failed = []
    for source, prepare in sources.items():
        start = time.perf_counter()
        try:
            prepared = prepare()
            for run in prepared.values():
                run()
                run()  # some variants compile again in the second run
        except Exception as error:  # a variant that fails on this machine is reported in its row
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            failed.append(dict(zip(KEYS, source, strict=False)) | {"failed": reason})
            continue
        runs |= {(*source, task): run for task, run in prepared.items()}
        print(f"{' '.join(source)}: ready in {time.perf_counter() - start:.1f} s", flush=True)
    gc.collect()
    rows = []
    for task in ("train", "forward"):
        chosen = {" | ".join(key): run for key, run in runs.items() if key[-1] == task}
        for key, values in measure(chosen, rounds, seconds).items():
            row = dict(zip(KEYS, key.split(" | "), strict=True))
            spread = {"ms": statistics.median(values), "low": min(values), "high": max(values)}
            rows.append(row | spread | {"images_per_second": 1e3 * settings.batch / spread["ms"]})
    return rows + failed


def ratios(rows: Sequence[dict[str, Any]], precision: str) -> dict[str, float | None]:
    """Returns PyTorch's best median over JAX's at `precision`; None if one of them has none."""

    def best(framework: str, task: str, precisions: Sequence[str]) -> float | None:
        found = [
            row["ms"]
            for row in rows
            if "ms" in row
            and (row["framework"], row["task"]) == (framework, task)
            and row["precision"] in precisions
        ]
        return min(found, default=None)

    def ratio(task: str, precisions: Sequence[str]) -> float | None:
        theirs, ours = best("torch", task, precisions), best("jax", task, [precision])
        return theirs / ours if theirs and ours else None

    return {
        "train": ratio("train", [precision]),
        "forward": ratio("forward", [precision]),
        "train_any_precision": ratio("train", ["float32", "bfloat16"]),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=models.NETWORKS, default="unet")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=256, help="side of the images, pixels")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="time for each variant and task"
    )
    parser.add_argument("--compile", default="default", help="mode of torch.compile")
    parser.add_argument("--out", type=pathlib.Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    if options.precision == "auto":  # as config.model.dtype
        options.precision = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if torch.cuda.is_available() != (jax.default_backend() == "gpu"):
        raise SystemExit("only one framework has a GPU: install both with GPU support, or neither")

    model = {"name": options.model, "width": options.width, "depth": options.depth, **MODEL}
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


def environment() -> dict[str, Any]:
    """Returns versions, device, threads and cores."""
    versions = {module.__name__: module.__version__ for module in (jax, flax, optax, torch, np)}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "versions": versions | {"python": platform.python_version()},
        "device": gpu,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


if __name__ == "__main__":
    main()
