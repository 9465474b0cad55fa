"""Every common field of an experiment, once, with meaning, unit and range. Other configs override.

A data set, a network or a loss term may declare further fields where it is registered.
"""

from ml_collections import ConfigDict

from unet_jax.core.errors import UserError
from unet_jax.core.fields import Field, add_defaults

FIELDS = {
    "name": Field("base"),  # name of the experiment and of its default folder, runs/NAME
    # Seeds the initial weights, shuffling, augmentation and dropout.
    "seed": Field(0, "[0, 4294967295]"),
    "batch_size": Field(4, "[1, 1000000]"),  # images per step, over all devices of all hosts
    "num_epochs": Field(100, "[1, 1000000]"),  # passes over the training images
    # Number of JAX devices that a CPU is split into; they share a batch. 0: the number with which
    # the run began, or for a new run the largest divisor of batch_size (in --mode=eval,
    # eval.batch_size) that is at most the number of usable cores. Without effect on several hosts.
    "cpu_devices": Field(0, "[0, 1024]"),
    # Minutes that a run may take, by which unet_jax/training/planning.py chooses the fields without
    # a value (None), as in configs/folder.py:auto. Without effect if all fields have values.
    "plan.minutes": Field(30.0, "(0, 1e6]"),
    "data.name": Field("isbi"),  # a name registered in unet_jax/data/sources
    "data.root": Field("data/isbi"),  # folder of the data set
    # Download or generate what is missing in data.root, if the data set supports it; not in
    # --mode=eval.
    "data.download": Field(False),
    # Numbers of training, validation and test images, or their shares if all are floats. Data sets
    # with a test list take only the first two. () trains and tests on all images.
    "data.split": Field((24, 3, 3), "[0, 1e9]"),
    "data.split_seed": Field(0, "[0, 4294967295]"),  # seeds the permutation that splits the images
    # Fold of a cross-validation: with split (24, 0, 6) of 30 images, folds 0 to 4 test each image
    # once. For data sets with a test list the validation images rotate instead.
    "data.fold": Field(0, "[0, 1000000]"),
    # crop: train on windows, evaluate whole images | resize: resize every image to data.size.
    "data.fit": Field("crop"),
    # Side of the square training window, or of the resized image, in pixels.
    "data.size": Field(512, "[1, 32768]"),
    # Which stored values become the ends of the input range: range (those of the files' type) |
    # limits (data.limits) | percentile (0.5 and 99.5 of each channel of the training images);
    # values beyond them are clipped. zscore: each channel of the training images gets mean 0 and
    # standard deviation 1, and data.input_range has no effect. auto: what the weights expect if
    # model.pretrained names some; otherwise range for integers of 8 bits, else percentile.
    "data.normalize": Field("range"),
    # Lowest and highest stored value, for all channels or for each (low, high, low, high, ...).
    # () computes them from the training images; the run records what it computed.
    "data.limits": Field((), "[-1e38, 1e38]"),
    # normalize=zscore: mean and standard deviation of the stored values, for all channels or for
    # each; () computes them from the training images; the run records what it computed.
    "data.mean": Field((), "[-1e38, 1e38]"),
    "data.std": Field((), "(0, 1e38]"),
    # Type of the stored values to which limits, mean and std apply, such as uint16; "": that of the
    # training images, which the run records.
    "data.dtype": Field(""),
    # Range of the pixel values that the network receives: symmetric (-1 to 1) | unit (0 to 1).
    "data.input_range": Field("symmetric"),
    # Number of training windows taken from each image per epoch.
    "data.crops_per_image": Field(1, "[1, 1000000]"),
    # Share of the training windows that contain foreground, a class other than class 0, before
    # rotation and the like; the others, and those of images without foreground, are anywhere. For
    # rare foreground, with fit=crop; 0: all windows are anywhere.
    "data.foreground": Field(0.0, "[0, 1]"),
    "data.augment": Field(("flip", "quarter_turn")),  # transforms of training images, in order
    # w0 of the U-Net paper's weight map (10 in the paper), for two classes; 0 disables the map. It
    # weights the training loss only, so that validation and test losses stay comparable.
    "data.border_weight": Field(0.0, "[0, 1e6]"),
    # sigma of the weight map in pixels of the file: the distance at which its border term decays.
    "data.border_sigma": Field(5.0, "(0, 1e4]"),
    # Reader processes per host for training batches; 0 reads in threads.
    "data.workers": Field(0, "[0, 256]"),
    # Strengths of the transforms in data.augment, drawn anew for every example, uniformly unless
    # stated otherwise. A strength of 0 disables a transform.
    #
    # rotation: largest angle in either direction.
    "augment.rotation_degrees": Field(15.0, "[0, 180]"),
    # shift: largest share of the window's side, in either direction along each axis.
    "augment.shift": Field(0.1, "[0, 1]"),
    # scale: factor in [1 / (1 + scale), 1 + scale], log-uniform.
    "augment.scale": Field(0.2, "[0, 3]"),
    # shear: largest shear of each axis along the other, in pixels per pixel, in either direction.
    "augment.shear": Field(0.1, "[0, 0.9]"),
    # elastic: standard deviation of the displacements in pixels, on a grid of elastic_grid x
    # elastic_grid points over the window; both as in the U-Net paper.
    "augment.elastic_pixels": Field(10.0, "[0, 1000]"),
    "augment.elastic_grid": Field(3, "[2, 100]"),
    "augment.brightness": Field(0.2, "[0, 1]"),  # brightness: largest change, share of the range
    # contrast: factor in [1 - contrast, 1 + contrast] about the image's mean.
    "augment.contrast": Field(0.2, "[0, 1]"),
    # gamma: exponent in [1 / (1 + gamma), 1 + gamma], log-uniform.
    "augment.gamma": Field(0.2, "[0, 9]"),
    # hue (RGB only): largest change in either direction, share of the colour circle.
    "augment.hue": Field(0.1, "[0, 0.5]"),
    # saturation (RGB only): factor in [1 - saturation, 1 + saturation].
    "augment.saturation": Field(0.2, "[0, 1]"),
    # blur: largest standard deviation of the Gaussian, in pixels.
    "augment.blur": Field(1.0, "[0, 100]"),
    # noise: largest standard deviation, share of the range.
    "augment.noise": Field(0.02, "[0, 1]"),
    # randaugment: number of transforms per image.
    "augment.randaugment_number": Field(2, "[0, 100]"),
    "augment.randaugment_magnitude": Field(9.0, "[0, 10]"),  # randaugment: magnitude of all of them
    # Pixels that come from outside the image: ignored (mirrored image, label 255) | black (class 0;
    # only to measure the difference).
    "augment.outside": Field("ignored"),
    "model.name": Field("unet"),  # a name registered in unet_jax/models
    # Logits per pixel: 1 (sigmoid, two classes) or the number of classes (softmax); 0: as the data.
    "model.classes": Field(1, "[0, 254]"),
    # Channels of the first level; they double at each level (segnet: up to 8 times).
    "model.width": Field(64, "[1, 16384]"),
    "model.depth": Field(4, "[1, 15]"),  # number of 2x2 poolings
    # same | valid (unpadded, as in the paper; unet and attention_unet only)
    "model.padding": Field("same"),
    "model.norm": Field("batch"),  # batch | group | none
    # transpose | nearest | bilinear | bilinear_corners (PyTorch's align_corners). All but transpose
    # are for unet, attention_unet and residual_unet only; the bilinear ones need padding=same.
    "model.upsample": Field("transpose"),
    "model.dropout": Field(0.0, "[0, 1)"),  # dropout rate at the bottleneck in training
    # Whether training also computes the loss of the decoder's lower levels, see docs/losses.md. Not
    # for segnet, unet_plus_plus and smp_unet; needs padding=same.
    "model.deep_supervision": Field(False),
    # Rematerialisation: the gradient recomputes the activations of each level (smp_unet: of each
    # block) instead of keeping them, which saves memory and takes longer; see docs/training.md.
    "model.remat": Field(False),
    # Arithmetic of the layers: float32 | bfloat16 | auto (float32 on CPU, else bfloat16; the run
    # records what it resolved to). Parameters, statistics, logits and losses are float32.
    "model.dtype": Field("auto"),
    # A loss of docs/losses.md, or a sum such as bce+dice; auto: bce for one logit, cross_entropy
    # for more.
    "loss.name": Field("bce"),
    "loss.weights": Field((), "[0, 1e9]"),  # factor of each term of the sum; () is 1 for each
    # Factor of the pixels of each class; () is 1 for each.
    "loss.class_weights": Field((), "[0, 1e9]"),
    # Pixels added to the numerator and the denominator of the soft Dice, the Tversky index, and the
    # precision and sensitivity of soft clDice.
    "loss.dice_smooth": Field(1.0, "[1e-8, 1e9]"),
    # Focusing parameter gamma of the focal loss; 0 is the cross-entropy.
    "loss.focal_gamma": Field(2.0, "[0, 100]"),
    # Weights of false positives and false negatives in the Tversky index; 0.5 for both is Dice.
    "loss.tversky_alpha": Field(0.3, "(0, 1]"),
    "loss.tversky_beta": Field(0.7, "(0, 1]"),
    # The power of the focal Tversky loss is 1 / gamma; 1 is the Tversky loss.
    "loss.focal_tversky_gamma": Field(4 / 3, "[1, 10]"),
    # Erosions of the soft skeleton of clDice. Structures with a half-width of more pixels get no
    # centreline; more erosions than needed cost only time.
    "loss.cldice_iterations": Field(10, "[1, 100]"),
    # Weight that the boundary loss adds to 1 for pixels near a border; 0 is the cross-entropy.
    "loss.boundary_weight": Field(5.0, "[0, 1e6]"),
    # Distance from another class up to which a pixel is near a border, pixels of the window: the
    # larger of its components along rows and columns.
    "loss.boundary_pixels": Field(2, "[1, 100]"),
    # Share of a pixel's label that bce and cross_entropy spread evenly over all classes, also in
    # evaluation; 0 disables label smoothing.
    "loss.label_smoothing": Field(0.0, "[0, 1)"),
    "optim.name": Field("adam"),  # adam | adamw | sgd
    # Peak learning rate, after the warm-up; 0 trains nothing but the statistics of BatchNorm.
    "optim.learning_rate": Field(1e-3, "[0, 1e6]"),
    "optim.schedule": Field("constant"),  # constant | cosine (to 0) | step
    # schedule=step: epochs between two reductions, counted from the end of the warm-up.
    "optim.step_epochs": Field(30.0, "(0, 1e6]"),
    "optim.step_factor": Field(0.1, "(0, 1e3]"),  # schedule=step: factor of each reduction
    "optim.warmup_epochs": Field(0.0, "[0, 1e6]"),  # linear warm-up from 0, within num_epochs
    "optim.momentum": Field(0.9, "[0, 1)"),  # momentum of sgd
    # Weight decay of all but norms and biases; decoupled for adamw, an L2 penalty otherwise.
    "optim.weight_decay": Field(0.0, "[0, 1e3]"),
    # EMA decay per step; the EMA of the weights is evaluated and saved; 0 disables it.
    "optim.ema_decay": Field(0.0, "[0, 1)"),
    # Gradient accumulation: number of micro-batches, computed one after the other, into which each
    # device's part of a batch is divided to save memory; batch_size remains the images per step.
    # See docs/training.md.
    "optim.accumulate": Field(1, "[1, 1000000]"),
    # Largest global norm of the gradient; 0 disables clipping.
    "optim.clip_norm": Field(0.0, "[0, 1e9]"),
    # Factor of the learning rate for the parameters of the encoder.
    "optim.encoder_rate": Field(1.0, "[0, 1000]"),
    # Epochs at the start in which the parameters of the encoder are not trained; 0 trains them
    # from the first step.
    "optim.frozen_epochs": Field(0.0, "[0, 1e6]"),
    # BatchNorm layers that use their running statistics in training, too, and do not update them:
    # none | encoder | all. Their scale and bias are trained.
    "optim.frozen_norm": Field("none"),
    # Early stopping: number of validations in a row that do not improve eval.best after which the
    # run ends; 0 disables it. The learning rate still depends on num_epochs.
    "optim.patience": Field(0, "[0, 1000000]"),
    "eval.every_epochs": Field(1, "[1, 1000000]"),  # epochs between two validations
    "eval.batch_size": Field(4, "[1, 1000000]"),  # images per step, over all devices of all hosts
    # Two classes: probability above which a pixel is of the second class; 0: the one with the best
    # Dice on validation.
    "eval.threshold": Field(0.5, "[0, 1)"),
    # Groups of metrics that are computed: boundary, topology and objects besides default.
    "eval.metrics": Field(("default",), entries=str),
    # Tolerance of the normalised surface Dice, pixels: one for all classes, or one for each.
    "eval.nsd_pixels": Field((2.0,), "[0, 1e6]"),
    # Metric whose best value on validation selects the model: loss, or a key of report.json such as
    # dice. The mean over the images counts, or the pooled value where reports quote that.
    "eval.best": Field("loss"),
    # Two classes: metrics for each of which the threshold that is best on validation is chosen,
    # such as ("dice", "iou"); (): dice and, for cells, v_rand. A metric of the groups boundary,
    # topology and objects that is named here is computed at 19 thresholds in each validation.
    "eval.tune": Field((), entries=str),
    # Objects of a mask, for the metrics of the group objects: components (8-connected) | watershed
    # (components divided at their necks; see unet_jax/metrics/partition.py).
    "eval.objects": Field("components"),
    # Objects of fewer pixels are left out of labels and predictions; 0 keeps all.
    "eval.min_object_pixels": Field(0, "[0, 1e9]"),
    "log.every_steps": Field(10, "[1, 1e9]"),  # steps between two lines of the log
    "checkpoint.every_epochs": Field(1, "[1, 1000000]"),  # epochs between two saved states
    # Number of newest checkpoints kept; the best on validation is kept besides.
    "checkpoint.keep": Field(2, "[1, 10000]"),
}


def get_config() -> ConfigDict:
    """Returns the fields with their defaults."""
    return add_defaults(ConfigDict(), FIELDS)


def split_options(options: str, best_recipe: str) -> list[str]:
    """Splits what follows the colon of `--config` into options, in their order.

    Args:
      options: options separated by commas, or "".
      best_recipe: the options that `best` stands for, separated by commas.

    Returns:
      The options, with those of the recipe instead of `best`; of a repeated one the last.

    Raises:
      UserError: `best` is not the first option, so that it would overrule those before it.
    """
    names = options.split(",") if options else []
    if "best" in names[1:]:
        raise UserError(f"--config=...:{options}: give best as the first option")
    if names[:1] == ["best"]:
        names[:1] = best_recipe.split(",")
    return list(reversed(dict.fromkeys(reversed(names))))


def use_pretrained_encoder(config: ConfigDict) -> None:
    """Selects `smp_unet` with EfficientNet-Lite0 and its ImageNet weights."""
    config.model.name = "smp_unet"
    config.model.encoder = config.model.pretrained = "efficientnet_lite0"
    config.model.depth = 5
    config.model.width = 16
    config.model.stride = 1
    config.data.normalize = "auto"  # what the weights expect
