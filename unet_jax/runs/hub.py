"""Weights of encoders on the Hugging Face hub."""

import pathlib
from collections.abc import Sequence
from typing import Any

from unet_jax.core.errors import UserError
from unet_jax.core.files import read_json
from unet_jax.core.streams import say
from unet_jax.models.encoders.encoder import ENCODERS

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
CARD = "config.json"  # what timm and segmentation_models_pytorch say of a model
REQUIREMENTS = "requirements-pretrained.txt"


def from_hub(source: str, encoder: str) -> pathlib.Path:
    """Downloads the weights of a model, or finds them in the library's cache.

    Args:
      source: identifier of the model, owner/name.
      encoder: a name in `ENCODERS`.

    Raises:
      UserError: the weights cannot be downloaded, or are of another architecture or normalization.
    """
    try:
        import huggingface_hub  # noqa: F401
    except ModuleNotFoundError:
        raise UserError(
            f"model.pretrained={source}: no such file, and models of the Hugging Face hub need "
            f"huggingface_hub: pip install -r {REQUIREMENTS}"
        ) from None
    path = _download(source, WEIGHTS)
    if path is None:
        raise UserError(
            f"model.pretrained={source}: the model on the Hugging Face hub has neither "
            f"{' nor '.join(WEIGHTS)}; download its weights and give the file"
        )
    try:
        card = _download(source, (CARD,))
    except UserError:
        say(
            f"note         model.pretrained={source}: its {CARD} is not available; architecture "
            f"and normalization of the weights were not checked"
        )
        return path
    if card is not None:
        _check(source, encoder, path, read_json(card))
    return path


def _download(source: str, names: Sequence[str]) -> pathlib.Path | None:
    """Returns the first of these files that the model has; None if it has none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    failure: Exception | None = None
    for name in names:
        try:
            return pathlib.Path(hf_hub_download(source, name))
        except LocalEntryNotFoundError as error:  # no connection; another file may be cached
            failure = failure or error
        except EntryNotFoundError:
            continue
        except Exception as error:  # of HTTP, the cache and the hub
            failure = error
            break
    if failure is None:
        return None
    reason = str(failure).strip().partition("\n")[0]
    raise UserError(
        f"model.pretrained={source}: no such file, and {' or '.join(names)} cannot be downloaded "
        f"from the Hugging Face hub ({reason}); give a file, or check the name and the connection"
    ) from failure


def _check(source: str, encoder: str, path: pathlib.Path, card: Any) -> None:
    """Checks what a model's card says; other networks may have tensors of the same names."""
    if not isinstance(card, dict):
        return
    ours, stated = ENCODERS[encoder], card.get("architecture", "")
    if stated and ours.timm_name not in ("", stated):
        raise UserError(
            f"model.pretrained={source}: its architecture is {stated}; model.encoder={encoder} is "
            f"timm's {ours.timm_name}, which computes other features even if the tensors fit; give "
            f"weights of {ours.timm_name}"
        )
    card = card.get("pretrained_cfg") or card
    given = [tuple(card.get(name) or getattr(ours, name)) for name in ("mean", "std")]
    if given != [ours.mean, ours.std]:
        mean, std = (tuple(round(255 * share, 3) for share in shares) for shares in given)
        raise UserError(
            f"model.pretrained={source}: expects another mean and standard deviation than "
            f"{encoder} has here; give its file, {path}, and --config.data.normalize=zscore "
            f"--config.data.mean='{mean}' --config.data.std='{std}' (8 bits)"
        )
