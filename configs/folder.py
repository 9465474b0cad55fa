"""Your own images and masks; U-Net.

python launch.py --config=configs/folder.py --config.data.root=FOLDER --workdir=runs/NAME

FOLDER has `images/` and `masks/`, matched by name. The classes are found in the masks, and what
was found is printed; one logit and BCE serve two classes, a softmax and cross-entropy more. Images
are resized to 256x256 for the network (`--config.data.fit=crop` trains on windows instead, where
details count), and scores are taken at each image's own size. Time and score are your data's.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "folder"
    config.data.name = "folder"
    config.data.root = "data/folder"
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
