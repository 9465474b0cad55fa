"""Measures images per second of both frameworks in an experiment's own loops, interleaved.

"With input" includes the input pipeline: batches are read, augmented, copied to the device and
trained on; images of the test split are read, padded and predicted, and their probabilities copied
to the host. "Alone" is a training step and a forward pass on one batch of the config's size that is
already on the device, measured as in `benchmarks.speed`. PyTorch runs its fastest variant at the
config's precision.
"""

import functools
import statistics
import time
from collections.abc import Callable

import grain
import jax
from ml_collections import ConfigDict

from benchmarks import speed
from benchmarks.pytorch import twin_losses
from benchmarks.pytorch.runs import device as torch_device
from benchmarks.pytorch.train_twin import TwinEvaluator, choose_variant, prepare_batch
from benchmarks.timing import Settings
from unet_jax import models
from unet_jax.core.intensities import Intensities
from unet_jax.data import pipeline
from unet_jax.data.dataset import Dataset
from unet_jax.distributed import devices
from unet_jax.evaluation.evaluator import Evaluator
from unet_jax.inference.ensemble import single_network
from unet_jax.interchange.torch_twin import twin
from unet_jax.learning import optim
from unet_jax.training.state import init_state
from unet_jax.training.step import compile_update

ROUNDS, SECONDS = 5, 10.0  # interleaved rounds; seconds for each framework "alone"
STEPS = 12  # training steps in a round
Rates = dict[str, float]  # images per second by framework
Feed = Callable[[grain.MapDataset], int]  # consumes batches; returns the number of images
Run = Callable[[], int]  # returns the number of images


def measure(config: ConfigDict, dataset: Dataset, mode: str) -> dict[str, Rates]:
    """Returns medians over rounds; `mode` is that of torch.compile, "" for eager execution."""
    return {
        "train_with_input": training(config, dataset, mode),
        "inference_with_input": inference(config, dataset, mode),
        **without_input(config, dataset, mode),
    }


def training(config: ConfigDict, dataset: Dataset, mode: str) -> Rates:
    batches = pipeline.batches_of(config, dataset.splits["train"])
    feeds = {"jax": feed_jax(config, dataset), "torch": feed_torch(config, dataset, mode)}
    # The first round compiles, and the second still warms up caches.
    parts = [batches[i * STEPS : (i + 1) * STEPS] for i in range(2 + ROUNDS)]
    runs: dict[str, list[Run]] = {
        name: [functools.partial(feed, part) for part in parts] for name, feed in feeds.items()
    }
    return measure_interleaved(runs, discard=2)


def feed_jax(config: ConfigDict, dataset: Dataset) -> Feed:
    mesh, model = devices.local_mesh(), models.build(**config.model)
    optimizer = optim.build(
        config.optim, lambda _: config.optim.learning_rate, model.encoder_modules
    )
    update = compile_update(config, model, optimizer, mesh)
    initial = init_state(model, optimizer, dataset.channels, config.seed, config.optim.ema_decay)
    holder = [devices.replicate(initial, mesh)]
    key = jax.random.key(config.seed)

    def feed(batches: grain.MapDataset) -> int:
        ahead = pipeline.read_ahead(batches, config.data.workers)
        with devices.on_devices(ahead, mesh) as placed:
            for batch in placed:
                holder[0], _ = update(holder[0], batch, key)
        jax.block_until_ready(holder[0])
        return len(batches) * config.batch_size

    return feed


def feed_torch(config: ConfigDict, dataset: Dataset, mode: str) -> Feed:
    device, variant = torch_device(), choose_variant(config, mode)
    model = twin.build(dataset.channels, **config.model).to(device)
    optimizer = variant.optimizer(model, config.optim.learning_rate)
    step = variant.train_step(model, twin_losses.build(**config.loss), optimizer)

    def feed(batches: grain.MapDataset) -> int:
        values = [
            step(*prepare_batch(batch, device, Intensities.of(config.data)))
            for batch in pipeline.read_ahead(batches, config.data.workers)
        ]
        values[-1].item()  # waits for the GPU
        return len(batches) * config.batch_size

    return feed


def inference(config: ConfigDict, dataset: Dataset, mode: str) -> Rates:
    mesh, model = devices.local_mesh(), models.build(**config.model)
    variables = models.init(model, dataset.channels, config.seed)
    other = twin.build(dataset.channels, **config.model).to(torch_device())
    evaluators = {
        "jax": (
            Evaluator(config, dataset, single_network(model, Intensities.of(config.data)), mesh),
            devices.replicate(variables, mesh),
        ),
        "torch": (
            TwinEvaluator(config, dataset, other, choose_variant(config, mode), mesh),
            variables,
        ),
    }
    split = dataset.splits["test"]

    def predict(evaluator: Evaluator, weights: dict) -> int:
        return sum(1 for _ in evaluator.predictions(weights, split))

    runs: dict[str, list[Run]] = {
        name: [functools.partial(predict, *pair)] * (1 + ROUNDS)
        for name, pair in evaluators.items()
    }
    return measure_interleaved(runs, discard=1)


def measure_interleaved(runs: dict[str, list[Run]], discard: int) -> Rates:
    """Returns each framework's median rate over its runs, without the first `discard`."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for turn in zip(*runs.values(), strict=True):
        for name, run in zip(runs, turn, strict=True):
            start = time.perf_counter()
            images = run()
            rates[name].append(images / (time.perf_counter() - start))
    return {name: statistics.median(values[discard:]) for name, values in rates.items()}


def settings_of(config: ConfigDict, dataset: Dataset) -> Settings:
    """Returns the settings of `benchmarks.speed` for one batch of an experiment."""
    fields = config.to_dict()
    return Settings(
        model=fields["model"],
        loss=fields["loss"],
        channels=dataset.channels,
        batch=config.batch_size,
        size=config.data.size,
    )


def without_input(config: ConfigDict, dataset: Dataset, mode: str) -> dict[str, Rates]:
    precision = models.build(**config.model).dtype.name
    rows = speed.compare(
        settings_of(config, dataset), mode or "default", ROUNDS, SECONDS, [precision]
    )
    return {
        measure: {
            framework: max(
                row["images_per_second"]
                for row in rows
                if (row["framework"], row.get("task")) == (framework, task)
            )
            for framework in ("jax", "torch")
        }
        for task, measure in (("train", "train_alone"), ("forward", "inference_alone"))
    }
