"""U-Net segmentation in JAX and Flax, with one launcher, published experiments and exact resume.

The Python API, which docs/python-api.md explains:

    run = unet_jax.load_run("runs/isbi-small")
    mask = run.predict("slice.png").mask
"""

from typing import TYPE_CHECKING, Any

from unet_jax.core.errors import UserError

if TYPE_CHECKING:
    from unet_jax.api import Run, build_model, load_run
    from unet_jax.inference.images import Prediction

__all__ = ["IGNORED", "Prediction", "Run", "UserError", "build_model", "is_binary", "load_run"]

IGNORED = 255  # label of pixels that are excluded from all losses and metrics


def is_binary(count: int) -> bool:
    """Returns whether a task has one foreground class.

    Args:
      count: the number of classes, or of logits per pixel, which may be 1 for two classes.
    """
    return count <= 2


def __getattr__(name: str) -> Any:
    """Imports the Python API, and with it jax, when it is first used."""
    if name not in ("Prediction", "Run", "build_model", "load_run"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from unet_jax import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
