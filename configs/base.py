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
    data.name = "isbi"  # isbi | phantom | drive | carvana | voc | ph2 | folder
    data.root = "data/isbi"  # the folder of the data set
    data.download = False  # fetch what is missing: isbi, voc
    # Numbers of training, validation and test images, or shares where all are floats; without
    # the last where the set has a test list. () trains and tests on all images.
    data.split = (24, 3, 3)
    data.split_seed = 0  # of the permutation that deals the images
    # Of a cross-validation: with split (24, 0, 6) of 30 images, the folds 0 to 4 test each of them
    # once. Where the set has a test list it is validation that takes turns.
    data.fold = 0
    data.train_list = "train"  # voc: train | trainaug
    data.fit = "crop"  # crop: train on windows, evaluate whole images | resize: all to one size
    data.size = 512  # side of the square training window, or of the resized image, pixels
    data.input_range = (
        "symmetric"  # of the pixels that the network sees: symmetric (-1 to 1) | unit
    )
    data.crops_per_image = 1  # how often an epoch sees every training image
    data.augment = ("flip", "quarter_turn")  # training only, in this order
    # w0 of the U-Net paper's weight map (10 there), two classes only; 0: no map. Of the training
    # loss alone: validation and test losses stay unweighted, and comparable.
    data.border_weight = 0.0
    data.border_sigma = 5.0  # of the weight map: how near cells must be, pixels of the file
    data.workers = 0  # processes of each host that read training batches; 0 reads in threads

    # What the transforms that data.augment names draw, each time anew, uniformly unless said. A
    # strength of 0 changes nothing.
    augment = config.augment = ConfigDict()
    augment.rotation_degrees = 15.0  # rotation: up to this many, either way
    augment.shift = 0.1  # shift: share of the window's side, either way along each axis
    augment.scale = 0.2  # scale: a factor in [1 / (1 + scale), 1 + scale], its logarithm uniform
    augment.shear = 0.1  # shear: pixels along one axis for each along the other, either way, both
    # elastic: standard deviation of the displacements on a grid of so many points each way over
    # the window, pixels; both as in the U-Net paper.
    augment.elastic_pixels = 10.0
    augment.elastic_grid = 3
    augment.brightness = 0.2  # brightness: share of the range added, either way
    augment.contrast = 0.2  # contrast: a factor in 1 +- contrast about the image's mean
    augment.gamma = 0.2  # gamma: an exponent in [1 / (1 + gamma), 1 + gamma], logarithm uniform
    augment.hue = 0.1  # hue (RGB only): share of the colour circle, either way; at most 0.5
    augment.saturation = 0.2  # saturation (RGB only): a factor in 1 +- saturation
    augment.blur = 1.0  # blur: standard deviation of the Gaussian, from 0 to this, pixels
    augment.noise = 0.02  # noise: standard deviation, from 0 to this, share of the range
    augment.randaugment_number = 2  # randaugment: transforms of its list for each image
    augment.randaugment_magnitude = 9.0  # randaugment: of all of them; 0 to 10
    # Pixels that come from outside the image: ignored (the image is mirrored there) | black (of
    # class 0). The latter is only there so that the difference can be measured.
    augment.outside = "ignored"

    model = config.model = ConfigDict()
    model.name = "unet"  # unet | unet2 | segnet
    # Logits a pixel: 1 (sigmoid) for two classes, else their number (softmax); 0: as the data have.
    model.classes = 1
    # Channels of the first level; each level below has twice as many (segnet: up to 8 times).
    model.width = 64
    model.depth = 4  # number of 2x2 poolings
    model.padding = "same"  # same | valid (unet only: the paper's, the input is mirrored)
    model.norm = "batch"  # batch | group | none
    # transpose | nearest | bilinear | bilinear_corners (PyTorch's align_corners); resizing is for
    # unet only, and not bilinear where padding is valid.
    model.upsample = "transpose"
    model.dropout = 0.0  # share of the bottom's activations dropped in training
    model.dtype = "auto"  # of the arithmetic: float32 | bfloat16 | auto (bfloat16 off the CPU)

    loss = config.loss = ConfigDict()
    # bce (one logit) | cross_entropy (more) | dice | focal, or a sum such as bce+dice; auto: one of
    # the first two.
    loss.name = "bce"
    loss.weights = ()  # a factor for each term of the sum; () is 1 for each
    loss.class_weights = ()  # a factor for the pixels of each class; () is 1 for each
    loss.dice_smooth = 1.0  # pixels added to numerator and denominator of the soft Dice; above 0
    loss.focal_gamma = 2.0  # how much less easy pixels count; 0 is the cross-entropy

    optim = config.optim = ConfigDict()
    optim.name = "adam"  # adam | adamw | sgd
    optim.learning_rate = 1e-3  # the highest, after the warm-up
    optim.schedule = "constant"  # constant | cosine (to 0) | step
    optim.step_epochs = 30.0  # schedule=step: epochs between two reductions, after the warm-up
    optim.step_factor = 0.1  # schedule=step: of each reduction
    optim.warmup_epochs = 0.0  # of linear rise from 0, within num_epochs
    optim.momentum = 0.9  # sgd
    optim.weight_decay = 0.0  # not on norms and biases; decoupled for adamw, else L2
    optim.ema_decay = 0.0  # of the average of the weights that is evaluated instead; 0 has none
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
