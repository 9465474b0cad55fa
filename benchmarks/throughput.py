"""Images a second of both frameworks in an experiment's own loops, timed in turns.

With the input pipeline: batches are read, augmented, placed and trained on; images of the test
split are read, padded, predicted, and their probabilities brought to the host. Alone: a training
step and a forward pass on one batch of the config's size that is on the device already, as
`benchmarks.speed` times them, PyTorch in its fastest variant at the precision of the config.
"""

import functools
import statistics
import time
from collections.abc import Callable

import grain
import jax
from ml_collections import ConfigDict

from benchmarks import speed, twin
from benchmarks.train_twin import TwinEvaluator, choose_variant, place
from unet_jax import models, optim, parallel
from unet_jax.data import augment, pipeline
from unet_jax.data.dataset import Dataset
from unet_jax.ensemble import one
from unet_jax.evaluate import Evaluator
from unet_jax.train import compile_update, init_state

ROUNDS, SECONDS = 5, 10.0  # of the timings in turns; seconds for each framework alone
STEPS = 12  # training steps in a round
Paces = dict[str, float]  # by framework
Feed = Callable[[grain.MapDataset], int]  # consumes batches; how many images there were
Run = Callable[[], int]  # how many images there were


def measure(config: ConfigDict, dataset: Dataset, mode: str) -> dict[str, Paces]:
    """Medians of the rounds; `mode` is that of torch.compile, "" trains eagerly."""
    return {
        "train_with_input": training(config, dataset, mode),
        "inference_with_input": inference(config, dataset, mode),
        **alone(config, dataset, mode),
    }


def training(config: ConfigDict, dataset: Dataset, mode: str) -> Paces:
    batches = pipeline.train_batches(
        dataset.splits["train"],
        batch_size=config.batch_size,
        augment=augment.build(
            config.data.augment, config.augment, fit=config.data.fit, size=config.data.size
        ),
        seed=config.seed,
    )
    feeds = {"jax": feed_jax(config, dataset), "torch": feed_torch(config, dataset, mode)}
    # The first round compiles, and the second still warms up.
    parts = [batches[i * STEPS : (i + 1) * STEPS] for i in range(2 + ROUNDS)]
    runs: dict[str, list[Run]] = {
        name: [functools.partial(feed, part) for part in parts] for name, feed in feeds.items()
    }
    return in_turns(runs, discard=2)


def feed_jax(config: ConfigDict, dataset: Dataset) -> Feed:
    mesh, model = parallel.local_mesh(), models.build(**config.model)
    optimizer = optim.build(config.optim, lambda _: config.optim.learning_rate)
    update = compile_update(config, model, optimizer, mesh)
    initial = init_state(model, optimizer, dataset.channels, config.seed, config.optim.ema_decay)
    holder = [parallel.replicate(initial, mesh)]
    key = jax.random.key(config.seed)

    def feed(batches: grain.MapDataset) -> int:
        ahead = pipeline.read_ahead(batches, config.data.workers)
        with parallel.on_devices(ahead, mesh) as placed:
            for batch in placed:
                holder[0], _ = update(holder[0], batch, key)
        jax.block_until_ready(holder[0])
        return len(batches) * config.batch_size

    return feed


def feed_torch(config: ConfigDict, dataset: Dataset, mode: str) -> Feed:
    device, variant = speed.device(), choose_variant(config, mode)
    model = twin.build(dataset.channels, **config.model).to(device)
    optimizer = variant.optimizer(model, config.optim.learning_rate)
    step = variant.train_step(model, twin.build_loss(**config.loss), optimizer)

    def feed(batches: grain.MapDataset) -> int:
        values = [
            step(*place(batch, device, config.data.input_range))
            for batch in pipeline.read_ahead(batches, config.data.workers)
        ]
        values[-1].item()  # waits
        return len(batches) * config.batch_size

    return feed


def inference(config: ConfigDict, dataset: Dataset, mode: str) -> Paces:
    mesh, model = parallel.local_mesh(), models.build(**config.model)
    variables = models.init(model, dataset.channels, config.seed)
    other = twin.build(dataset.channels, **config.model).to(speed.device())
    evaluators = {
        "jax": (
            Evaluator(config, dataset, one(model, config.data.input_range), mesh),
            parallel.replicate(variables, mesh),
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
    return in_turns(runs, discard=1)


def in_turns(runs: dict[str, list[Run]], discard: int) -> Paces:
    """The median pace of each framework's runs (which return their images), some left out."""
    paces: dict[str, list[float]] = {name: [] for name in runs}
    for turn in zip(*runs.values(), strict=True):
        for name, run in zip(runs, turn, strict=True):
            start = time.perf_counter()
            images = run()
            paces[name].append(images / (time.perf_counter() - start))
    return {name: statistics.median(values[discard:]) for name, values in paces.items()}


def settings_of(config: ConfigDict, dataset: Dataset) -> speed.Settings:
    """One batch of an experiment."""
    fields = config.to_dict()
    return speed.Settings(
        model=fields["model"],
        loss=fields["loss"],
        channels=dataset.channels,
        batch=config.batch_size,
        size=config.data.size,
    )


def alone(config: ConfigDict, dataset: Dataset, mode: str) -> dict[str, Paces]:
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
