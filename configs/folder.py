"""Your own images and masks; U-Net.

python launch.py --config=configs/folder.py:auto --config.data.root=FOLDER --workdir=runs/NAME
python launch.py --config=configs/folder.py --config.data.root=FOLDER --workdir=runs/NAME

FOLDER contains `images/` and `masks/`, matched by file name, or `train/`, `val/` and `test/`, each
with these two (more layouts: unet_jax/data/sources/folder_splits.py). The classes are detected
from the masks and printed. Two classes use one logit and BCE; more use softmax and cross-entropy.
`auto` chooses the fields in `PLANNED` from the images, the device and --config.plan.minutes, 30 by
default; it prints each choice with its reason, and any of them can be given instead. Without `auto`
images are resized to 256x256 for the network; if small details matter, --config.data.fit=crop
trains on windows instead. Scores are computed at each image's own size. Time and scores depend on
your data: with PH2's images as such a folder, `auto` has test IoU 0.880 with its 30 minutes on two
CPU cores, and 0.863 with --config.plan.minutes=15; with DRIVE's, Dice 0.821 with 30 minutes (one
seed each).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import base
from unet_jax.core.errors import UserError
from unet_jax.core.fields import add_defaults
from unet_jax.data.sources.folder import OPTIONS

PLANNED = (
    "batch_size",
    "num_epochs",
    "data.fit",
    "data.size",
    "data.crops_per_image",
    "data.foreground",
    "data.augment",
    "model.width",
    "model.depth",
    "loss.name",
    "eval.threshold",
    "eval.every_epochs",
    "checkpoint.every_epochs",
)


def get_config(options: str = "") -> ConfigDict:
    """Returns the fields of the experiment.

    Args:
      options: "" or auto.

    Raises:
      UserError: there is no such option.
    """
    if options not in ("", "auto"):
        raise UserError(f"configs/folder.py:{options}: no such option; there is auto")
    config = base.get_config()
    config.name = "folder"
    config.data.name = "folder"
    config.data.root = "data/folder"
    add_defaults(config, OPTIONS)  # so that the command line can override them
    config.data.split = (0.7, 0.15, 0.15)
    config.data.normalize = "auto"
    config.data.fit = "resize"
    config.data.size = 256
    config.data.augment = ("mirror",)
    config.model.classes = 0
    config.model.width = 32
    config.loss.name = "auto"
    config.optim.schedule = "cosine"
    config.num_epochs = 50
    if options == "auto":
        config.data.validation_share = 0.1
        config.optim.ema_decay = 0.99
        config.augment.brightness = 0.1
        config.augment.contrast = 0.1
        config.augment.hue = 0.03
        config.augment.saturation = 0.1
        for name in PLANNED:
            section, _, key = name.rpartition(".")
            group = config[section] if section else config
            kind = type(group[key])
            del group[key]
            group[key] = placeholder(kind)
    return config
