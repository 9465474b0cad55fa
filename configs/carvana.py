"""Cars (Carvana): U-Net of 32 to 512 channels, 1024 in its centre; BCE + soft Dice.

python launch.py --config=configs/carvana.py
python launch.py --config=configs/carvana.py:sample

The first takes the challenge's 5,088 pictures, dealt by car: no car is in two splits. Training
mirrors them, shifts image and mask by up to a tenth of the side and turns hues by up to a tenth of
the colour circle, as the published experiment does. The full set wants an accelerator, and was not
trained here yet.

`sample` is for a few pairs in the same folders: it trains and tests on all of them, mirrored only,
to see that the network can learn them by heart, which its report says: 10 minutes on two CPU
cores, Dice 0.991.
"""

from ml_collections import ConfigDict

from configs import base
from unet_jax.core.errors import UserError


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: nothing, or `sample`."""
    config = base.get_config()
    config.name = "carvana"
    config.data.name = "carvana"
    config.data.root = "data/carvana"
    config.data.split = (0.8, 0.1, 0.1)  # of the cars
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
