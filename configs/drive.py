"""DRIVE: retinal blood vessels within the camera's field of view; U-Net.

python launch.py --config=configs/drive.py
python launch.py --config=configs/drive.py:native
python launch.py --config=configs/drive.py:best

The first command resizes every image to 512x512, as the published experiment does: BCE, 200 epochs.
`native` trains on 256x256 windows and evaluates whole images, both at full resolution: BCE + Dice,
EMA of the weights, random brightness, contrast and gamma, and a threshold chosen on four of the
twenty training images. Both need an accelerator; we have not trained them to the end yet.

`pretrained` is the U-Net with EfficientNet-Lite0 and its ImageNet weights
(docs/pretrained-encoders.md). `native,small,pretrained` takes 36 minutes on one busy core, and does
not help: mean Dice 0.821 (one seed), AUC 0.976.

`small` is for two CPU cores. `best` is `native,small`, the recipe with the best mean score: 33
minutes, mean Dice 0.822 on the test images 01 to 10 (95 % interval over the images 0.815 to 0.830;
0.821 to 0.822 over three seeds), 0.826 with --tta, AUC 0.976. `bce`, `dice`, `bce_dice` and
`bce_dice_cldice` select another loss; the last leaves the vessels in fewer pieces, with Dice 0.812.

All twenty training images are used for training, none for validation; the last checkpoint is
evaluated on the test images. To tune anything, hold out four of them for validation:
--config.data.split="(16, 4)".
"""

from ml_collections import ConfigDict

from configs import base
from unet_jax.core.errors import UserError

LOSSES = {
    "bce": "bce",
    "dice": "dice",
    "bce_dice": "bce+dice",
    "bce_dice_cldice": "bce+dice+cldice",
}
BEST = "native,small"
OPTIONS = ("best", "native", "small", "pretrained", *LOSSES)


def get_config(options: str = "") -> ConfigDict:
    """Returns the fields of the experiment.

    Args:
      options: any of `OPTIONS`, separated by commas.

    Raises:
      UserError: there is no such option.
    """
    names = base.split_options(options, BEST)
    for name in names:
        if name not in OPTIONS:
            raise UserError(
                f"configs/drive.py:{name}: no such option; there are {', '.join(OPTIONS)}"
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
        config.num_epochs = (30 if "pretrained" in names else 60) if "small" in names else 100
        config.eval.threshold = 0.35
    if "pretrained" in names:
        base.use_pretrained_encoder(config)
        config.optim.encoder_rate = 0.3
    for name in names:
        config.loss.name = LOSSES.get(name, config.loss.name)
    return config
