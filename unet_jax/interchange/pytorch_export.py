"""Exports a run's network as a PyTorch state_dict, with a loader that needs PyTorch only."""

from __future__ import annotations

import io
import json
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from unet_jax.core.errors import UserError
from unet_jax.core.intensities import INPUT_RANGES, Intensities
from unet_jax.data.fit import Fit
from unet_jax.data.intensities import OWN_RANGE
from unet_jax.inference import predictor
from unet_jax.interchange.contract import common_fields
from unet_jax.interchange.forms import exported_form
from unet_jax.interchange.output import check_free, write_files
from unet_jax.interchange.registry import EXPORTERS
from unet_jax.runs.folder import class_names

if TYPE_CHECKING:
    from torch import nn

WEIGHTS, LOADER, CONTRACT = "network.pth", "load.py", "network.json"


@EXPORTERS.register("pytorch")
def export_run(
    folder: pathlib.Path, config: ConfigDict, *, checkpoint: str, output: pathlib.Path
) -> str:
    """Exports the network of a checkpoint; see `Exporter`.

    Three files are written: the state_dict, as `torch.save` writes it; a Python program that has
    the network in plain PyTorch, loads the weights and applies it; and, as JSON, the arguments of
    the network, its normalization, its threshold and so on. The tensors have the names of the
    repository from which the network can be imported (`exported_form`). The counters
    `num_batches_tracked`, which do not exist in Flax, are 0.
    """
    try:
        import torch
    except ModuleNotFoundError:
        raise UserError(
            "--format=pytorch: needs PyTorch: pip install torch (or -r benchmarks/requirements.txt)"
        ) from None
    from unet_jax.interchange.torch_twin import source

    check_free(output, (WEIGHTS, LOADER, CONTRACT))
    network, contract = load_twin(folder, config, checkpoint)
    exported_names = {own: name for name, own in contract["names"].items()}
    weights = io.BytesIO()
    torch.save({exported_names.get(n, n): x for n, x in network.state_dict().items()}, weights)
    loader = source.standalone(
        f"{source.__package__}.loader",
        source.Name(type(network).__module__, type(network).__name__),
    )
    contents = {
        WEIGHTS: weights.getvalue(),
        LOADER: loader.encode(),
        CONTRACT: (json.dumps(contract, indent=1) + "\n").encode(),
    }
    write_files(output, contents)
    return (
        f"the state_dict is in {output / WEIGHTS}, named as in {contract['names_of']}; python "
        f"{output / LOADER} images.npy masks.npy applies it"
    )


def load_twin(
    folder: pathlib.Path, config: ConfigDict, checkpoint: str
) -> tuple[nn.Module, dict[str, Any]]:
    """Returns the PyTorch twin of a checkpoint's network, and the fields of its JSON file.

    Args:
      folder: folder of the run.
      config: the run's config.
      checkpoint: `best`, `last` or a step.

    Raises:
      UserError: there is no such checkpoint, or the network has no twin.
    """
    import torch

    from unet_jax.interchange.torch_twin import convert, twin

    step, channels, variables = predictor.restore(folder, config, checkpoint)
    build, arguments = twin.network_of(channels, **config.model)
    network, form = build(**arguments), exported_form(config.model)
    network.load_state_dict(convert.to_state_dict(variables, network))
    names = {form.name(name, config.model.depth): name for name in network.state_dict()}
    return network.eval(), common_fields(config, step) | {
        "classes": list(class_names(folder, config.model.classes)),
        "network": build.__name__,
        "arguments": arguments,
        "names_of": form.title,
        "names": {name: own for name, own in names.items() if name != own},
        "dtype": [config.data.dtype] if config.data.dtype else list(OWN_RANGE),
        "normalization": normalization(config),
        "resized_to": config.data.size if Fit.of(config.data).resizes else None,
        "torch": torch.__version__,
    }


def normalization(config: ConfigDict) -> dict[str, Any]:
    """Returns how stored values become the network's input.

    Either `mean` and `std` of each channel (or of all), with input (value - mean) / std; or
    `limits`, by the type of the values: those that become the lower and the upper end of `range`,
    each of all channels or one for each. Values beyond them are clipped.
    """
    intensities, dtype = Intensities.of(config.data), config.data.dtype
    if intensities.std:
        return {"mean": list(intensities.mean), "std": list(intensities.std)}
    limits = {
        name: [end.tolist() for end in intensities.ends(np.dtype(name))]
        for name in ([dtype] if dtype else OWN_RANGE)
    }
    return {"limits": limits, "range": list(INPUT_RANGES[intensities.input_range])}
