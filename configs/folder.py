"""Your own images and masks; U-Net.

python launch.py --config=configs/folder.py --config.data.root=FOLDER --workdir=runs/NAME

FOLDER contains `images/` and `masks/`, matched by file name, or `train/`, `val/` and `test/`, each
with these two (more layouts: unet_jax/data/sources/folder_splits.py). The classes are detected
from the masks and printed. Two classes use one logit and BCE; more use softmax and cross-entropy.
Images are resized to 256x256 for the network, and scores are computed at each image's own size. If
small details matter, --config.data.fit=crop trains on windows instead. Time and scores depend on
your data.
"""

from ml_collections import ConfigDict

from configs import base
from unet_jax.core.fields import add_defaults
from unet_jax.data.sources.folder import OPTIONS


def get_config() -> ConfigDict:
    """Returns the fields of the experiment."""
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
    return config
