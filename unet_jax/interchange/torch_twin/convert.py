"""Converts Flax variables to a state_dict of the PyTorch twin, bit for bit.

`unet_jax.models.torch_weights` defines names and layouts, and converts in the other direction.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unet_jax.models.torch_weights import (
    COUNTER,
    check_tensors,
    leaves_by_path,
    to_torch_layout,
    torch_name,
)


def to_state_dict(variables: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Converts Flax variables to a state_dict.

    PyTorch does not use `num_batches_tracked` if a momentum is given; it is set to 0.

    Args:
      variables: `params` and, if there are BatchNorms, `batch_stats`.
      model: the twin that is to load them.

    Returns:
      A state_dict in the order of `model`.

    Raises:
      UserError: tensors differ from those of `model`; the message lists all of them.
    """
    state = {
        torch_name(path): torch.tensor(to_torch_layout(path, np.asarray(leaf)))
        for path, leaf in leaves_by_path(variables)
    }
    expected = model.state_dict()
    state |= {name: torch.zeros_like(x) for name, x in expected.items() if name.endswith(COUNTER)}
    check_tensors("variables", state, expected)
    return {name: state[name] for name in expected}
