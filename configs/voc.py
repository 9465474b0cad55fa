"""PASCAL VOC 2012: 20 classes of objects and background; U-Net, cross-entropy.

python launch.py --config=configs/voc.py
python launch.py --config=configs/voc.py:trainaug
python launch.py --config=configs/voc.py:small

Trains on windows of 320x320 pixels, mirrored at random (no other augmentation is published with
the experiment), of the list `train` less a tenth that validates (`trainaug`: VOC 2012 with the
labels of SBD), and reports on the list `val`, which nothing is chosen on. `ce_dice` adds the soft
Dice, `weighted` counts pixels of objects four times. `small` is for two CPU cores: on 283 images,
43 minutes beside other work, mean IoU on 160 images of `val` 0.047 (one seed; all background:
0.035); after 8 epochs 0.041 (three seeds, 0.037 to 0.043), its PyTorch twin 0.040 (0.036 to
0.042). The full size wants an accelerator, and was not trained to its end here yet.
"""

from ml_collections import ConfigDict

from configs import base
from unet_jax.core.errors import UserError


def get_config(options: str = "") -> ConfigDict:
    """`options`: some of trainaug, ce_dice, weighted, small, joined by commas."""
    config = base.get_config()
    config.name = "-".join(["voc", *options.split(",")]).rstrip("-")
    config.data.name = "voc"
    config.data.root = "data/voc"
    config.data.split = (0.9, 0.1)
    config.data.fit = "crop"
    config.data.size = 320
    config.data.augment = ("mirror",)
    config.model.classes = 21
    config.model.width = 64
    config.loss.name = "cross_entropy"
    config.optim.schedule = "cosine"
    config.optim.warmup_epochs = 1.0
    config.batch_size = 8
    config.num_epochs = 100
    config.eval.every_epochs = 5
    config.checkpoint.every_epochs = 5
    for option in filter(None, options.split(",")):
        if option == "trainaug":
            config.data.train_list = "trainaug"
        elif option == "ce_dice":
            config.loss.name = "cross_entropy+dice"
        elif option == "weighted":
            config.loss.class_weights = (0.25,) + (1.0,) * 20
        elif option == "small":
            config.data.size = 256
            config.model.width = 16
            config.num_epochs = 30
        else:
            raise UserError(
                f"configs/voc.py:{option}: no such option; there are trainaug, ce_dice, weighted, "
                f"small"
            )
    return config
