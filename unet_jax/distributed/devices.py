"""All device placement and `jax.pmap`.

Training and evaluation steps are written for one device that sees its part of the batch; the sums
over all devices that they need are in reductions.py. State is replicated; a host's part
[B, ...] of a batch travels as [devices, B / devices, ...] of its own devices. A mesh is of one
host's devices; training goes over those of all hosts (see hosts.py), evaluation stays on one.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unet_jax.core.errors import UserError
from unet_jax.distributed.reductions import AXIS, is_mapped


def local_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of this host's devices (default: all of them) along the batch axis."""
    return Mesh(np.array(devices or jax.local_devices()), (AXIS,))


def device_count(mesh: Mesh) -> int:
    """The devices of all hosts: each has as many as this one."""
    return mesh.size * jax.process_count()


def describe(mesh: Mesh) -> str:
    """The devices in words, such as `8 x TPU v4`."""
    hosts = f" on {jax.process_count()} hosts" if jax.process_count() > 1 else ""
    return f"{device_count(mesh)} x {mesh.devices.flat[0].device_kind}{hosts}"


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises a `UserError` unless the devices of all hosts divide the global batch."""
    devices = device_count(mesh)
    if batch_size % devices:
        raise UserError(
            f"batch_size={batch_size}: the {devices} devices cannot share it equally; "
            f"take a multiple of {devices}"
        )


def compile_train_step(step: Callable, mesh: Mesh) -> Callable:
    """`(state, batch, key) -> (state, metrics)` over all hosts' devices; `state` is donated.

    Each host gives its part of the batch. What `step` returns must be equal on all devices; pmap
    does not check it.
    """

    def synchronised(state: Any, batch: Any, key: jax.Array) -> Any:
        # Else each device would silently train on its own part of the batch.
        assert is_mapped()
        return step(state, batch, key)

    return jax.pmap(
        synchronised,
        AXIS,
        in_axes=(None, 0, None),
        out_axes=(None, None),
        donate_argnums=0,
        devices=_everywhere(mesh),
    )


def compile_eval_step(step: Callable, mesh: Mesh) -> Callable:
    """`(variables, batch) -> outputs` over this host's devices.

    Outputs are [devices, B / devices, ...]. No host waits for another.
    """
    return jax.pmap(step, AXIS, in_axes=(None, 0), out_axes=0, devices=list(mesh.devices.flat))


def _everywhere(mesh: Mesh) -> list[jax.Device] | None:
    """What pmap needs to go over the devices of all hosts."""
    return list(mesh.devices.flat) if jax.process_count() == 1 else None


class AnyHost:
    """Asks all hosts a question at each step, without waiting for the step."""

    def __init__(self, mesh: Mesh):
        self._sum = jax.pmap(functools.partial(jax.lax.psum, axis_name=AXIS), AXIS)
        self._devices, self._asked = mesh.size, None

    def ask(self, flag: bool) -> bool:
        """Whether `flag` was true on any host when they were asked the time before.

        All hosts get the same answer, and must ask as often. One host alone is answered at once.
        """
        if jax.process_count() == 1:
            return flag
        before, self._asked = self._asked, self._sum(np.full(self._devices, int(flag), np.int32))
        return before is not None and bool(before[0])


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Places a copy of host arrays on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def to_host(tree: Any) -> Any:
    """A numpy copy of replicated arrays, which later donation of the arrays does not touch."""
    return jax.tree.map(lambda x: np.array(x), tree)


def spread(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """numpy [B, ...], B a multiple of the devices -> placed as [devices, B / devices, ...]."""
    parts = array.reshape(mesh.size, -1, *array.shape[1:])
    return jax.device_put(parts, NamedSharding(mesh, PartitionSpec(AXIS)))


def join(array: jax.Array) -> np.ndarray:
    """Outputs [devices, B / devices, ...] -> numpy [B, ...]."""
    return np.asarray(array).reshape(-1, *array.shape[2:])


@contextmanager
def on_devices(batches: grain.IterDataset, mesh: Mesh) -> Iterator[Iterator[dict]]:
    """Batches of numpy [B, ...] placed as [devices, B / devices, ...] ahead of need."""

    def spread(batch: dict) -> dict:
        return {k: v.reshape(mesh.size, -1, *v.shape[1:]) for k, v in batch.items()}

    placed = grain.experimental.device_put(
        batches.map(spread),
        NamedSharding(mesh, PartitionSpec(AXIS)),
        cpu_buffer_size=2,
        device_buffer_size=2,
    )
    iterator = iter(placed)
    try:
        yield iterator
    finally:
        iterator.close()
