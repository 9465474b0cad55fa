"""Chooses the fields that a config leaves open, from the data, the devices and the time there is.

A field is open if its value is None, as in `configs/folder.py:auto`. The plan is an ordinary config
with values for these fields, each with a reason. In the manner of nnU-Net (Isensee et al. 2021,
https://doi.org/10.1038/s41592-020-01008-z): rules for what depends on the data, and measured steps
for what depends on the device.
"""

import math
import time
from typing import Any, NamedTuple

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
WINDOWS = (128, 256)  # sides of windows, pixels; the smaller ones only if there is little time
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
LEAST_STEPS, MOST_STEPS = 3000, 10_000  # a larger step needs the least; longer runs gain little
TRAINING_SHARE = 0.85  # of the time; the rest is for compilation, checkpoints and reports
FEW_STEPS = 200  # fewer are named as too few
VALIDATIONS = 20
VALIDATION_SHARE = 0.2  # of the training time, at most
FORWARD_SHARE = 1 / 3  # of a training step
SECONDS_PER_MEGAPIXEL = 0.1  # of metrics


class Step(NamedTuple):
    """The fields that are chosen together, by the time that a training step takes."""

    size: int  # side of what the network sees, pixels
    crops: int  # windows taken from each image per epoch
    batch_size: int
    width: int

    @property
    def cost(self) -> int:
        """Arithmetic of the step, roughly and without a unit."""
        return self.batch_size * self.size**2 * self.width


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
    pace = plan_step(choices, found, dataset, mesh, seconds)
    plan_length(choices, dataset, pace, seconds - (time.perf_counter() - start))
    check(choices.config)
    return choices.config


def plan_input(choices: Choices, found: Fingerprint, dataset: Dataset) -> None:
    """Chooses whole images or windows, the size of images, depth, augmentation, and foreground."""
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
    share = 1 - found.shares[0]
    rare = data.fit == "crop" and share < RARE
    reason = f"{share:.1%} of the training pixels are foreground" + ", which is rare" * rare
    choices.choose("data.foreground", FOREGROUND if rare else 0.0, reason)
    size, *larger = sides(choices, found)
    depth = max(1, min(DEEPEST, int(math.log2(max(size / LEAST_BOTTOM, 2)))))
    reason = f"{size} pixels become {math.ceil(size / 2**depth)} at the bottom"
    if larger:
        reason += ", those of larger windows more"
    choices.choose("model.depth", depth, reason)
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


def sides(choices: Choices, found: Fingerprint) -> list[int]:
    """Returns the possible sides of what the network sees, in pixels, in ascending order."""
    if not choices.is_open("data.size"):
        return [choices.config.data.size]
    largest = min(WINDOWS[-1], -(-min(found.height, found.width) // 32) * 32)
    return [side for side in WINDOWS if 2 * side <= largest] + [largest]


def batch_sizes(choices: Choices, side: int, windows: int, unit: int) -> list[int]:
    """Returns the batch sizes to choose from, in ascending order.

    The largest has about `STEP_PIXELS` pixels, if there are as many in an epoch.

    Args:
      choices: the choices so far.
      side: of what the network sees, pixels.
      windows: their number in an epoch.
      unit: number that divides every batch size.
    """
    if not choices.is_open("batch_size"):
        return [choices.config.batch_size]
    smallest, largest = (-(-size // unit) * unit for size in BATCH_SIZES)
    wanted = min(STEP_PIXELS // side**2, windows) // unit * unit
    sizes = [min(max(wanted, smallest), largest)]
    while sizes[0] > smallest:
        sizes.insert(0, max(sizes[0] // 2 // unit * unit, smallest))
    return sizes


def possible_steps(
    choices: Choices, found: Fingerprint, dataset: Dataset, mesh: Mesh
) -> list[Step]:
    """Returns the steps to choose from, each with more arithmetic than the one before.

    Batch and windows grow before the network does. With windows both begin small: if there is
    little time, many steps teach more than large ones. For whole images only the largest batch
    that fits into the memory is possible. If the largest batch does not fit, that is printed.
    """
    config, steps = choices.config, list[Step]()
    unit = mesh.size * config.optim.accumulate
    widths = WIDTHS if choices.is_open("model.width") else (config.model.width,)
    for side in reversed(sides(choices, found)):
        crops = config.data.crops_per_image
        if choices.is_open("data.crops_per_image"):
            crops = max(1, round(found.height * found.width / side**2))
        windows = len(dataset.splits["train"]) * crops
        for size in reversed(batch_sizes(choices, side, windows, unit)):
            step = Step(side, crops, size, widths[0])
            if not steps or step.cost < steps[0].cost:
                steps.insert(0, step)

    def has_memory(step: Step) -> bool:
        draft = _draft(config, dataset, step)
        return fits(draft, step.batch_size, dataset.channels, mesh)

    devices.check_batch_size(steps[-1].batch_size, mesh, config.optim.accumulate)
    if choices.is_open("batch_size") or len(steps) > 1:
        fitting = [step for step in steps if has_memory(step)]
        if steps[-1] not in fitting:
            side, where = steps[-1].size, devices.describe(mesh)
            wanted = f"batch_size={steps[-1].batch_size} with {side}x{side} pixels"
            say(f"plan         {wanted} would not fit into the memory of {where}")
        steps = fitting or [steps[0]._replace(batch_size=config.batch_size or unit)]
        if config.data.fit == "resize":
            steps = steps[-1:]
    wider = [steps[-1]._replace(width=width) for width in widths[1:]]
    return steps + [step for step in wider if has_memory(step)]


def plan_step(
    choices: Choices, found: Fingerprint, dataset: Dataset, mesh: Mesh, seconds: float
) -> float:
    """Chooses the windows' size, the batch size and the width by what a step takes.

    Takes the step with the most arithmetic of which the measured time allows `LEAST_STEPS`, or else
    that with the least. A step is measured only if the time of a smaller one promises as much.

    Args:
      choices: the choices so far.
      found: the fingerprint of the training images.
      dataset: the data set.
      mesh: this host's devices.
      seconds: time for the training.

    Returns:
      Seconds per step.
    """

    def timed(step: Step) -> float:
        return seconds_per_step(_draft(choices.config, dataset, step), dataset, mesh)

    step, *larger = steps = possible_steps(choices, found, dataset, mesh)
    say("plan         a few training steps are timed, which takes up to a minute")
    pace = timed(step)
    # A step takes about as many times as long as it has more arithmetic. Those that would be too
    # slow are not timed, and of the others the largest first.
    while affordable := [x for x in larger if x.cost / step.cost * pace * LEAST_STEPS <= seconds]:
        tried = affordable[-1]
        slower = timed(tried)
        if slower * LEAST_STEPS <= seconds:
            step, pace, larger = tried, slower, larger[larger.index(tried) + 1 :]
        else:
            larger = larger[: larger.index(tried)]
    if pace * LEAST_STEPS > seconds:
        reason = f"the narrowest of {WIDTHS}, because there is little time"
    elif any(x.cost > step.cost and x.width == step.width for x in steps):
        reason = "windows and batches grow before the network does"
    else:
        reason = f"the widest of {WIDTHS} that could take {LEAST_STEPS} steps"
    _choose_step(choices, found, mesh, step, steps, f"{pace:.3g} s a step; {reason}")
    return pace


def _choose_step(
    choices: Choices, found: Fingerprint, mesh: Mesh, step: Step, steps: list[Step], why_width: str
) -> None:
    """Sets the fields of `step`, one of `steps`, with their reasons; `why_width` is the width's."""
    too_slow = f"could not take {LEAST_STEPS} steps"
    reason = f"windows cut from the images of {found.height}x{found.width}"
    if step.size < steps[-1].size:
        reason += f"; larger ones {too_slow}"
    choices.choose("data.size", step.size, reason)
    choices.choose("data.crops_per_image", step.crops, "as many pixels as an image has")
    reason = f"{step.batch_size} x {step.size}x{step.size} pixels on {devices.describe(mesh)}"
    larger = [x.batch_size for x in steps if x.size == step.size and x.batch_size > step.batch_size]
    if larger:
        reason += f"; {larger[0]} {too_slow}"
    choices.choose("batch_size", step.batch_size, reason)
    choices.choose("model.width", step.width, why_width)


def _draft(config: ConfigDict, dataset: Dataset, step: Step) -> ConfigDict:
    """Returns a resolved config with this step, and any values for what changes no step."""
    choices = Choices(config)
    choices.choose("data.size", step.size)
    choices.choose("data.crops_per_image", step.crops)
    choices.choose("batch_size", step.batch_size)
    choices.choose("model.width", step.width)
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
