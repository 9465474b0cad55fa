"""Your own images and masks; U-Net.

python launch.py --config=configs/folder.py --config.data.root=FOLDER --workdir=runs/NAME

FOLDER contains `images/` and `masks/`, matched by file name, or `train/`, `val/` and `test/`, each
with these two. The classes are detected from the masks and printed. Two classes use one logit and
BCE; more use softmax and cross-entropy. Images are resized to 256x256 for the network, and scores
are computed at each image's own size. If small details matter, --config.data.fit=crop trains on
windows instead. Time and scores depend on your data.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Returns the fields of the experiment."""
    config = base.get_config()
    config.name = "folder"
    config.data.name = "folder"
    config.data.root = "data/folder"
    # Regular expression whose first group is what a split keeps together, such as r"^(P\d+)_" for
    # patients; "": each image by itself.
    config.data.group = ""
    # Regular expressions for the file names of images and masks, such as r"(.+)_GT\.png"; the first
    # group is the name that pairs them. "": the usual names.
    config.data.image_pattern = ""
    config.data.mask_pattern = ""
    config.data.binary = "auto"  # nonzero: any value but 0 of a mask is the foreground
    config.data.ignore = ()  # values of masks that count nowhere, such as (128,)
    # Value or colour of each class, such as ("0:background", "#ff0000:nerve"); (): automatic.
    config.data.mask_values = ()
    config.data.threshold = 0.0  # mask values from this on are the foreground; 0: automatic
    config.data.split = (0.7, 0.15, 0.15)
    config.data.fit = "resize"
    config.data.size = 256
    config.data.augment = ("mirror",)
    config.model.classes = 0
    config.model.width = 32
    config.loss.name = "auto"
    config.optim.schedule = "cosine"
    config.num_epochs = 50
    return config
