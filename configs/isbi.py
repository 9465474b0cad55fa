"""ISBI 2012 EM: membrane and cell segmentation; U-Net, binary cross-entropy.

python launch.py --config=configs/isbi.py
python launch.py --config=configs/isbi.py:best
python launch.py --config=configs/isbi.py:small,elastic

The first command is the published experiment at full size: 31 M parameters, whole slices. It needs
an accelerator; we have not trained it to the end yet. `small` is the same experiment for CPUs.

`best` is `small`, the recipe with the best mean score: 27 minutes on one core, test binary
cross-entropy 0.168 (0.156 to 0.183 over the three slices; 0.166 to 0.169 over three seeds),
V^Rand 0.958 and V^Info 0.977 at the threshold with the best validation V^Rand. With --tta they are
0.165, 0.975 and 0.979.

`pretrained` is the U-Net with EfficientNet-Lite0 and its ImageNet weights
(docs/pretrained-encoders.md). `small,pretrained` takes 20 to 23 minutes on one core, and does not
help: test binary cross-entropy 0.173 (0.172 and 0.175, two seeds), V^Rand 0.957.

The other options are for ablations:

- flips: flips and quarter turns instead of the default augmentation, and no EMA of the weights;
- elastic: as flips, with the elastic deformation of the U-Net paper;
- weight_map: the weight map w(x) of the U-Net paper;
- dropout: dropout rate 0.5 at the bottleneck;
- randaugment: two RandAugment transforms at magnitude 9;
- black (with randaugment): pixels from outside the image are black and labelled membrane instead
  of ignored.
"""

from ml_collections import ConfigDict

from configs import base
from unet_jax.core.errors import UserError

BEST = "small"
OPTIONS = (
    "best",
    "small",
    "pretrained",
    "flips",
    "elastic",
    "weight_map",
    "dropout",
    "randaugment",
    "black",
)


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
                f"configs/isbi.py:{name}: no such option; there are {', '.join(OPTIONS)}"
            )
    config = base.get_config()
    config.name = "-".join(["isbi", *names])
    config.data.name = "isbi"
    config.data.root = "data/isbi"
    config.data.split = (24, 3, 3)
    config.data.size = 512
    # No quarter turns and no vertical flips: the labels lie 0.6 pixels above the membranes, and
    # a network trained on rotated or flipped slices cannot learn that offset.
    config.data.augment = ("mirror", "rotation", "elastic", "brightness", "contrast")
    config.model.width = 64
    config.loss.name = "bce"
    config.optim.name = "adam"
    config.optim.learning_rate = 1e-3
    config.optim.ema_decay = 0.99
    config.batch_size = 4
    config.num_epochs = 100
    if "small" in names:
        config.data.size = 256
        config.data.crops_per_image = 4  # as many pixels per epoch as the slice has
        config.model.width = 16
        config.optim.schedule = "cosine"
        config.num_epochs = 42 if "pretrained" in names else 60
        config.eval.every_epochs = 3
    if "pretrained" in names:
        base.use_pretrained_encoder(config)
        config.optim.encoder_rate = 0.3
    if "flips" in names or "elastic" in names:
        config.data.augment = ("flip", "quarter_turn")
        config.optim.ema_decay = 0.0
    if "elastic" in names:
        config.data.augment += ("elastic",)
    if "weight_map" in names:
        config.data.border_weight = 10.0
    if "dropout" in names:
        config.model.dropout = 0.5
    if "randaugment" in names:
        config.data.augment += ("randaugment",)
    if "black" in names:
        config.augment.outside = "black"
    return config
