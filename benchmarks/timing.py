"""What the benchmarks of speed time: JAX's training step and forward pass, interleaved rounds.

It does not need PyTorch. `benchmarks.pytorch.runs` has the same for PyTorch, and `benchmarks.speed`
compares the two.
"""

import contextlib
import dataclasses
import functools
import gc
import importlib.metadata
import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unet_jax import models
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
TASKS = ("train", "forward")
KEYS = ("framework", "variant", "precision", "task")
PACKAGES = ("jax", "flax", "optax", "torch", "numpy")  # whose versions are recorded

Run = Callable[[], None]  # runs one training step or forward pass and waits for its end
Source = Callable[[], dict[str, Run]]  # prepares the runs of one variant, by task
Sources = dict[tuple[str, ...], Source]  # by framework, variant and precision


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


def jax_runs(
    settings: Settings, dtype: str, devices: int = 1, tasks: Sequence[str] = TASKS
) -> dict[str, Run]:
    """Builds JAX's runs: a donated, pmapped training step, and a forward pass, on `devices`."""
    model = models.build(**settings.model | {"dtype": dtype})
    variables = models.init(model, settings.channels, seed=0)
    chosen = jax.local_devices()[:devices]
    everywhere, parts = (
        NamedSharding(Mesh(np.array(chosen), ("batch",)), PartitionSpec(*axes))
        for axes in ((), ("batch",))
    )
    mapped = functools.partial(jax.pmap, axis_name="batch", devices=chosen)
    image, label = (
        jax.device_put(x.reshape(devices, -1, *x.shape[1:]), parts) for x in settings.make_batch()
    )

    def make_train() -> Run:
        step, optimizer = _jax_step(settings, model)
        update = mapped(step, in_axes=(None, 0, 0), out_axes=(None, 0), donate_argnums=0)
        state = (variables, optimizer.init(variables["params"]))
        holder = [jax.device_put(state, everywhere)]

        def train() -> None:
            holder[0], value = update(holder[0], image, label)
            jax.block_until_ready((holder[0], value))

        return train

    def make_forward() -> Run:
        apply = mapped(functools.partial(model.apply, train=False), in_axes=(None, 0))
        evaluated = jax.device_put(variables, everywhere)

        def forward() -> None:
            jax.block_until_ready(apply(evaluated, image))

        return forward

    makers = {"train": make_train, "forward": make_forward}
    return {task: makers[task]() for task in tasks}


def _jax_step(
    settings: Settings, model: models.Network
) -> tuple[Callable, optax.GradientTransformation]:
    """Returns the step (state, image, label) -> (state, loss) of one device, and its optimizer."""
    loss, optimizer = losses.build(**settings.loss), optax.adam(LEARNING_RATE)

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

    return step, optimizer


def device_counts(batch: int) -> list[int]:
    """Returns 1 and, if XLA splits the CPU into devices that can share the batch, their number."""
    count = jax.local_device_count()
    several = jax.default_backend() == "cpu" and count > 1 and batch % count == 0
    return [1, count] if several else [1]


def jax_sources(settings: Settings, precisions: Sequence[str]) -> Sources:
    """Returns JAX's variants at these precisions, float32 or bfloat16."""
    sources: Sources = {}
    for precision, devices in itertools.product(precisions, device_counts(settings.batch)):
        name = "compiled NHWC" + (f", {devices} devices" if devices > 1 else "")
        sources["jax", name, precision] = functools.partial(jax_runs, settings, precision, devices)
    return sources


def prepare(
    sources: Mapping[tuple[str, ...], Source],
) -> tuple[dict[tuple[str, ...], Run], list[dict[str, Any]]]:
    """Compiles variants and warms them up.

    Args:
      sources: the variants.

    Returns:
      The runs by framework, variant, precision and task; and a row with the reason for each variant
      that failed.
    """
    runs: dict[tuple[str, ...], Run] = {}
    failed = []
    for source, make in sources.items():
        start = time.perf_counter()
        try:
            prepared = make()
            for run in prepared.values():
                run()
                run()  # some variants compile again in the second run
        except Exception as error:  # a variant that fails on this machine is reported in its row
            failed.append(dict(zip(KEYS, source, strict=False)) | {"failed": reason(error)})
            continue
        runs |= {(*source, task): run for task, run in prepared.items()}
        print(f"{' '.join(source)}: ready in {time.perf_counter() - start:.1f} s", flush=True)
    gc.collect()
    return runs, failed


def reason(error: Exception) -> str:
    """Returns the first line of an error's message, at most 200 characters."""
    return (str(error) or type(error).__name__).splitlines()[0][:200]


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


def time_runs(
    runs: Mapping[tuple[str, ...], Run], batch: int, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Times prepared runs, those of one task interleaved.

    Args:
      runs: the runs by framework, variant, precision and task.
      batch: images in a run.
      rounds: number of rounds.
      seconds: time for each run.

    Returns:
      A row for each run with the median, lowest and highest round, ms.
    """
    rows = []
    for task in TASKS:
        chosen = {" | ".join(key): run for key, run in runs.items() if key[-1] == task}
        for key, values in measure(chosen, rounds, seconds).items():
            row = dict(zip(KEYS, key.split(" | "), strict=True))
            spread = {"ms": statistics.median(values), "low": min(values), "high": max(values)}
            rows.append(row | spread | {"images_per_second": 1e3 * batch / spread["ms"]})
    return rows


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


def environment() -> dict[str, Any]:
    """Returns versions, device, threads and cores; what is not installed has no entry."""
    about: dict[str, Any] = {"versions": {}}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            about["versions"][package] = importlib.metadata.version(package)
    about["versions"]["python"] = platform.python_version()
    device = jax.local_devices()[0]
    about["device"] = "cpu" if device.platform == "cpu" else device.device_kind
    with contextlib.suppress(ImportError):
        import torch

        about["threads"] = torch.get_num_threads()
    return about | {"cores": os.cpu_count()}
