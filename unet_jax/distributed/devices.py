"""All device placement and `jax.pmap`.

Training and evaluation steps are written for one device and its shard of the batch; reductions.py
has the reductions over all devices that they need. State is replicated. A host's part [B, ...] of
a batch is sharded over its own devices as [devices, B / devices, ...]. A mesh has the devices of
one host. Training uses the devices of all hosts (see hosts.py), evaluation those of one.
"""

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import grain
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unet_jax.core import tuning
from unet_jax.core.errors import UserError
from unet_jax.distributed import platform
from unet_jax.distributed.reductions import AXIS, is_mapped

T = TypeVar("T")


def split_cpu(count: int) -> None:
    """Splits the CPU into `count` devices, which share a batch, before JAX starts its devices.

    Nothing happens if the environment or the program has set their number. Other platforms are
    not affected.
    """
    set_by_user = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not set_by_user and jax.config.values["jax_num_cpu_devices"] < 0:
        jax.config.update("jax_num_cpu_devices", count)


def use_cores(batch_size: int, count: int = 0) -> None:
    """Splits a CPU into devices that share a batch; see `split_cpu`.

    Args:
      batch_size: the batch.
      count: the number of devices; 0 is as many as there are usable cores and as divide the batch.
    """
    split_cpu(count or tuning.devices_for(batch_size))


def cpu_devices(mesh: Mesh) -> int:
    """Returns the number of devices on all hosts if they are parts of CPUs, otherwise 0."""
    return device_count(mesh) if mesh.devices.flat[0].platform == "cpu" else 0


def local_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a one-dimensional mesh of this host's devices along the batch axis.

    Args:
      devices: devices of this host; all by default.

    Raises:
      UserError: see `platform.local_devices`.
    """
    return Mesh(np.array(devices or platform.local_devices()), (AXIS,))


def device_count(mesh: Mesh) -> int:
    """Returns the number of devices on all hosts, which all have as many as this one."""
    return mesh.size * jax.process_count()


def kind(mesh: Mesh) -> str:
    """Returns the kind of the devices, such as `TPU v4` or `cpu`."""
    return mesh.devices.flat[0].device_kind


def describe(mesh: Mesh) -> str:
    """Returns a description of the devices, such as `8 x TPU v4`."""
    hosts = f" on {jax.process_count()} hosts" if jax.process_count() > 1 else ""
    return f"{device_count(mesh)} x {kind(mesh)}{hosts}"


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises a `UserError` unless all hosts' devices get whole micro-batches.

    Args:
      batch_size: images per step, over all devices of all hosts.
      mesh: this host's devices.
      accumulate: number of micro-batches per step.
    """
    devices = device_count(mesh)
    if batch_size % (devices * accumulate):
        times = f" times optim.accumulate={accumulate}" if accumulate > 1 else ""
        raise UserError(
            f"batch_size={batch_size}: is not divisible by the number of devices{times}; use a "
            f"multiple of {devices * accumulate}"
        )


def compile_train_step(step: Callable, mesh: Mesh) -> Callable:
    """Compiles a training step for the devices of all hosts.

    Args:
      step: function (state, batch, key) -> (state, metrics) for one device and its shard of the
        batch. Its results must be equal on all devices; pmap does not check this.
      mesh: this host's devices.

    Returns:
      A function (state, batch, key) -> (state, metrics). The batch is this host's part, [devices,
      B / devices, ...]; `state` is donated.
    """

    def synchronised(state: Any, batch: Any, key: jax.Array) -> Any:
        # Without the axis, each device would silently train on its own shard of the batch.
        assert is_mapped()
        return step(state, batch, key)

    return jax.pmap(
        synchronised,
        AXIS,
        in_axes=(None, 0, None),
        out_axes=(None, None),
        donate_argnums=0,
        devices=_pmap_devices(mesh),
    )


def compile_eval_step(step: Callable, mesh: Mesh) -> Callable:
    """Compiles an evaluation step for this host's devices; hosts do not wait for each other.

    Args:
      step: function (variables, batch) -> outputs for one device and its shard of the batch.
      mesh: this host's devices.

    Returns:
      A function (variables, batch) -> outputs; batch and outputs are [devices, B / devices, ...].
    """
    return jax.pmap(step, AXIS, in_axes=(None, 0), out_axes=0, devices=list(mesh.devices.flat))


def _pmap_devices(mesh: Mesh) -> list[jax.Device] | None:
    """Returns pmap's `devices` argument for all hosts: None if there are several hosts."""
    return list(mesh.devices.flat) if jax.process_count() == 1 else None


class AnyHost:
    """Reduces a flag over all hosts at each step, without waiting for that step to finish.

    Args:
      mesh: this host's devices.
    """

    def __init__(self, mesh: Mesh):
        self._sum = jax.pmap(functools.partial(jax.lax.psum, axis_name=AXIS), AXIS)
        self._devices, self._pending = mesh.size, None

    def reduce(self, flag: bool) -> bool:
        """Returns whether `flag` was true on any host in the previous call.

        The result is the same on all hosts, which must call this equally often. On a single host
        the result is the current `flag`.
        """
        if jax.process_count() == 1:
            return flag
        previous, self._pending = (
            self._pending,
            self._sum(np.full(self._devices, int(flag), np.int32)),
        )
        return previous is not None and bool(previous[0])


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Replicates a pytree of host arrays on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def to_host(tree: Any) -> Any:
    """Copies replicated arrays to numpy; donating the arrays later does not affect the copy."""
    return jax.tree.map(lambda x: np.array(x), tree)


def spread(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """Shards an array over this host's devices.

    Args:
      array: [B, ...], where B is a multiple of the number of devices.
      mesh: the devices.

    Returns:
      [devices, B / devices, ...], sharded along the first axis.
    """
    parts = array.reshape(mesh.size, -1, *array.shape[1:])
    return jax.device_put(parts, NamedSharding(mesh, PartitionSpec(AXIS)))


def join(array: jax.Array) -> np.ndarray:
    """Gathers sharded outputs [devices, B / devices, ...] as numpy [B, ...]."""
    return np.asarray(array).reshape(-1, *array.shape[2:])


def one_ahead(dispatched: Iterable[T]) -> Iterator[T]:
    """Yields each item when the next has been taken.

    If taking an item dispatches a computation, which JAX does not wait for, the devices thus
    compute the next result while the caller uses this one.

    Args:
      dispatched: computations, dispatched when they are taken.
    """
    waiting: list[T] = []
    for item in dispatched:
        waiting.append(item)
        if len(waiting) > 1:
            yield waiting.pop(0)
    yield from waiting


@contextmanager
def on_devices(batches: grain.IterDataset, mesh: Mesh) -> Iterator[Iterator[dict]]:
    """Opens an iterator that shards batches over this host's devices ahead of use.

    Args:
      batches: dicts of numpy arrays [B, ...], where B is a multiple of the number of devices.
      mesh: the devices.

    Yields:
      The iterator of batches with arrays [devices, B / devices, ...]; it is closed on exit.
    """

    def split(batch: dict) -> dict:
        return {k: v.reshape(mesh.size, -1, *v.shape[1:]) for k, v in batch.items()}

    placed = grain.experimental.device_put(
        batches.map(split),
        NamedSharding(mesh, PartitionSpec(AXIS)),
        cpu_buffer_size=2,
        device_buffer_size=2,
    )
    iterator = iter(placed)
    try:
        yield iterator
    finally:
        iterator.close()
