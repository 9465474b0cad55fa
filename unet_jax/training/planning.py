"""Chooses the fields that a config leaves open, from the data, the devices and the time there is.

A field is open if its value is None, as in `configs/folder.py:auto`. The plan is an ordinary config
with values for these fields, each with a reason. In the manner of nnU-Net (Isensee et al. 2021,
https://doi.org/10.1038/s41592-020-01008-z): rules for what depends on the data, and measured steps
for what depends on the device.
"""

import math
import time
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from unet_jax import is_binary
from unet_jax.core.errors import UserError
from unet_jax.core.streams import say
from unet_jax.data.dataset import RGB, Dataset
from unet_jax.data.fingerprint import Fingerprint, fingerprint
from unet_jax.data.fit import Fit
from unet_jax.distributed import devices, hosts
from unet_jax.runs.experiment import check, resolve, resolve_intensities
from unet_jax.runs.threshold import UNDECIDED
from unet_jax.training.capacity import fits
from unet_jax.training.pace import seconds_per_step
from unet_jax.training.plan import make_plan

DEVICES_OF = 4  # a CPU is split into devices for a batch of this size, before one is chosen
SIDES = (128, 256, 512)  # of resized images, pixels
WINDOW = 256  # side of a window, pixels
SMALL = 256  # images up to this side, pixels, stay as large as they are (squares, if resized)
LEAST_SIDE = 16  # of what the network sees, pixels
LEAST_WIDTH = 16.0  # of the thinnest class's objects in a resized image, pixels
DEEPEST = 4  # poolings
LEAST_BOTTOM = 8  # side of a window after all poolings, pixels
STEP_PIXELS = 2**18  # of a batch
BATCH_SIZES = (2, 16)  # the smallest and the largest
RARE, FEW = 0.05, 0.2  # shares of the foreground
FOREGROUND = 0.33  # share of windows that contain rare foreground
WIDTHS = (16, 32, 64)
LEAST_STEPS, MOST_STEPS = 3000, 10_000  # a wider network needs the least; longer runs gain little
TRAINING_SHARE = 0.85  # of the time; the rest is for compilation, checkpoints and reports
FEW_STEPS = 200  # fewer are named as too few
VALIDATIONS = 20
VALIDATION_SHARE = 0.2  # of the training time, at most
FORWARD_SHARE = 1 / 3  # of a training step
SECONDS_PER_MEGAPIXEL = 0.1  # of metrics


class Choices:
    """A config whose open fields are chosen one after the other; `config` has those so far."""

    def __init__(self, config: ConfigDict):
        self.config = config.copy_and_resolve_references()

    def is_open(self, name: str) -> bool:
        """Returns whether a field has no value yet."""
        section, _, key = name.rpartition(".")
        return (self.config[section] if section else self.config)[key] is None

    def choose(self, name: str, value: Any, reason: str = "") -> None:
        """Sets a field, unless the config states it, and prints the reason if there is one."""
        if self.is_open(name):
            section, _, key = name.rpartition(".")
            group = self.config[section] if section else self.config
            with group.unlocked():
                group[key] = value
            if reason:
                say(f"plan         {name}={value}: {reason}")


def plan(config: ConfigDict, dataset: Dataset) -> ConfigDict:
    """Chooses the open fields of a config, and prints a line for each with its reason.

    Args:
      config: a config with open fields; it is not changed.
      dataset: its data set.

    Returns:
      The config with all fields.

    Raises:
      UserError: this run is on several hosts, or an open field is none that can be chosen.
    """
    if hosts.count() > 1:
        raise UserError(
            "a plan needs a single host: train for a minute on one, and give the fields of its "
            "config.json on the command line"
        )
    start, mesh, choices = time.perf_counter(), devices.local_mesh(), Choices(config)
    found = fingerprint(dataset.splits["train"], len(dataset.classes))
    plan_input(choices, found, dataset)
    plan_loss(choices, found, dataset.classes)
    plan_threshold(choices, dataset)
    seconds = 60 * choices.config.plan.minutes * TRAINING_SHARE
    pace = plan_step(choices, dataset, mesh, seconds)
    plan_length(choices, dataset, pace, seconds - (time.perf_counter() - start))
    check(choices.config)
    return choices.config


def plan_input(choices: Choices, found: Fingerprint, dataset: Dataset) -> None:
    """Chooses whole images or windows, their size, depth, augmentation, and foreground."""
    data, longest = choices.config.data, max(found.height, found.width)
    thinnest = min(range(len(found.widths)), key=found.widths.__getitem__)
    width, name = found.widths[thinnest], dataset.classes[thinnest]
    sizes = f"{found.height}x{found.width}"
    if longest <= SMALL:
        whole, reason = max(longest, LEAST_SIDE), f"images of {sizes} are small"
    else:
        enough = [side for side in SIDES if width * side / longest >= LEAST_WIDTH]
        whole = enough[0] if enough else 0
        reason = f"{name}, the thinnest class, is about {width:.0f} pixels wide in {sizes}"
    if whole and longest > SMALL:
        reason += f", and still {width * whole / longest:.0f} when resized to {whole}x{whole}"
    elif not whole:
        reason += f", which resizing to {SIDES[-1]}x{SIDES[-1]} would make too thin"
    choices.choose("data.fit", "resize" if whole else "crop", reason)
    if data.fit == "resize":
        choices.choose("data.size", whole or SIDES[-1], "whole images")
        choices.choose("data.crops_per_image", 1, "whole images")
    else:
        side = min(WINDOW, -(-min(found.height, found.width) // 32) * 32)
        choices.choose("data.size", side, f"windows cut from the images of {sizes}")
        crops = max(1, round(found.height * found.width / data.size**2))
        choices.choose("data.crops_per_image", crops, "as many pixels as an image has")
    share = 1 - found.shares[0]
    rare = data.fit == "crop" and share < RARE
    reason = f"{share:.1%} of the training pixels are foreground" + ", which is rare" * rare
    choices.choose("data.foreground", FOREGROUND if rare else 0.0, reason)
    depth = max(1, min(DEEPEST, int(math.log2(max(data.size / LEAST_BOTTOM, 2)))))
    bottom = math.ceil(data.size / 2**depth)
    choices.choose("model.depth", depth, f"{data.size} pixels become {bottom} at the bottom")
    augment, reason = ("flip", "quarter_turn"), "any orientation is plausible"
    if data.fit == "resize" or width >= LEAST_WIDTH:
        augment += ("rotation", "scale")
    else:
        reason += f"; rotation and scaling would blur {name}"
    augment += ("brightness", "contrast", "gamma")
    if dataset.channel_names == RGB:
        augment += ("hue", "saturation")
        reason += "; the images have colours"
    choices.choose("data.augment", augment, reason)


def plan_loss(choices: Choices, found: Fingerprint, classes: tuple[str, ...]) -> None:
    """Chooses the loss: with the Dice loss for a class that has few pixels."""
    base = "bce" if is_binary(len(classes)) else "cross_entropy"
    least = min(range(1, len(classes)), key=found.shares.__getitem__)
    share = found.shares[least]
    reason = f"{classes[least]} has {share:.1%} of the pixels"
    few = share < (FEW if is_binary(len(classes)) else RARE)
    choices.choose("loss.name", f"{base}+dice" if few else base, reason)


def plan_threshold(choices: Choices, dataset: Dataset) -> None:
    """Chooses the threshold between two classes: it is left to validation, if there is one."""
    if not is_binary(len(dataset.classes)):
        choices.choose("eval.threshold", UNDECIDED)  # unused
    elif len(dataset.splits["validation"]):
        choices.choose("eval.threshold", 0.0, "validation will choose the one with the best Dice")
    else:
        choices.choose("eval.threshold", UNDECIDED, "no validation images to choose it on")


def batch_sizes(choices: Choices, dataset: Dataset, mesh: Mesh) -> list[int]:
    """Returns the batch sizes to choose from, rising.

    The largest has about `STEP_PIXELS` pixels, if there are as many in an epoch; it is smaller if
    it would not fit into the memory, which is printed. Windows begin with the smallest: if there
    is little time, many steps teach more than large batches.
    """
    config = choices.config
    if not choices.is_open("batch_size"):
        return [config.batch_size]
    width = WIDTHS[0] if choices.is_open("model.width") else config.model.width
    unit = mesh.size * config.optim.accumulate
    smallest, largest = (-(-size // unit) * unit for size in BATCH_SIZES)
    windows = len(dataset.splits["train"]) * config.data.crops_per_image
    wanted = min(STEP_PIXELS // config.data.size**2, windows) // unit * unit
    wanted = size = min(max(wanted, smallest), largest)
    draft = _draft(config, dataset, size, width)
    while size > unit and not fits(draft, size, dataset.channels, mesh):
        size = max(size // 2 // unit, 1) * unit
    if size < wanted:
        where = devices.describe(mesh)
        say(f"plan         batch_size={wanted} would not fit into the memory of {where}")
    if config.data.fit == "resize" or size <= smallest:
        return [size]
    sizes = [smallest]
    while 2 * sizes[-1] < size:
        sizes.append(2 * sizes[-1])
    return [*sizes, size]


def plan_step(choices: Choices, dataset: Dataset, mesh: Mesh, seconds: float) -> float:
    """Chooses batch size and width by what a step takes: the largest with `LEAST_STEPS` steps.

    The batch grows before the network does.

    Args:
      choices: the choices so far.
      dataset: the data set.
      mesh: this host's devices.
      seconds: time for the training.

    Returns:
      Seconds per step.
    """
    sizes = batch_sizes(choices, dataset, mesh)
    devices.check_batch_size(sizes[-1], mesh, choices.config.optim.accumulate)
    widths = WIDTHS if choices.is_open("model.width") else (choices.config.model.width,)
    steps = [(size, widths[0]) for size in sizes] + [(sizes[-1], width) for width in widths[1:]]
    say("plan         a few training steps are timed, which takes up to a minute")
    size, width = steps[0]
    pace = seconds_per_step(_draft(choices.config, dataset, size, width), dataset, mesh)
    for larger, wider in steps[1:]:
        draft = _draft(choices.config, dataset, larger, wider)
        # A step takes about as many times as long. One that would be too slow is not timed.
        possible = larger * wider / (size * width) * pace * LEAST_STEPS <= seconds
        if not possible or not fits(draft, larger, dataset.channels, mesh):
            break
        slower = seconds_per_step(draft, dataset, mesh)
        if slower * LEAST_STEPS > seconds:
            break
        size, width, pace = larger, wider, slower
    reason = f"{size} x {choices.config.data.size}x{choices.config.data.size} pixels on "
    reason += devices.describe(mesh)
    if size < sizes[-1]:
        reason += f"; {sizes[-1]} could not take {LEAST_STEPS} steps"
    choices.choose("batch_size", size, reason)
    reason = f"{pace:.3g} s a step; the widest of {WIDTHS} that could take {LEAST_STEPS} steps"
    if pace * LEAST_STEPS > seconds:
        reason = f"{pace:.3g} s a step; the narrowest of {WIDTHS}, because there is little time"
    choices.choose("model.width", width, reason)
    return pace


def _draft(config: ConfigDict, dataset: Dataset, batch_size: int, width: int) -> ConfigDict:
    """Returns a resolved config of this size, with any values for what changes no step."""
    choices = Choices(config)
    choices.choose("batch_size", batch_size)
    choices.choose("model.width", width)
    for name in ("num_epochs", "eval.every_epochs", "checkpoint.every_epochs"):
        choices.choose(name, 1)
    config, _ = resolve_intensities(resolve(choices.config, dataset.classes), dataset)
    return config


def plan_length(choices: Choices, dataset: Dataset, pace: float, seconds: float) -> None:
    """Chooses the number of epochs and how often to validate.

    Args:
      choices: the choices, with all fields but these.
      dataset: the data set.
      pace: seconds per training step.
      seconds: time for training and validation.
    """
    config = choices.config
    validation = dataset.splits["validation"]
    shapes = Fit.of(config.data).shapes(validation.sizes)
    seen = sum(math.prod(shapes[size]) for size in validation.sizes)
    images = seen / (config.batch_size * config.data.size**2)
    megapixels = sum(math.prod(size) for size in validation.sizes) / 1e6
    once = images * pace * FORWARD_SHARE + megapixels * SECONDS_PER_MEGAPIXEL
    times = VALIDATIONS
    if once:
        times = max(1, min(times, int(VALIDATION_SHARE * max(seconds, 0) / once)))
    available = int(max(seconds - times * once, 0) / pace)
    per_epoch = make_plan(config, len(dataset.splits["train"])).steps_per_epoch
    epochs = max(1, min(available, MOST_STEPS) // per_epoch)
    reason = (
        f"{epochs * per_epoch} steps at {pace:.3g} s; the run may take about "
        f"{config.plan.minutes:g} min"
    )
    if available > MOST_STEPS:
        reason = f"{epochs * per_epoch} steps at {pace:.3g} s; more would gain little"
    if epochs * per_epoch < FEW_STEPS:
        reason += "; so few steps teach a network little: raise plan.minutes"
    choices.choose("num_epochs", epochs, reason)
    every = max(1, config.num_epochs // times)
    count = -(-config.num_epochs // every)
    choices.choose("eval.every_epochs", every, f"{count} validation{'s' * (count != 1)}")
    every = config.eval.every_epochs
    choices.choose("checkpoint.every_epochs", every, "with each validation")
