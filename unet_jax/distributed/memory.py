"""Memory sizes of the host and the devices."""

import os

from jax.sharding import Mesh


def host_memory() -> int:
    """Returns the size of this host's physical memory, bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_bytes(mesh: Mesh) -> int:
    """Returns the total memory of the mesh's devices, bytes; for CPU devices, the host's."""
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in mesh.devices.flat]
    return sum(limits) if all(limits) else host_memory()
