"""Every field of an experiment, once, with its meaning, unit and range. Other configs override."""

from typing import Any, NamedTuple

from ml_collections import ConfigDict


class Field(NamedTuple):
    """What a field holds where a config says nothing else, and what it may hold.

    Its type is that of the default. `range` is the interval of a number, or of each number in a
    tuple: "[0, 1)" has 0 and not 1. A field without one is a text, a truth value, or a choice from
    a registry (see `unet_jax/config.py`).
    """

    default: Any
    range: str = ""


FIELDS = {
    "name": Field("base"),  # of the experiment; names the run's folder
    # of initial weights, order of examples, augmentation and dropout
    "seed": Field(0, "[0, 4294967295]"),
    "batch_size": Field(4, "[1, 1000000]"),  # images a step, over all devices of all hosts
    "num_epochs": Field(100, "[1, 1000000]"),
    "data.name": Field("isbi"),  # isbi | phantom | drive | carvana | voc | ph2 | folder
    "data.root": Field("data/isbi"),  # the folder of the data set
    # Fetch (isbi, voc) or make (phantom) what is missing in data.root; never while evaluating.
    "data.download": Field(False),
    # Numbers of training, validation and test images, or shares where all are floats; without
    # the last where the set has a test list. () trains and tests on all images.
    "data.split": Field((24, 3, 3), "[0, 1e9]"),
    "data.split_seed": Field(0, "[0, 4294967295]"),  # of the permutation that deals the images
    # Of a cross-validation: with split (24, 0, 6) of 30 images, the folds 0 to 4 test each of them
    # once. Where the set has a test list it is validation that takes turns.
    "data.fold": Field(0, "[0, 1000000]"),
    "data.train_list": Field("train"),  # voc: train | trainaug
    # crop: train on windows, evaluate whole images | resize: all to one size
    "data.fit": Field("crop"),
    # side of the square training window, or of the resized image, pixels
    "data.size": Field(512, "[1, 32768]"),
    # of the pixels that the network sees: symmetric (-1 to 1) | unit
    "data.input_range": Field("symmetric"),
    # how often an epoch sees every training image
    "data.crops_per_image": Field(1, "[1, 1000000]"),
    "data.augment": Field(("flip", "quarter_turn")),  # training only, in this order
    # w0 of the U-Net paper's weight map (10 there), two classes only; 0: no map. Of the training
    # loss alone: validation and test losses stay unweighted, and comparable.
    "data.border_weight": Field(0.0, "[0, 1e6]"),
    # of the weight map: how near cells must be, pixels of the file
    "data.border_sigma": Field(5.0, "(0, 1e4]"),
    # processes of each host that read training batches; 0 reads in threads
    "data.workers": Field(0, "[0, 256]"),
    # What the transforms that data.augment names draw, each time anew, uniformly unless said. A
    # strength of 0 changes nothing.
    "augment.rotation_degrees": Field(15.0, "[0, 180]"),  # rotation: up to this many, either way
    # shift: share of the window's side, either way along each axis
    "augment.shift": Field(0.1, "[0, 1]"),
    # scale: a factor in [1 / (1 + scale), 1 + scale], its logarithm uniform
    "augment.scale": Field(0.2, "[0, 3]"),
    # shear: pixels along one axis for each along the other, either way, both
    "augment.shear": Field(0.1, "[0, 0.9]"),
    # elastic: standard deviation of the displacements on a grid of so many points each way over
    # the window, pixels; both as in the U-Net paper.
    "augment.elastic_pixels": Field(10.0, "[0, 1000]"),
    "augment.elastic_grid": Field(3, "[2, 100]"),
    "augment.brightness": Field(0.2, "[0, 1]"),  # brightness: share of the range added, either way
    # contrast: a factor in 1 +- contrast about the image's mean
    "augment.contrast": Field(0.2, "[0, 1]"),
    # gamma: an exponent in [1 / (1 + gamma), 1 + gamma], logarithm uniform
    "augment.gamma": Field(0.2, "[0, 9]"),
    # hue (RGB only): share of the colour circle, either way; at most 0.5
    "augment.hue": Field(0.1, "[0, 0.5]"),
    # saturation (RGB only): a factor in 1 +- saturation
    "augment.saturation": Field(0.2, "[0, 1]"),
    # blur: standard deviation of the Gaussian, from 0 to this, pixels
    "augment.blur": Field(1.0, "[0, 100]"),
    # noise: standard deviation, from 0 to this, share of the range
    "augment.noise": Field(0.02, "[0, 1]"),
    # randaugment: transforms of its list for each image
    "augment.randaugment_number": Field(2, "[0, 100]"),
    "augment.randaugment_magnitude": Field(9.0, "[0, 10]"),  # randaugment: of all of them; 0 to 10
    # Pixels that come from outside the image: ignored (the image is mirrored there) | black (of
    # class 0). The latter is only there so that the difference can be measured.
    "augment.outside": Field("ignored"),
    "model.name": Field("unet"),  # unet | unet2 | segnet
    # Logits a pixel: 1 (sigmoid) for two classes, else their number (softmax); 0: as the data have.
    "model.classes": Field(1, "[0, 254]"),
    # Channels of the first level; each level below has twice as many (segnet: up to 8 times).
    "model.width": Field(64, "[1, 16384]"),
    "model.depth": Field(4, "[1, 15]"),  # number of 2x2 poolings
    "model.padding": Field("same"),  # same | valid (unet only: the paper's, the input is mirrored)
    "model.norm": Field("batch"),  # batch | group | none
    # transpose | nearest | bilinear | bilinear_corners (PyTorch's align_corners); resizing is for
    # unet only, and not bilinear where padding is valid.
    "model.upsample": Field("transpose"),
    "model.dropout": Field(0.0, "[0, 1)"),  # share of the bottom's activations dropped in training
    # of the arithmetic: float32 | bfloat16 | auto (bfloat16 off the CPU)
    "model.dtype": Field("auto"),
    # bce (one logit) | cross_entropy (more) | dice | focal, or a sum such as bce+dice; auto: one of
    # the first two.
    "loss.name": Field("bce"),
    "loss.weights": Field((), "[0, 1e9]"),  # a factor for each term of the sum; () is 1 for each
    # a factor for the pixels of each class; () is 1 for each
    "loss.class_weights": Field((), "[0, 1e9]"),
    # pixels added to numerator and denominator of the soft Dice; above 0
    "loss.dice_smooth": Field(1.0, "[1e-8, 1e9]"),
    # how much less easy pixels count; 0 is the cross-entropy
    "loss.focal_gamma": Field(2.0, "[0, 100]"),
    "optim.name": Field("adam"),  # adam | adamw | sgd
    "optim.learning_rate": Field(1e-3, "(0, 1e6]"),  # the highest, after the warm-up
    "optim.schedule": Field("constant"),  # constant | cosine (to 0) | step
    # schedule=step: epochs between two reductions, after the warm-up
    "optim.step_epochs": Field(30.0, "(0, 1e6]"),
    "optim.step_factor": Field(0.1, "(0, 1e3]"),  # schedule=step: of each reduction
    "optim.warmup_epochs": Field(0.0, "[0, 1e6]"),  # of linear rise from 0, within num_epochs
    "optim.momentum": Field(0.9, "[0, 1)"),  # sgd
    # not on norms and biases; decoupled for adamw, else L2
    "optim.weight_decay": Field(0.0, "[0, 1e3]"),
    # of the average of the weights that is evaluated instead; 0 has none
    "optim.ema_decay": Field(0.0, "[0, 1)"),
    # largest global norm of the gradient; 0 does not clip
    "optim.clip_norm": Field(0.0, "[0, 1e9]"),
    "eval.every_epochs": Field(1, "[1, 1000000]"),
    "eval.batch_size": Field(4, "[1, 1000000]"),  # images a step, over all devices of all hosts
    # probability above which a pixel is of the second class
    "eval.threshold": Field(0.5, "(0, 1)"),
    "log.every_steps": Field(10, "[1, 1e9]"),
    "checkpoint.every_epochs": Field(1, "[1, 1000000]"),
    # of the latest; the best on validation is kept beside them
    "checkpoint.keep": Field(2, "[1, 10000]"),
}


def get_config() -> ConfigDict:
    """The fields with their defaults."""
    config = ConfigDict()
    for name, field in FIELDS.items():
        section, _, key = name.rpartition(".")
        if section and section not in config:
            config[section] = ConfigDict()
        (config[section] if section else config)[key] = field.default
    return config
