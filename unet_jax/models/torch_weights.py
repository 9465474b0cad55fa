"""Names and layouts of this project's weights in PyTorch; does not import PyTorch.

The names follow Flax's: `params/down_0/Conv_1/kernel` is `down.0.convs.1.weight`, and
`batch_stats/down_0/Norm_1/BatchNorm_0/var` is `down.0.norms.1.running_var`. PyTorch's
`num_batches_tracked` does not exist in Flax. Each number at the end of a module's name is the key
of a module list or dictionary: `params/up_0_1/Conv_0/kernel` is `up.0.1.convs.0.weight`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from unet_jax.core.errors import UserError

MODULES = {"Conv": "convs", "Norm": "norms"}  # names of a block's module lists
LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
COUNTER = "num_batches_tracked"

Path = tuple[str, ...]  # such as ("params", "down_0", "Conv_1", "kernel")


def torch_name(path: Path) -> str:
    """Returns the PyTorch name of a Flax variable."""
    _, *modules, leaf = path
    parts = []
    for module in modules:
        if module in ("BatchNorm_0", "GroupNorm_0"):  # the only layer in a `Norm`
            continue
        name, *numbers = re.split(r"_(?=[\d_]+$)", module)
        parts += [MODULES.get(name, name), *numbers]
    return ".".join([*parts, LEAVES.get(leaf, leaf)])


def to_variables(
    state_dict: Mapping[str, Any],
    like: Mapping[str, Any],
    name: Callable[[Path], str] = torch_name,
) -> dict[str, Any]:
    """Converts a state_dict to Flax variables.

    Args:
      state_dict: PyTorch's tensors or numpy arrays.
      like: the tree of the result, with arrays or shapes as leaves.
      name: maps a variable's path to its name in the state_dict.

    Returns:
      Variables as numpy arrays, in the tree of `like`.

    Raises:
      UserError: tensors differ from those of `like`; the message lists all of them.
    """
    state = {key: x for key, x in state_dict.items() if not key.endswith(COUNTER)}
    leaves = leaves_by_path(like)
    expected = {
        name(path): to_torch_layout(path, np.empty(leaf.shape, leaf.dtype)) for path, leaf in leaves
    }
    check_tensors("state_dict", state, expected)
    values = [to_flax_layout(path, _to_numpy(state[name(path)])) for path, _ in leaves]
    return jax.tree.unflatten(jax.tree.structure(like), values)


def _to_numpy(x: Any) -> np.ndarray:
    return x if isinstance(x, np.ndarray) else x.detach().cpu().numpy()


def to_torch_layout(path: Path, x: np.ndarray) -> np.ndarray:
    """Permutes a kernel's axes: [H, W, in, out] -> [out, in, H, W].

    A transposed convolution's become [in, out, H, W]; Flax stores its kernel flipped along H and
    W, PyTorch does not. Other arrays are copied unchanged.
    """
    if x.ndim != 4:
        return x.copy()
    if _is_transposed(path):
        return x[::-1, ::-1].transpose(2, 3, 0, 1).copy()
    return x.transpose(3, 2, 0, 1).copy()


def to_flax_layout(path: Path, x: np.ndarray) -> np.ndarray:
    """The inverse of `to_torch_layout`."""
    if x.ndim != 4:
        return x.copy()
    if _is_transposed(path):
        return x.transpose(2, 3, 0, 1)[::-1, ::-1].copy()
    return x.transpose(2, 3, 1, 0).copy()


def _is_transposed(path: Path) -> bool:
    return path[1].startswith("upconv_")


def leaves_by_path(tree: Mapping[str, Any]) -> list[tuple[Path, Any]]:
    """Returns the leaves of a tree of variables with their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(tuple(key.key for key in path), leaf) for path, leaf in leaves]


def check_tensors(what: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Checks the names, shapes and dtypes of tensors or arrays.

    Args:
      what: what the tensors are, for the message.
      found: the tensors or arrays by name.
      expected: those that are expected.

    Raises:
      UserError: some differ; the message lists all of them in one line.
    """

    def describe(x: Any) -> str:
        return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"

    wrong = [f"{name} is missing" for name in expected if name not in found]
    wrong += [f"{name} is unknown" for name in found if name not in expected]
    wrong += [
        f"{name} is {describe(found[name])}, expected {describe(x)}"
        for name, x in expected.items()
        if name in found and describe(found[name]) != describe(x)
    ]
    if wrong:
        raise UserError(
            f"{what}: {len(wrong)} tensors do not fit: {'; '.join(wrong)}; use weights of a "
            f"network with the same model.* fields"
        )
