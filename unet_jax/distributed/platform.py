"""The platform on which JAX computes: the one that is asked for, or an error.

JAX computes on the CPU, with a warning at most, if it finds no accelerator. It raises an error if a
platform that is asked for by name is missing, but not in all cases: one is a GPU that is hidden.
"""

import contextlib
import os
from collections.abc import Iterator
from importlib import metadata

import jax

from unet_jax.core.errors import UserError

GPU_BACKENDS = ("cuda", "rocm")  # JAX's names of the platform gpu


@contextlib.contextmanager
def selected(name: str | None) -> Iterator[None]:
    """Context manager in which JAX computes on a platform; `local_devices` checks that it does.

    Args:
      name: `cpu`, `gpu` or `tpu`. None leaves the choice to JAX and the variable JAX_PLATFORMS.
    """
    before = jax.config.values["jax_platforms"]
    if name is not None:
        backend = _gpu_backend() if name == "gpu" else name
        # The first one is the default. Libraries may compute on the CPU besides.
        jax.config.update("jax_platforms", backend if name == "cpu" else f"{backend},cpu")
    try:
        yield
    finally:
        jax.config.update("jax_platforms", before)


def local_devices() -> list[jax.Device]:
    """Starts JAX's devices, unless they are, and returns this host's.

    Raises:
      UserError: JAX cannot start a platform that was asked for, by `selected` or JAX_PLATFORMS, or
        would use another.
    """
    requested = jax.config.values["jax_platforms"] or ""
    first = requested.partition(",")[0]
    wanted = "gpu" if first in GPU_BACKENDS else first
    try:
        devices = jax.local_devices()
    # JAX raises an AssertionError if all platforms are missing without an error of their own.
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition(" (set JAX_PLATFORMS")[0] or "it finds no such device"
        raise _missing(requested, wanted, reason) from error
    found = devices[0].platform
    if wanted.lower() not in ("", found.lower()):
        raise _missing(requested, wanted, f"it would compute on {found} instead")
    return devices


def _missing(requested: str, wanted: str, reason: str) -> UserError:
    by_user = os.environ.get("JAX_PLATFORMS") == requested
    source = f"JAX_PLATFORMS={requested}" if by_user else f"--platform={wanted}"
    return UserError(
        f"{source}: JAX cannot compute on {wanted or 'any platform'} here ({reason}); check that "
        f"the device is free and that JAX is installed for it, or choose another --platform"
    )


def _gpu_backend() -> str:
    """Returns JAX's name of the GPUs for which a plugin is installed."""
    plugins = metadata.entry_points(group="jax_plugins")
    return "rocm" if any("rocm" in plugin.name for plugin in plugins) else "cuda"
