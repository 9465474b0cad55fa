"""Images per second of the training step alone, of the input pipeline alone, and of both together.

Segments of a continuous sequence of batches are timed, after the buffers of the pipeline have been
emptied once. A step is started without waiting for the last, as in training.
"""

import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from absl import flags

from benchmarks.accelerator.experiment import find_data, overrides
from benchmarks.accelerator.record import Recorder
from benchmarks.augment import time_pipeline
from benchmarks.steps import training_step
from unet_jax import data
from unet_jax.data import pipeline
from unet_jax.distributed import devices
from unet_jax.runs.commandline import load_config
from unet_jax.runs.experiment import check, resolve, resolve_intensities


def pace(
    take: Callable[[], None], wait: Callable[[], None], images: int, steps: int, rounds: int
) -> list[float]:
    """Returns images per second in consecutive rounds of `steps` batches of `images` images."""
    for _ in range(4 * pipeline.THREADS):  # empties the buffers
        take()
    wait()
    rates = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(steps):
            take()
        wait()
        rates.append(images * steps / (time.perf_counter() - start))
    return rates


def measure(settings: dict[str, Any], recorder: Recorder) -> None:
    """Records a row for the step alone, and two for each number of reader processes."""
    flags.FLAGS(["input_pipeline"])  # grain's reader processes need parsed absl flags
    root, source = find_data(settings["side"])
    config = load_config(overrides(settings, root))
    check(config)
    dataset = data.open_dataset(config.data)
    config, _ = resolve_intensities(resolve(config, dataset.classes), dataset)
    mesh = devices.local_mesh()
    step = training_step(config, dataset.channels, list(mesh.devices.flat))
    timed = functools.partial(
        pace, images=config.batch_size, steps=settings["steps"], rounds=settings["rounds"]
    )
    rows: list[dict[str, Any]] = []

    def add(what: str, workers: int | None, rates: list[float]) -> None:
        spread = {"low": min(rates), "high": max(rates)}
        row = {"what": what, "reader processes": "" if workers is None else workers}
        rows.append(row | {"images_per_second": statistics.median(rates), **spread})
        recorder.write(rows, data=source, batch=config.batch_size, cores=os.cpu_count())

    add("training step alone", None, timed(lambda: step.advance(step.batch), step.wait))
    batches = pipeline.batches_of(config, dataset.splits["train"])
    for workers in dict.fromkeys((0, settings["workers"] or max(1, (os.cpu_count() or 2) // 2))):
        alone = time_pipeline(config, tuple(config.data.augment), workers)
        add("input pipeline alone", workers, alone)
        ahead = pipeline.read_ahead(batches, workers)
        with devices.on_devices(ahead, mesh) as placed:
            both = timed(lambda placed=placed: step.advance(next(placed)), step.wait)
        add("both together", workers, both)
    best = max(row["images_per_second"] for row in rows if row["what"] == "both together")
    recorder.write(rows, share_of_step_alone=best / rows[0]["images_per_second"])
