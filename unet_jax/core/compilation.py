"""Compilation: a persistent cache, so that the second start of a run compiles nothing, and memory.

XLA's compiler leaves memory behind that the C library keeps; it is returned to the system.
"""

import ctypes
import functools
import hashlib
import os
import pathlib
import platform
import tempfile
from collections.abc import Callable
from types import TracebackType

import jax

from unet_jax.core.files import cache_folder
from unet_jax.core.streams import say

_COMPILE = "/jax/core/compile/backend_compile_duration"  # cache hits count too
_CACHE_HIT = "/jax/compilation_cache/cache_hits"
_LONG = 1.0  # a compilation that takes longer leaves memory worth returning, seconds


def keep_compiled() -> pathlib.Path | None:
    """Enables JAX's persistent compilation cache.

    `JAX_COMPILATION_CACHE_DIR` sets the folder. The default is in this user's cache folder, one
    for each type of processor, because a program that was compiled for one processor may not run
    on another, and machines with different processors may share a home folder.

    Returns:
      The folder of the cache, or None if it cannot be written. In that case the cache is disabled,
      one line is printed, and programs are compiled at each start.
    """
    folder = jax.config.values["jax_compilation_cache_dir"]
    is_default = folder is None
    try:
        folder = str(cache_folder() / f"compiled-{_processor()}") if is_default else folder
        if "://" not in folder:  # JAX creates a folder in a bucket itself
            os.makedirs(folder, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError) as error:
        jax.config.update("jax_enable_compilation_cache", False)
        say(
            f"note         the compilation cache cannot be written ({error}), so every start "
            f"recompiles; set JAX_COMPILATION_CACHE_DIR to a writable folder"
        )
        return None
    if is_default:
        jax.config.update("jax_compilation_cache_dir", folder)
        # By default JAX caches only programs that took a second to compile, but the many small
        # programs of a start take time too.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return pathlib.Path(folder)


def _processor() -> str:
    """Returns a hash that is equal on machines whose processors have the same features."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        features = next(line for line in lines if line.lower().startswith(("flags", "features")))
    except (OSError, StopIteration):  # not on Linux
        features = platform.processor()
    return hashlib.sha256(f"{platform.machine()} {features}".encode()).hexdigest()[:8]


@functools.cache
def release_memory_after_compiling() -> None:
    """Returns memory to the system after each long compilation.

    XLA's compiler frees hundreds of MiB that glibc's malloc would keep, in pieces that the arrays
    of a training step do not fit into. With another C library nothing happens.
    """
    trim = _malloc_trim()
    if trim is not None:

        def release(event: str, duration_secs: float, **_: object) -> None:
            if event == _COMPILE and duration_secs > _LONG:
                trim(0)

        jax.monitoring.register_event_duration_secs_listener(release)


def _malloc_trim() -> Callable[[int], int] | None:
    """Returns glibc's function of this name, if there is one."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library or system
        return None


class CompileCount:
    """Context manager that counts compiled and cached programs and measures the time they take.

    Attributes:
      programs: number of programs that were compiled or loaded from the cache.
      cached: number of programs that were loaded from the cache.
      seconds: time spent on compiling and loading, seconds.
    """

    programs = cached = 0
    seconds = 0.0

    @property
    def compiled(self) -> int:
        """Number of programs that were not in the cache."""
        return self.programs - self.cached

    def __enter__(self) -> "CompileCount":
        jax.monitoring.register_event_listener(self._count_hit)
        jax.monitoring.register_event_duration_secs_listener(self._add_duration)
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        jax.monitoring.unregister_event_listener(self._count_hit)
        jax.monitoring.unregister_event_duration_listener(self._add_duration)

    def __str__(self) -> str:
        programs = f"{self.compiled} program{'s' * (self.compiled != 1)} compiled"
        return f"{programs}, {self.cached} loaded from the cache, in {self.seconds:.1f} s"

    def _count_hit(self, event: str, **_: object) -> None:
        self.cached += event == _CACHE_HIT

    def _add_duration(self, event: str, duration_secs: float, **_: object) -> None:
        if event == _COMPILE:
            self.programs += 1
            self.seconds += duration_secs
