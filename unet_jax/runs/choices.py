"""The texts that config fields may have."""

from unet_jax.core.intensities import INPUT_RANGES
from unet_jax.data.augment.transforms import TRANSFORMS
from unet_jax.data.augment.warp import OUTSIDES
from unet_jax.data.fit import FITS
from unet_jax.data.intensities import NORMALIZATIONS
from unet_jax.learning import optim
from unet_jax.metrics.registry import GROUPS, METRICS, OBJECT_RULES
from unet_jax.runs.options import SELECTORS

# Allowed values of a text field, or of each text in a tuple, from the registries. The network's own
# choices and those of `loss.name` are checked with their other fields.
CHOICES = {
    "data.name": SELECTORS["data.name"],
    "model.name": SELECTORS["model.name"],
    "data.fit": FITS,
    "data.normalize": NORMALIZATIONS,
    "data.input_range": INPUT_RANGES,
    "data.augment": TRANSFORMS,
    "augment.outside": OUTSIDES,
    "model.dtype": ("auto", "float32", "bfloat16"),
    "eval.metrics": GROUPS,
    "eval.best": METRICS,
    "eval.tune": METRICS,
    "eval.objects": OBJECT_RULES,
    "optim.name": optim.OPTIMIZERS,
    "optim.schedule": optim.SCHEDULES,
    "optim.frozen_norm": optim.FROZEN_NORMS,
}
