"""Imports a PyTorch checkpoint as a run folder, for evaluation and further training.

python -m unet_jax.interchange.pytorch unet.pth --config=configs/isbi.py --workdir=runs/imported

FILE is written by `torch.save(model.state_dict(), FILE)`, or holds a dictionary with the state_dict
under `state_dict`, `model_state_dict` or `model`; or it is a `.safetensors` file. No code in it is
executed. Its tensors must have the names of `unet_jax.interchange.torch_twin`, of
https://github.com/milesial/Pytorch-UNet, or of `Unet` in segmentation_models_pytorch with an
encoder that `unet_jax/models/encoders` has. The logits equal those of milesial's network at sizes
divisible by 16. At other sizes that network pads its activations, this one the image.

Reading what torch.save wrote needs PyTorch, which nothing else in the package does.
"""

from __future__ import annotations

import hashlib
import pathlib
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from unet_jax import models
from unet_jax.core.command_help import command_parser, describe_config
from unet_jax.core.config import flatten
from unet_jax.core.errors import UserError, print_error
from unet_jax.core.files import expand, run_path, write_json
from unet_jax.data.dataset import Dataset
from unet_jax.interchange.forms import Form, fields_of, recognise, without_unused
from unet_jax.learning import losses, optim
from unet_jax.models import torch_weights
from unet_jax.runs import folder as run_folder
from unet_jax.runs.checkpoints import Checkpoints
from unet_jax.runs.commandline import load_config
from unet_jax.runs.experiment import check, open_data
from unet_jax.runs.tensor_files import read_state_dict
from unet_jax.training.plan import make_plan
from unet_jax.training.state import checkpoint_items, first_state


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


def advice(state: Mapping[str, np.ndarray], form: Form, config: ConfigDict) -> list[str]:
    """Returns the flags that make `config` match the file, as far as they can be inferred."""
    fields = flatten(config)
    wanted = {
        field: value
        for field, value in fields_of(state, form).items()
        if str(fields.get(field)) not in str(value).split("|")
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
        first = state.get(form.name(form.first, depth))
        if first is not None and first.ndim == 4 and first.shape[1] != channels:
            hints.append(f"it is for {first.shape[1]} channels, the data set has {channels}")
        raise UserError("; ".join([f"{path}: {error}", *hints])) from None
    if flags_to_give:
        print(f"note         {form.title} uses {flags_to_give}; without them, the logits differ")
    if form.note:
        print(f"note         {form.note}")
    return variables


def import_run(
    path: pathlib.Path, config: ConfigDict, dataset: Dataset, folder: pathlib.Path
) -> None:
    """Creates the run `folder` with a checkpoint at step 0 that has the weights in a file."""
    state, left_out = read_state_dict(path)
    state = without_redundant_biases(state)
    form = recognise(path, state)
    state = without_unused(state, form)
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
    parser = command_parser("python -m unet_jax.interchange.pytorch", __doc__)
    parser.add_argument("file", metavar="FILE", help="the checkpoint, .pth or .safetensors")
    parser.add_argument("--config", required=True, help="configs/NAME.py[:VARIANT]")
    parser.add_argument("--workdir", required=True, help="the run's folder")
    describe_config(parser, config=False)
    options, overrides = parser.parse_known_args(arguments)
    for argument in overrides:
        if not argument.startswith("--config."):
            parser.error(f"{argument!r}: neither an option nor --config.FIELD=VALUE")
    try:
        config = load_config([f"--config={options.config}", *overrides])
        check(config)
        folder, file = run_path(options.workdir), pathlib.Path(expand(options.file))
        config, dataset = open_data(config, folder)
        import_run(file, config, dataset, folder)
    except UserError as error:
        return print_error(error)
    run = f"--workdir={options.workdir}"
    print(f"evaluate     python launch.py {shlex.join(['--mode=eval', run])}")
    train = [f"--config={options.config}", *overrides, run]
    print(f"train        python launch.py {shlex.join(train)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
