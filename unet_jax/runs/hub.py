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
      UserError: the hub does not give it, or it says that the model is another one or expects other
        values as its input.
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
    except UserError as error:
        say(f"note         {error}; the model was not checked")
        return path
    if card is not None:
        _check(source, encoder, path, read_json(card))
    return path


def _download(source: str, names: Sequence[str]) -> pathlib.Path | None:
    """Returns the first of these files that the model has; None if it has none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in names:
        try:
            return pathlib.Path(hf_hub_download(source, name))
        except Exception as error:  # of HTTP, the cache and the hub
            # Without a connection, the error is that the library's cache lacks the entry.
            offline = isinstance(error, LocalEntryNotFoundError)
            if isinstance(error, EntryNotFoundError) and not offline:
                continue
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"model.pretrained={source}: no such file, and the Hugging Face hub does not give "
                f"its {name} ({reason}); give a file, or check the name and the connection"
            ) from error
    return None


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
    card = card.get("pretrained_cfg", card)
    given = [tuple(card.get(name) or getattr(ours, name)) for name in ("mean", "std")]
    if given != [ours.mean, ours.std]:
        mean, std = (tuple(round(255 * share, 3) for share in shares) for shares in given)
        raise UserError(
            f"model.pretrained={source}: expects another mean and standard deviation than "
            f"{encoder} has here; give its file, {path}, and --config.data.normalize=zscore "
            f"--config.data.mean='{mean}' --config.data.std='{std}' (8 bits)"
        )
