"""Checks that an experiment fits into device memory, before anything is allocated."""

from jax.sharding import Mesh
from ml_collections import ConfigDict

from unet_jax import models
from unet_jax.core.errors import UserError
from unet_jax.data.dataset import PARTS, Dataset
from unet_jax.data.fit import Fit
from unet_jax.distributed import devices, hosts, memory
from unet_jax.models.size import GIB, PARAMETER_BYTES, Size, measure

REAL_STEP = 3  # the most times the lower bound of its memory that a real step takes
TRAINING_COPIES = 3  # arrays of the parameters' size: parameters, gradient, optimizer momentum


def check_fits(config: ConfigDict, dataset: Dataset, mesh: Mesh, *, training: bool) -> None:
    """Checks a lower bound of the memory that an experiment needs on this host's devices.

    The bound counts only what every step needs: the parameters, in training also their gradient
    and the momentum, and the outputs of the convolutions (all of them for a gradient, the largest
    for a forward pass). Real steps take two to three times as much. The check therefore never
    refuses an experiment that could run, but accepts some that run out of memory.

    Args:
      config: the experiment.
      dataset: gives the channels and the sizes of the images.
      mesh: this host's devices.
      training: also checks a training step; evaluation is always checked.

    Raises:
      UserError: the lower bound is above the devices' memory.
    """
    fields = f"model.width={config.model.width}, model.depth={config.model.depth}"
    available, side = memory.memory_bytes(mesh), config.data.size
    size = _measured(config, dataset.channels)
    state = mesh.size * PARAMETER_BYTES * size.parameters
    if training:
        accumulate = config.optim.accumulate
        images = config.batch_size // (hosts.count() * accumulate)
        # With rematerialisation a gradient needs no more of them together than those of a level.
        activations = size.largest if config.model.remat else size.activations
        needed = _training_bytes(size.parameters, images * activations, mesh)
        micro = f", optim.accumulate={accumulate}" if accumulate > 1 else ""
        task = f"data.size={side}, batch_size={config.batch_size}{micro}: a training step"
        advice = (
            "lower batch_size, data.size, model.width or model.depth, raise optim.accumulate, or "
            "set model.remat"
        )
        _check(needed, available, size.parameters, f"{fields}, {task}", advice)
    shapes = [
        shape
        for part in (PARTS if training else dataset.splits)
        if part != "train"
        for shape in Fit.of(config.data).shapes(dataset.splits[part].sizes).values()
    ]
    pixels = max((height * width for height, width in shapes), default=0)
    images = -(-config.eval.batch_size // devices.device_count(mesh)) * mesh.size
    needed = state + images * size.largest * pixels // side**2
    task = f"eval.batch_size={config.eval.batch_size}: images of {pixels:,} pixels"
    _check(needed, available, size.parameters, f"{fields}, {task}", "lower eval.batch_size")


def fits(config: ConfigDict, batch_size: int, channels: int, mesh: Mesh) -> bool:
    """Returns whether a training step of this host is sure to fit into its devices' memory.

    Args:
      config: the experiment; its batch size is ignored.
      batch_size: images per step on this host.
      channels: channels of the images.
      mesh: this host's devices.
    """
    images = batch_size // config.optim.accumulate
    size = _measured(config, channels)
    needed = _training_bytes(size.parameters, images * size.activations, mesh)
    return REAL_STEP * needed <= memory.memory_bytes(mesh)


def _measured(config: ConfigDict, channels: int) -> Size:
    dtype = models.build(**config.model).dtype.name
    # The CPU form of the layers is used: it is the plain one and has the same size.
    model = models.build(**{**config.model, "dtype": dtype}, platform="cpu")
    return measure(model, channels, config.data.size)


def _training_bytes(parameters: int, activations: int, mesh: Mesh) -> int:
    """Returns a lower bound of the memory of a training step, bytes."""
    return TRAINING_COPIES * mesh.size * PARAMETER_BYTES * parameters + activations


def _check(needed: int, available: int, parameters: int, what: str, advice: str) -> None:
    if needed > available:
        raise UserError(
            f"{what} takes at least {needed / GIB:.3g} GiB ({parameters:.3g} parameters), but this "
            f"host's devices have {available / GIB:.3g} GiB; {advice}"
        )
