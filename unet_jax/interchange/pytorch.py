"""Imports a PyTorch checkpoint as a run folder, for evaluation and further training.

python -m unet_jax.interchange.pytorch FILE.pth --config=configs/isbi.py --workdir=runs/imported \
    [--config.FIELD=VALUE ...]

FILE is written by `torch.save(model.state_dict(), FILE)`, or holds a dictionary with the state_dict
under `state_dict`, `model_state_dict` or `model`. No code in it is executed. Its tensors must have
the names of `benchmarks.pytorch.twin` or of https://github.com/milesial/Pytorch-UNet. The logits
equal those of milesial's network at sizes divisible by 16. At other sizes that network pads its
activations, this one the image.

Reading FILE needs PyTorch, which nothing else in the package does.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib.util
import pathlib
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from unet_jax import models
from unet_jax.core.commandline import load_config
from unet_jax.core.config import flatten
from unet_jax.core.errors import UserError, print_error
from unet_jax.core.files import write_json
from unet_jax.data.dataset import Dataset
from unet_jax.learning import losses, optim
from unet_jax.models import torch_weights
from unet_jax.runs import folder as run_folder
from unet_jax.runs.checkpoints import Checkpoints
from unet_jax.runs.experiment import check, open_data
from unet_jax.runs.tensor_files import read_state_dict
from unet_jax.training.plan import make_plan
from unet_jax.training.state import checkpoint_items, first_state

FIRST, HEAD = "down.0.convs.0.weight", "head.weight"  # the twin's names
# Tensors that tell a network from the U-Net, by the twin's names.
MARKS = {
    "unet2": "pool.0.weight",
    "attention_unet": "attention.0.gate.weight",
    "residual_unet": "down.0.block.0.convs.0.weight",
    "unet_plus_plus": "up.0.1.convs.0.weight",
}


@dataclasses.dataclass(frozen=True)
class Form:
    """How a repository names tensors, and its fixed settings that tensors do not show."""

    title: str
    name: Callable[[str, int], str]  # (name in the twin, depth of the network) -> its name
    upsamples: str  # values of `model.upsample` without transposed convolutions
    fixed_fields: Mapping[str, str]  # config fields that are fixed in the repository


def milesial_name(name: str, depth: int) -> str:
    """Returns milesial/Pytorch-UNet's name of a tensor of the twin.

    `down.1.convs.0.weight` becomes `down1.maxpool_conv.1.double_conv.0.weight`. Up blocks are
    counted from the bottom: with `depth` 4, `up.0.norms.1.bias` becomes
    `up4.conv.double_conv.4.bias`.
    """
    block, *rest = name.split(".")
    level = int(rest.pop(0)) if rest[0].isdigit() else depth
    if block == "head":
        return f"outc.conv.{rest[-1]}"
    if block == "upconv":
        return f"up{depth - level}.up.{rest[-1]}"
    if block not in ("down", "bottom", "up") or len(rest) != 3:
        return name  # of a layer that its network does not have
    kind, number, leaf = rest
    layer = f"double_conv.{3 * int(number) + (kind == 'norms')}.{leaf}"
    if block == "up":
        return f"up{depth - level}.conv.{layer}"
    return f"down{level}.maxpool_conv.1.{layer}" if level else f"inc.{layer}"


TWIN = Form(
    "benchmarks.pytorch.twin", lambda name, _: name, "nearest|bilinear|bilinear_corners", {}
)
MILESIAL = Form(
    "milesial/Pytorch-UNet",
    milesial_name,
    "bilinear_corners",
    {"data.input_range": "unit", "model.padding": "same"},
)


def without_redundant_biases(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Removes the biases of convolutions before a BatchNorm without changing the network.

    Older versions of milesial/Pytorch-UNet have them. A BatchNorm subtracts them again, as part
    of the batch mean in training and of the running mean otherwise. They are subtracted from the
    running mean here.
    """
    state = dict(state)
    for name in list(state):
        if found := re.fullmatch(r"(.*double_conv\.)([03])\.bias", name):
            mean = state.get(f"{found[1]}{int(found[2]) + 1}.running_mean")
            bias = state[name]
            if mean is not None and (mean.shape, mean.dtype) == (bias.shape, bias.dtype):
                state[f"{found[1]}{int(found[2]) + 1}.running_mean"] = mean - state.pop(name)
    return state


def recognise(path: pathlib.Path, state: Mapping[str, np.ndarray]) -> Form:
    """Returns the form whose first convolution or head is in a state_dict, or raises UserError."""
    for form in (TWIN, MILESIAL):
        if any(form.name(name, 0) in state for name in (FIRST, HEAD)):
            return form
    raise UserError(
        f"{path}: tensor names such as {next(iter(state))} are neither those of {TWIN.title} "
        f"nor of {MILESIAL.title}; rename them first"
    )


def fields_of(state: Mapping[str, np.ndarray], form: Form) -> dict[str, Any]:
    """Infers config fields from the tensors; adds the form's fixed settings.

    A field that the tensors do not determine has the value `a|b`.
    """
    levels = {found[1] for name in state if (found := re.match(r"down\.?(\d+)\.", name))}
    depth = len(levels)

    def shape(name: str) -> tuple[int, ...]:
        x = state.get(form.name(name, depth))
        return () if x is None else tuple(x.shape)

    first, head = shape(FIRST), shape(HEAD)
    fields: dict[str, Any] = dict(form.fixed_fields)
    if depth:
        fields["model.depth"] = depth
    if first:
        batch, norm = shape("down.0.norms.0.running_mean"), shape("down.0.norms.0.weight")
        fields["model.width"] = first[0]
        fields["model.norm"] = "batch" if batch else "group" if norm else "none"
    if head:
        name = "segnet" if head[2:] == (3, 3) else "unet"
        name = next((own for own, tensor in MARKS.items() if tensor in state), name)
        transposed = name in ("segnet", "unet_plus_plus") or shape(f"upconv.{depth - 1}.weight")
        fields["model.name"] = name
        if depth > 1 and name not in ("segnet", "unet_plus_plus"):
            fields["model.deep_supervision"] = "aux_head.1.weight" in state
        fields["model.classes"] = head[0]
        fields["model.upsample"] = "transpose" if transposed else form.upsamples
    return fields


def advice(state: Mapping[str, np.ndarray], form: Form, config: ConfigDict) -> list[str]:
    """Returns the flags that make `config` match the file, as far as they can be inferred."""
    fields = flatten(config)
    wanted = {
        field: value
        for field, value in fields_of(state, form).items()
        if str(fields[field]) not in str(value).split("|")
    }
    if "model.classes" in wanted:
        try:
            losses.check(**config.loss, classes=wanted["model.classes"])
        except UserError:
            wanted["loss.name"] = "auto"
    return [f"--config.{field}={value}" for field, value in sorted(wanted.items())]


def to_variables(
    path: pathlib.Path,
    state: Mapping[str, np.ndarray],
    form: Form,
    config: ConfigDict,
    channels: int,
) -> dict[str, Any]:
    """Converts a state_dict to Flax variables of the config's network.

    Args:
      path: the file, for messages.
      state: its tensors.
      form: their names.
      config: the run's config.
      channels: channels of the data set's images.

    Raises:
      UserError: tensors do not fit; the message lists all of them by their names in the file.
    """
    model, depth = models.build(**config.model), config.model.depth
    image = jax.ShapeDtypeStruct((1, 2**depth, 2**depth, channels), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    flags_to_give = " ".join(advice(state, form, config))
    try:
        variables = torch_weights.to_variables(
            state, shapes, lambda path: form.name(torch_weights.torch_name(path), depth)
        )
    except UserError as error:
        hints = [f"this file needs {flags_to_give}"] if flags_to_give else []
        first = state.get(form.name(FIRST, depth))
        if first is not None and first.ndim == 4 and first.shape[1] != channels:
            hints.append(f"it is for {first.shape[1]} channels, the data set has {channels}")
        raise UserError("; ".join([f"{path}: {error}", *hints])) from None
    if flags_to_give:
        print(f"note         {form.title} uses {flags_to_give}; without them, the logits differ")
    return variables


def import_run(
    path: pathlib.Path, config: ConfigDict, dataset: Dataset, folder: pathlib.Path
) -> None:
    """Creates the run `folder` with a checkpoint at step 0 that has the weights in a file."""
    state, left_out = read_state_dict(path)
    state = without_redundant_biases(state)
    form = recognise(path, state)
    variables = to_variables(path, state, form, config, dataset.channels)
    steps = make_plan(config, len(dataset.splits["train"])).steps_per_epoch
    schedule = optim.build_schedule(config.optim, config.num_epochs, steps)
    model, frozen_steps = models.build(**config.model), optim.frozen_steps(config.optim, steps)
    optimizer = optim.build(config.optim, schedule, model.encoder_modules, frozen_steps)
    first = first_state(variables, optimizer, config.optim.ema_decay)
    with run_folder.claim(folder, config, dataset):
        checkpoints = Checkpoints(folder, config.checkpoint.keep, config.to_dict())
        try:
            if checkpoints.latest_step() is not None or checkpoints.best_metrics is not None:
                raise UserError(f"{folder}: already has checkpoints; use another --workdir=...")
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            origin = {"file": str(path), "sha256": digest, "names": form.title}
            write_json(folder / "imported.json", origin)
            checkpoints.save(0, checkpoint_items(first))
        finally:
            checkpoints.close()
    for name in left_out:
        print(f"note         {name} is ignored: the data set defines the class values")
    millions = models.parameter_count(variables) / 1e6
    print(f"imported     {millions:.2f} M parameters, named as in {form.title}, into {folder}")


def main(arguments: Sequence[str]) -> int:
    """Runs the command. Returns 0, or 2 for a user error."""
    parser = argparse.ArgumentParser(
        prog="python -m unet_jax.interchange.pytorch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=pathlib.Path, metavar="FILE.pth")
    parser.add_argument("--config", required=True, help="configs/NAME.py[:VARIANT]")
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="the run's folder")
    options, overrides = parser.parse_known_args(arguments)
    for argument in overrides:
        if not argument.startswith("--config."):
            parser.error(f"{argument!r}: neither an option nor --config.FIELD=VALUE")
    try:
        if importlib.util.find_spec("torch") is None:
            raise UserError("PyTorch is not installed, and it reads FILE: pip install torch")
        config = load_config([f"--config={options.config}", *overrides])
        check(config)
        config, dataset = open_data(config, options.workdir)
        import_run(options.file, config, dataset, options.workdir)
    except UserError as error:
        return print_error(error)
    run = f"--workdir={options.workdir}"
    print(f"evaluate     python launch.py {shlex.join(['--mode=eval', run])}")
    train = [f"--config={options.config}", *overrides, run]
    print(f"train        python launch.py {shlex.join(train)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
