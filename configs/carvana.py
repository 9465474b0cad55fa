"""Cars (Carvana): U-Net with 32 to 512 channels, 1024 at the bottleneck; BCE + soft Dice.

python launch.py --config=configs/carvana.py
python launch.py --config=configs/carvana.py:sample

The first command trains on the 5,088 images of the challenge. They are split by car, so no car is
in two splits. As in the published experiment, training mirrors the images, shifts image and mask
by up to a tenth of the side, and changes the hue by up to a tenth of the colour circle. The full
data set needs an accelerator; we have not trained on it yet.

`sample` is for a few pairs in the same folders. It trains and tests on all of them with mirroring
only, and overfits them (a sanity check): 10 minutes on two CPU cores, Dice 0.991.
"""

from ml_collections import ConfigDict

from configs import base
from unet_jax.core.errors import UserError


def get_config(variant: str = "") -> ConfigDict:
    """Returns the fields of the experiment.

    Args:
      variant: empty, or `sample`.

    Raises:
      UserError: there is no such variant.
    """
    config = base.get_config()
    config.name = "carvana"
    config.data.name = "carvana"
    config.data.root = "data/carvana"
    config.data.split = (0.8, 0.1, 0.1)  # shares of cars, not of images
    config.data.fit = "resize"
    config.data.size = 256
    config.data.augment = ("mirror", "shift", "hue")
    config.augment.shift = 0.1
    config.augment.hue = 0.1
    config.model.width = 32
    config.model.depth = 5
    config.loss.name = "bce+dice"
    config.batch_size = 3
    config.num_epochs = 5
    if variant == "sample":
        config.name = "carvana-sample"
        config.data.split = ()
        config.data.augment = ("mirror",)
        config.num_epochs = 60
        config.optim.schedule = "cosine"
        config.checkpoint.every_epochs = 10
    elif variant:
        raise UserError(f"configs/carvana.py:{variant}: no such variant; there is sample")
    return config
