"""DRIVE: blood vessels of the retina, inside the camera's field of view; U-Net.

python launch.py --config=configs/drive.py
python launch.py --config=configs/drive.py:native
python launch.py --config=configs/drive.py:native,small

The first resizes every image to 512x512, as the published experiment does: BCE, 200 epochs.
`native` trains on 256x256 windows and evaluates whole images, both at their own resolution: BCE +
Dice, the mean of the weights, random colours, and a threshold chosen on four of the twenty training
images. Both want an accelerator, and were not trained to their end here yet. `small` is for two CPU
cores: 33 minutes with XLA_FLAGS=--xla_force_host_platform_device_count=2, mean Dice 0.822 (0.821 to
0.822 over three seeds) and AUC 0.976 on the test images 01 to 10 (`native,small`). `bce`, `dice`
and `bce_dice` are other losses.

The twenty training images train, with none for validation: the last checkpoint is reported on the
test images. To choose anything, take four of them out: --config.data.split="(16, 4)".
"""

from ml_collections import ConfigDict

from configs import base
from unet_jax.core.errors import UserError

LOSSES = {"bce": "bce", "dice": "dice", "bce_dice": "bce+dice"}


def get_config(options: str = "") -> ConfigDict:
    """`options`: some of native, small, bce, dice, bce_dice, joined by commas."""
    names = options.split(",") if options else []
    for name in names:
        if name not in ("native", "small", *LOSSES):
            raise UserError(
                f"configs/drive.py:{name}: no such option; there are native, small, "
                f"{', '.join(LOSSES)}"
            )
    config = base.get_config()
    config.name = "-".join(["drive", *names])
    config.data.name = "drive"
    config.data.root = "data/drive"
    config.data.split = (20, 0)
    config.data.fit = "resize"
    config.data.size = 512
    config.data.augment = ("flip", "quarter_turn")
    config.model.width = 16 if "small" in names else 64
    config.loss.name = "bce"
    config.optim.schedule = "cosine"
    config.batch_size = 4
    config.num_epochs = 200
    if "native" in names:
        config.data.fit = "crop"
        config.data.size = 256
        config.data.crops_per_image = 12
        config.data.augment += ("brightness", "contrast", "gamma")
        config.loss.name = "bce+dice"
        config.optim.ema_decay = 0.99
        config.num_epochs = 60 if "small" in names else 100
        config.eval.threshold = 0.35
    for name in names:
        config.loss.name = LOSSES.get(name, config.loss.name)
    return config
