"""Compares every network and loss with its PyTorch twin: the same weights, float32, CPU.

python -m benchmarks.parity --out=parity.json

A row compares one network with one loss, in training mode (batch statistics) or evaluation mode
(running statistics). With PyTorch as the reference r and d the difference:

logits     max |d| / max(1, max |r|), bound 1e-4; with deep supervision, those of all levels
gradients  |d| / |r|, Euclidean norms over all parameters together, bound 1e-3

Image sizes are odd, pixels are ignored, classes are weighted, and many poolings have tied maxima.
Then both frameworks take 20 steps of Adam, every network with two losses and the first one with
all, and no loss may differ by more than 1 %. The exit code is 1 if a bound is exceeded. It needs
only jax, flax, optax, ml_collections, torch and numpy.
"""

import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from benchmarks.pytorch import twin_losses
from benchmarks.pytorch.matched import (
    MODELS,
    Array,
    Batch,
    make_batch,
    make_pair,
    model_fields,
    tied_maxima,
    to_torch,
)
from benchmarks.pytorch.variants import Variant
from benchmarks.tables import table
from unet_jax import models
from unet_jax.core.command_help import command_parser
from unet_jax.core.files import write_json
from unet_jax.learning import losses
from unet_jax.learning.deep_supervision import mean_over_levels
from unet_jax.models.network import Logits
from unet_jax.models.torch_weights import to_variables

BOUNDS = {"logits": 1e-4, "gradients": 1e-3, "adam": 0.01}
STEPS = 20  # steps of Adam
LEARNING_RATE = 1e-3

# Names of losses, and their numbers of logits. Smoothed ones have `loss.label_smoothing`.
LOSSES: tuple[tuple[str, int], ...] = (
    ("bce", 1),
    ("bce smoothed", 1),
    ("dice", 1),
    ("focal", 1),
    ("tversky", 1),
    ("focal_tversky", 1),
    ("lovasz", 1),
    ("boundary", 1),
    ("bce+dice", 1),
    ("bce+cldice", 1),
    ("cross_entropy", 3),
    ("cross_entropy smoothed", 3),
    ("dice", 3),
    ("focal", 3),
    ("tversky", 3),
    ("focal_tversky", 3),
    ("lovasz", 3),
    ("boundary", 3),
    ("cross_entropy+cldice", 3),
    ("cross_entropy+dice", 3),
)
TRAINED = (LOSSES[0], LOSSES[-1])  # the losses with which every network takes steps of Adam


def loss_fields(name: str, classes: int) -> dict[str, Any]:
    name, _, smoothed = name.partition(" ")
    return {
        "name": name,
        "label_smoothing": 0.1 if smoothed else 0.0,
        "weights": (1.0, 0.5)[: len(name.split("+"))],
        "class_weights": (0.5, 2.0, 1.0)[: max(classes, 2)],
        "dice_smooth": 1.0,
        "focal_gamma": 2.0,
        "cldice_iterations": 3,
    }


def apply(model: flax.linen.Module, variables: dict[str, Any], image: Array, train: bool) -> tuple:
    """Returns logits and updated variables, with a mapped device axis of size one."""

    def one_device(image: Array) -> tuple:
        return model.apply(variables, image, train=train, mutable=["batch_stats"])

    results = jax.vmap(one_device, axis_name="batch")(image[None])
    return jax.tree.map(lambda x: x[0], results)


def relative(found: Any, reference: Any) -> float:
    """Returns |found - reference| / |reference| over all leaves together, in float64."""
    found, reference = (
        np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(tree)])
        for tree in (found, reference)
    )
    return float(np.linalg.norm(found - reference) / np.linalg.norm(reference))


@functools.cache
def compile_network(name: str, train: bool) -> Callable:
    """Compiles (variables, image, loss gradient by three logits) -> logits, parameter gradient.

    It is compiled once for all losses; those with one logit use the first of the three. Logits, and
    the gradient by them, are tuples with deep supervision.
    """
    model = models.build(**model_fields(name, classes=3))

    @jax.jit
    def network(variables: dict, image: Array, slopes: Logits | None) -> tuple[Logits, dict]:
        def forward(params: dict) -> Logits:
            return apply(model, variables | {"params": params}, image, train)[0]

        logits, backward = jax.vjp(forward, variables["params"])
        if slopes is None:
            slopes = jax.tree.map(jnp.zeros_like, logits)
        return logits, backward(slopes)[0]

    return network


@functools.cache
def compile_loss(name: str, classes: int) -> Callable:
    """Compiles (three logits, label) -> the loss's gradient by the logits."""
    loss = losses.build(**loss_fields(name, classes))

    def value(logits: Logits, label: jax.Array) -> jax.Array:
        logits = jax.tree.map(lambda x: x[..., :classes], logits)
        return mean_over_levels(loss, logits, label)

    return jax.jit(jax.grad(value))


def largest_difference(found: Logits, expected: list[torch.Tensor]) -> float:
    """Returns max |d| / max(1, max |r|) over all levels of logits; see the module."""
    differences, references = [], []
    for x, reference in zip(jax.tree.leaves(found), expected, strict=True):
        r = reference.detach().permute(0, 2, 3, 1).numpy()
        differences.append(np.max(np.abs(x - r)))
        references.append(np.max(np.abs(r)))
    return float(max(differences) / max(1, *references))


def compare(name: str, train: bool) -> Iterator[dict[str, Any]]:
    """Yields a row for each loss."""
    _, variables, reference = make_pair(name, classes=3)
    reference.train(train)
    network = compile_network(name, train)
    for loss, classes in LOSSES:
        images, labels = make_batch(classes, seed=1)
        logits, _ = network(variables, images, None)
        _, slopes = network(variables, images, compile_loss(loss, classes)(logits, labels))

        image, label = to_torch((images, labels))
        expected = reference(image)
        levels = expected if isinstance(expected, list) else [expected]
        chosen = [x[:, :classes] for x in levels]
        twin_loss = twin_losses.build(**loss_fields(loss, classes))
        value = twin_loss(chosen if isinstance(expected, list) else chosen[0], label)
        parameters = dict(reference.named_parameters())
        # In evaluation mode the auxiliary heads of deep supervision have no gradient.
        gradient = torch.autograd.grad(value, list(parameters.values()), materialize_grads=True)
        named = dict(zip(parameters, gradient, strict=True))
        expected_slopes = to_variables(named, {"params": slopes})["params"]
        yield {
            "model": name,
            "loss": loss,
            "classes": classes,
            "mode": "training" if train else "evaluation",
            "logits": largest_difference(logits, levels),
            "gradients": relative(slopes, expected_slopes),
        }


def adam_losses(name: str, loss: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the losses [STEPS] before each step on the same batches: JAX's and PyTorch's."""
    # Without tied maxima: a step turns ties into differences below the rounding error.
    model, variables, reference = make_pair(name, classes, ties=False)
    batches = [make_batch(classes, seed) for seed in range(STEPS)]
    options = loss_fields(loss, classes)

    variant = Variant()
    torch_step = variant.train_step(
        reference, twin_losses.build(**options), variant.optimizer(reference, LEARNING_RATE)
    )
    expected = [torch_step(*to_torch(batch)).item() for batch in batches]

    optimizer, loss_function = optax.adam(LEARNING_RATE), losses.build(**options)

    @jax.jit
    def step(variables: dict, opt_state: optax.OptState, batch: Batch) -> tuple:
        def objective(params: dict) -> tuple[jax.Array, dict]:
            logits, updated = apply(model, variables | {"params": params}, batch[0], True)
            return mean_over_levels(loss_function, logits, jnp.asarray(batch[1])), updated

        params = variables["params"]
        (value, updated), slopes = jax.value_and_grad(objective, has_aux=True)(params)
        updates, opt_state = optimizer.update(slopes, opt_state, params)
        return {**updated, "params": optax.apply_updates(params, updates)}, opt_state, value

    opt_state, found = optimizer.init(variables["params"]), []
    for batch in batches:
        variables, opt_state, value = step(variables, opt_state, batch)
        found.append(float(value))
    return np.array(found), np.array(expected)


def compare_adam(name: str, loss: str, classes: int) -> dict[str, Any]:
    """Returns the largest relative difference of the losses, and PyTorch's first and last loss."""
    found, expected = adam_losses(name, loss, classes)
    ends = {"first": float(expected[0]), "last": float(expected[-1])}
    worst = float(np.max(np.abs(found / expected - 1)))
    return {"model": name, "loss": loss, "classes": classes, **ends, "adam": worst}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = command_parser("python -m benchmarks.parity", __doc__)
    parser.add_argument("--out", type=pathlib.Path, help="JSON file to write")
    parser.add_argument(
        "--model",
        metavar="NAME",
        nargs="+",
        choices=MODELS,
        default=list(MODELS),
        help="networks to compare; default: all",
    )
    options = parser.parse_args(arguments)
    jax.config.update("jax_platforms", "cpu")
    torch.set_num_threads(1)  # more threads do not pay at these sizes

    rows = [
        row for name in options.model for train in (True, False) for row in compare(name, train)
    ]
    print(table(rows), "\n")
    adam = [
        compare_adam(name, *loss)
        for name in options.model
        for loss in (LOSSES if name == options.model[0] else TRAINED)
    ]
    print(table(adam), "\n")
    ties = {name: tied_maxima(name) for name in options.model}
    print(table([{"model": name, "tied maxima": share} for name, share in ties.items()]), "\n")
    versions = {module.__name__: module.__version__ for module in (jax, flax, optax, torch, np)}
    if options.out:
        content = {"bounds": BOUNDS, "versions": versions, "rows": rows, "adam": adam, "ties": ties}
        write_json(options.out, content)

    # Written so that NaN exceeds every bound.
    broken = [
        f"{row['model']}, {row['loss']}: {measure} {row[measure]:.3g} is above {bound:g}"
        for row in [*rows, *adam]
        for measure, bound in BOUNDS.items()
        if measure in row and not row[measure] <= bound
    ]
    if broken:
        raise SystemExit("\n".join(broken))
    print(f"{len(rows)} comparisons and {len(adam)} runs of Adam within {BOUNDS}")


if __name__ == "__main__":
    main()
