"""PH2: skin lesion segmentation; three networks x three losses, one run for each of the nine.

python launch.py --config=configs/ph2.py:MODEL,LOSS
python launch.py --config=configs/ph2.py:segnet,bce,small
python launch.py --config=configs/ph2.py:best
python -m unet_jax.sweep --config=configs/ph2.py:segnet,bce --config=... --workdir=runs/ph2

MODEL is unet (max pooling and upsampling), unet2 (strided and transposed convolutions instead),
segnet, attention_unet, residual_unet or unet_plus_plus (docs/architecture.md), or pretrained
(smp_unet with EfficientNet-Lite0 and its ImageNet weights); LOSS is bce, dice or focal; without
options they are unet and bce. Images are resized to 256x256; half of them are for training, a
quarter for validation and a quarter for testing. There is no augmentation by default. `deep` adds
deep supervision (docs/losses.md). `augmented` adds flips, quarter turns, rotation, scaling and
colour changes, trains six times as long and evaluates the EMA of the weights. `small` is for two
CPU cores: width 16, 128x128.

`best` is `pretrained,bce,augmented,small`, the recipe with the best mean score: 12 to 16 minutes
on one CPU core, mean test IoU 0.893 (95 % interval over the images 0.869 to 0.914; 0.890 to 0.895
over three seeds), 0.897 with --tta.

On the same 60/30/30 images (docs/datasets.md), the mean test IoU of others is 0.877 (0.869 to 0.881
over three seeds) for `unet,bce,augmented,small`, 0.884 with --tta, 9 minutes per run; and 0.81 to
0.84 for the nine `small` configurations (single runs 0.80 to 0.86), 3 minutes per run. The full
size needs an accelerator; we have not trained it to the end yet.
"""

from ml_collections import ConfigDict

from configs import base
from unet_jax.core.errors import UserError

BEST = "pretrained,bce,augmented,small"
DEFAULT = "unet,bce"
MODELS = ("unet", "unet2", "segnet", "attention_unet", "residual_unet", "unet_plus_plus")
RESIZING = ("unet", "attention_unet", "residual_unet")  # these upsample without parameters
LOSSES = ("bce", "dice", "focal")


def get_config(options: str = DEFAULT) -> ConfigDict:
    """Returns the fields of the experiment.

    Args:
      options: a network, a loss and optionally `deep`, `augmented` and `small`, separated by
        commas; or `best`, and options that change it.

    Raises:
      UserError: there is no such option, or there are two networks.
    """
    config = base.get_config()
    names = base.split_options(options or DEFAULT, BEST)
    networks = [name for name in names if name in (*MODELS, "pretrained")]
    if len(networks) > 1:
        found = " and ".join(networks)
        raise UserError(f"configs/ph2.py:{options}: {found} are two networks; give one")
    config.name = "-".join(["ph2", *names])
    config.data.name = "ph2"
    config.data.root = "data/ph2"
    config.data.split = (0.5, 0.25, 0.25)
    config.data.fit = "resize"
    config.data.size = 256
    config.data.augment = ()
    config.batch_size = 20
    config.num_epochs = 30
    config.optim.schedule = "step"
    config.optim.step_epochs = 20.0
    config.eval.every_epochs = 4
    config.checkpoint.every_epochs = 4
    config.eval.batch_size = 10
    for option in names:
        if option == "pretrained":
            base.use_pretrained_encoder(config)
            config.optim.encoder_rate = 0.3
        elif option in MODELS:
            config.model.name = option
            config.model.upsample = "nearest" if option in RESIZING else "transpose"
        elif option in LOSSES:
            config.loss.name = option
        elif option == "deep":
            config.model.deep_supervision = True
        elif option == "augmented":
            config.data.augment = ("flip", "quarter_turn", "rotation", "scale")
            config.data.augment += ("brightness", "contrast", "hue", "saturation")
            # Stronger colour changes lowered the validation score: the colour is informative.
            config.augment.brightness = 0.1
            config.augment.contrast = 0.1
            config.augment.hue = 0.03
            config.augment.saturation = 0.1
            config.num_epochs = 180
            config.optim.schedule = "cosine"
            config.optim.ema_decay = 0.99
            config.eval.every_epochs = 6
            config.checkpoint.every_epochs = 6
        elif option == "small":
            config.data.size = 128
            config.batch_size = 10
            config.model.width = 16
        else:
            raise UserError(
                f"configs/ph2.py:{option}: no such option; give best, or one of "
                f"{', '.join(MODELS)} or pretrained, one of {', '.join(LOSSES)} and, if wanted, "
                f"deep, augmented and, for two cores, small"
            )
    return config
