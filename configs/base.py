"""Every field of an experiment, once, with its meaning and unit. Other configs override."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The fields and what holds where a config says nothing else."""
    config = ConfigDict()
    config.name = "base"  # of the experiment; names the run's folder
    config.seed = 0  # of initial weights, order of examples, augmentation and dropout
    config.batch_size = 4  # images a step, over all devices of all hosts
    config.num_epochs = 100

    data = config.data = ConfigDict()
    data.name = "isbi"  # isbi | phantom
    data.root = "data/isbi"  # the folder of the data set
    data.split = (24, 3, 3)  # numbers of training, validation and test images
    data.split_seed = 0  # of the permutation that deals the images
    data.size = 512  # side of the square training crop, pixels
    data.crops_per_image = 1  # random crops of every training image in an epoch
    data.augment = ("flip", "quarter_turn")  # training only, in this order
    data.workers = 0  # reader processes of each host; 0 reads in threads

    model = config.model = ConfigDict()
    model.name = "unet"  # unet
    model.classes = 1  # logits a pixel: 1 (sigmoid) for two classes, else their number (softmax)
    model.width = 64  # channels of the first level; each level below has twice as many
    model.depth = 4  # number of 2x2 poolings
    model.norm = "batch"  # batch | group | none
    model.upsample = "transpose"  # transpose | nearest | bilinear
    model.dropout = 0.0  # share of the bottom's activations dropped in training
    model.dtype = "auto"  # of the arithmetic: float32 | bfloat16 | auto (bfloat16 off the CPU)

    loss = config.loss = ConfigDict()
    loss.name = "bce"  # bce (one logit) | cross_entropy (two and more)

    optim = config.optim = ConfigDict()
    optim.name = "adam"  # adam | adamw | sgd
    optim.learning_rate = 1e-3  # the highest, after the warm-up
    optim.schedule = "constant"  # constant | cosine (to 0) | step
    optim.step_epochs = 30.0  # schedule=step: epochs between two reductions, after the warm-up
    optim.step_factor = 0.1  # schedule=step: of each reduction
    optim.warmup_epochs = 0.0  # of linear rise from 0, within num_epochs
    optim.momentum = 0.9  # sgd
    optim.weight_decay = 0.0  # not on norms and biases; decoupled for adamw, else L2
    optim.clip_norm = 0.0  # largest global norm of the gradient; 0 does not clip

    config.eval = ConfigDict()
    config.eval.every_epochs = 1
    config.eval.batch_size = 4  # images a step, over all devices of all hosts
    config.eval.threshold = 0.5  # probability above which a pixel is of the second class

    config.log = ConfigDict()
    config.log.every_steps = 10

    config.checkpoint = ConfigDict()
    config.checkpoint.every_epochs = 1
    config.checkpoint.keep = 2  # of the latest; the best on validation is kept beside them
    return config
