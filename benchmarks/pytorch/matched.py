"""Pairs of equal networks in both frameworks, and batches to compare them with.

If a ReLU or a max-pooling decides by less than float32's rounding, the results of two frameworks
may differ greatly although both are correct. Weights are therefore drawn until only exact ties are
that close.
"""

import itertools
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import torch

from unet_jax import IGNORED, models
from unet_jax.interchange.torch_twin import convert, twin

CHANNELS = 3  # channels of the images
CLEARANCE = 1e-5  # activations are about 1, and the frameworks round them to about 1e-6

# Fields of config.model that distinguish the networks.
MODELS: dict[str, dict[str, Any]] = {
    "unet": {},
    "unet group": {"norm": "group"},
    "unet none": {"norm": "none"},
    "unet nearest": {"upsample": "nearest"},
    "unet bilinear": {"upsample": "bilinear"},
    "unet bilinear corners": {"upsample": "bilinear_corners"},
    "unet valid": {"padding": "valid"},
    "unet valid nearest": {"padding": "valid", "upsample": "nearest"},
    "unet2": {"name": "unet2"},
    "segnet": {"name": "segnet"},
    "attention_unet": {"name": "attention_unet"},
    "residual_unet": {"name": "residual_unet"},
    "unet_plus_plus": {"name": "unet_plus_plus"},
    "unet deep": {"deep_supervision": True},
}

Array = np.ndarray | jax.Array
Batch = tuple[Array, Array]  # image [N, H, W, C], label [N, H, W]


def model_fields(name: str, classes: int) -> dict[str, Any]:
    fields = {"name": "unet", "padding": "same", "norm": "batch", "upsample": "transpose"}
    size = {"classes": classes, "width": 4, "depth": 2, "dropout": 0.0, "dtype": "float32"}
    return fields | size | MODELS[name]


def make_batch(classes: int, seed: int) -> Batch:
    """Returns two odd-sized images of -1, 0 and 1, and labels of which one in five is ignored."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, max(classes, 2), (2, 13, 11)).astype(np.uint8)
    image = rng.integers(-1, 2, (*label.shape, CHANNELS)).astype(np.float32)
    image[..., 0] = label - 1.0  # makes the labels learnable
    label[rng.random(label.shape) < 0.2] = IGNORED
    return image, label


def make_variables(model: flax.linen.Module, seed: int) -> dict[str, Any]:
    """Draws random values for all variables; scales and variances are positive."""
    rng = np.random.default_rng(seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name, shape = path[-1].key, leaf.shape
        if name == "kernel":
            values = rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
        elif name in ("scale", "var"):
            values = rng.uniform(0.5, 1.5, shape)
        else:
            values = rng.normal(0, 0.2, shape)
        return values.astype(leaf.dtype)

    image = jax.ShapeDtypeStruct((1, model.multiple, model.multiple, CHANNELS), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    return jax.tree_util.tree_map_with_path(draw, shapes)


def tie_maxima(variables: dict[str, Any], seed: int) -> None:
    """Changes the first two kernels so that windows of the first pooling have tied maxima.

    A network whose first level is no block of two convolutions stays as it is.

    The first kernel maps the integers of the image to integers, so that many sums are equal. Each
    channel of the second copies one value. Equal values are then equal bit for bit in both
    frameworks.
    """
    rng, block = np.random.default_rng(seed), variables["params"]["down_0"]
    if "Conv_1" not in block:
        return
    first, second = block["Conv_0"], block["Conv_1"]
    first["kernel"] = rng.integers(-1, 2, first["kernel"].shape).astype(np.float32)
    *window, channels = second["kernel"].shape
    positions = rng.permutation(np.prod(window))[:channels]
    one_hot = np.eye(np.prod(window), dtype=np.float32)[:, positions]
    second["kernel"] = one_hot.reshape(second["kernel"].shape)


def to_torch(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    image, label = batch
    return torch.tensor(image).permute(0, 3, 1, 2), torch.tensor(label)


def make_pair(
    name: str, classes: int, ties: bool = True
) -> tuple[flax.linen.Module, dict[str, Any], torch.nn.Module]:
    """Returns a network, its variables with or without tied maxima, and the equal twin."""
    fields = model_fields(name, classes)
    model, reference = models.build(**fields), twin.build(CHANNELS, **fields)
    seed = 0
    while True:
        variables = make_variables(model, seed)
        if ties:
            tie_maxima(variables, seed)
        state = convert.to_state_dict(variables, reference)
        reference.load_state_dict(state)
        if clearance(reference) > CLEARANCE:
            reference.load_state_dict(state)  # `clearance` changed the running statistics
            return model, variables, reference
        seed += 1


def inputs_of(reference: torch.nn.Module, kind: type, image: torch.Tensor) -> list[torch.Tensor]:
    """Returns the inputs of all layers of a kind."""
    inputs: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, arguments: tuple[torch.Tensor]) -> None:
        inputs.append(arguments[0].detach())

    hooks = [m.register_forward_pre_hook(keep) for m in reference.modules() if isinstance(m, kind)]
    reference(image)
    for hook in hooks:
        hook.remove()
    return inputs


def windows(x: torch.Tensor) -> torch.Tensor:
    """Returns the values that are pooled together: [N, C, H, W] -> [N, C, H/2, W/2, 4]."""
    return x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)


def clearance(reference: torch.nn.Module) -> float:
    """Returns the smallest non-zero margin of any decision of a ReLU or max-pooling."""
    nearest = []
    for classes, train in itertools.product((1, 3), (True, False)):
        reference.train(train)
        image, _ = to_torch(make_batch(classes, seed=1))
        nearest += [x.abs() for x in inputs_of(reference, torch.nn.ReLU, image)]
        for x in inputs_of(reference, torch.nn.MaxPool2d, image):
            first, second = windows(x).topk(2).values.unbind(-1)
            nearest.append(first - second)
    return min(x[x > 0].min().item() for x in nearest)


def tied_maxima(name: str) -> float | None:
    """Returns the share of windows of the first max-pooling with tied maxima above 0.

    In training mode. The position of a tied 0 does not matter in a U-Net, because the ReLU before
    the pooling passes no gradient there. None if a network has no max-pooling.
    """
    _, _, reference = make_pair(name, classes=3)
    image, _ = to_torch(make_batch(classes=3, seed=1))
    inputs = inputs_of(reference.train(), torch.nn.MaxPool2d, image)
    if not inputs:
        return None
    first, second = windows(inputs[0]).topk(2).values.unbind(-1)
    return ((first == second) & (first > 0)).float().mean().item()
