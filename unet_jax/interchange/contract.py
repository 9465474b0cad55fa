"""What the JSON files of all exports state about a network."""

import datetime
from typing import Any

from ml_collections import ConfigDict

from unet_jax import is_binary, models
from unet_jax.data.fit import Fit


def common_fields(config: ConfigDict, step: int) -> dict[str, Any]:
    """Returns the fields of an export's JSON file that do not depend on its format.

    Args:
      config: the run's config.
      step: the step of the checkpoint.

    Returns:
      `name` of the experiment, `step`, `date` of the export, `threshold` (the probability above
      which a pixel is of the second of two classes, null for more classes), and `window`: how to
      split images that are too large to be predicted as a whole. Tiles begin at multiples of
      `multiple` pixels and overlap by twice `margin` pixels, about how far beyond a pixel its
      prediction depends on the image; `trained_on` is the side of the training windows, pixels.
      `window` is null if images are resized as a whole.
    """
    network = models.build(**config.model, platform="cpu")
    window = {
        "multiple": network.multiple,
        "margin": network.margin,
        "trained_on": config.data.size,
    }
    return {
        "name": config.name,
        "step": step,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "threshold": config.eval.threshold if is_binary(config.model.classes) else None,
        "window": None if Fit.of(config.data).resizes else window,
    }
