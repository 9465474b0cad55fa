"""`model.pretrained`: a new run starts with the weights of a pretrained encoder.

The run's folder records the file in `initial.json`; it is not needed to resume the run.
"""

import pathlib

from ml_collections import ConfigDict

from unet_jax import models
from unet_jax.core.errors import UserError
from unet_jax.core.files import write_json
from unet_jax.core.streams import say
from unet_jax.runs import folder as run_folder
from unet_jax.runs.pretrained import read_pretrained
from unet_jax.training.initial import describe_adaptation, transfer


def with_pretrained_encoder(folder: pathlib.Path, config: ConfigDict, variables: dict) -> dict:
    """Returns the initial variables with pretrained weights of the encoder, and records them.

    Args:
      folder: the run's folder, which is claimed.
      config: the run's config; `model.pretrained` names the weights.
      variables: the initial variables of the network.

    Raises:
      UserError: the weights cannot be read, or are those of another network.
    """
    fields, network = config.model, models.build(**config.model)
    found = read_pretrained(fields.pretrained, fields.encoder, fields.depth)
    source = {kind: {"encoder": arrays} for kind, arrays in found.variables.items()}
    weights, made = transfer(variables, source, network.first_kernel, (), ("encoder",))
    if made.misfits:
        raise UserError(
            f"model.pretrained={fields.pretrained}: the weights do not fit {fields.encoder} "
            f"({'; '.join(made.misfits[:3])}); give other weights, or set model.encoder"
        )
    others = f"; without {', '.join(found.left_out)}" if found.left_out else ""
    say(
        f"weights      of {fields.encoder} from {found.file}: {len(made.taken)} arrays "
        f"taken{others}"
    )
    if made.adapted:
        there, here = (
            tree["params"]["encoder"][network.first_kernel[1]]["kernel"].shape[-2]
            for tree in (source, weights)
        )
        say(describe_adaptation(there, here))
    origin = {"source": fields.pretrained, "file": str(found.file), "sha256": found.sha256}
    write_json(folder / run_folder.INITIAL, {"pretrained": origin, "modules": made.modules})
    return weights
