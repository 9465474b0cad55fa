"""Reads files of tensors: PyTorch's and safetensors. No code in them is executed."""

from __future__ import annotations

import pathlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from unet_jax.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

WRAPPERS = ("state_dict", "model_state_dict", "model")
# DataParallel's, torch.compile's, and that of an attribute `model`, as in modules of Lightning.
PREFIXES = ("module.", "_orig_mod.", "model.")
SWA_COUNTER = "n_averaged"  # which torch.optim.swa_utils.AveragedModel adds
MASK_VALUES = "mask_values"  # grey values of the classes, which milesial's training code adds
REMEDY = "give what torch.save(model.state_dict(), FILE) writes"


def read_state_dict(path: pathlib.Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Reads the tensors of a checkpoint.

    Args:
      path: a `.safetensors` file, or what `torch.save` wrote: a state_dict, or a dictionary with
        one under one of `WRAPPERS`. Reading the latter needs PyTorch.

    Returns:
      The arrays by name, without wrappers and their prefixes, those of half precision as float32;
      and the names of entries that were left out.

    Raises:
      UserError: the file is missing, damaged or has other content, or its library is not installed.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; {REMEDY}")
    if path.suffix == ".safetensors":
        state = _read_safetensors(path)
        state.pop(SWA_COUNTER, None)
        if not state:
            raise UserError(f"{path}: has no tensors; {REMEDY}")
        return _without_prefix(state), []
    content = _load(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a state_dict; {REMEDY}")
    wrapped = [key for key in WRAPPERS if isinstance(content.get(key), Mapping)]
    if len(wrapped) > 1:
        raise UserError(f"{path}: contains both {' and '.join(wrapped)}; {REMEDY}")
    state = dict(content[wrapped[0]] if wrapped else content)
    state.pop(SWA_COUNTER, None)
    left_out = [MASK_VALUES] if state.pop(MASK_VALUES, None) is not None else []
    strange = [
        f"{name!r} is a {type(x).__name__}"
        for name, x in state.items()
        if not (isinstance(name, str) and _is_dense(x))
    ]
    if strange or not state:
        found = "; ".join(strange) or "it is empty"
        raise UserError(f"{path}: no state_dict of dense tensors ({found}); {REMEDY}")
    return _without_prefix({name: _to_numpy(x) for name, x in state.items()}), left_out


def _without_prefix(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            return _without_prefix({name.removeprefix(prefix): x for name, x in state.items()})
    return state


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        from safetensors.numpy import load_file
    except ModuleNotFoundError:
        raise UserError(
            f"{path}: reading it needs safetensors: pip install -r requirements-pretrained.txt"
        ) from None
    try:
        return {name: _not_half(x) for name, x in load_file(path).items()}
    except Exception as error:  # the library raises several types for damaged files
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: is damaged or no safetensors file ({reason})") from error


def _is_dense(x: Any) -> bool:
    import torch  # only in functions, because the package does not need it otherwise

    tensor = isinstance(x, torch.Tensor) and x.layout == torch.strided
    return tensor and not x.is_quantized and not x.is_meta


def _to_numpy(x: Tensor) -> np.ndarray:
    import torch

    x = x.detach().cpu()
    return x.float().numpy() if x.dtype == torch.bfloat16 else _not_half(x.numpy())


def _not_half(x: np.ndarray) -> np.ndarray:
    """Converts an array of half precision to float32, which has all its values."""
    return x.astype(np.float32) if x.dtype.name in ("float16", "bfloat16") else x


def _load(path: pathlib.Path) -> Any:
    try:
        import torch
    except ModuleNotFoundError:
        raise UserError(f"{path}: reading it needs PyTorch: pip install torch") from None
    try:
        if zipfile.is_zipfile(path):  # PyTorch does not check the checksums
            with zipfile.ZipFile(path) as archive:
                if broken := archive.testzip():
                    raise zipfile.BadZipFile(f"wrong checksum of {broken}")
        with warnings.catch_warnings(
            action="ignore"
        ):  # content that causes warnings is rejected below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        if not named:
            raise UserError(
                f"{path}: is damaged or was not written by torch.save; {REMEDY}"
            ) from error
        raise UserError(
            f"{path}: not loaded: it holds a {named[1]}, and objects other than tensors could "
            f"execute code; {REMEDY}"
        ) from error
    except Exception as error:  # damaged files raise many types
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise UserError(
            f"{path}: is damaged or was not written by torch.save ({reason})"
        ) from error
