"""How much memory there is."""

import os

from jax.sharding import Mesh


def host_memory() -> int:
    """Bytes of this host's physical memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_bytes(mesh: Mesh) -> int:
    """Bytes of memory that the mesh's devices have together; CPU devices have the host's."""
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in mesh.devices.flat]
    return sum(limits) if all(limits) else host_memory()
