"""Compiled programs are kept on disk, so that the second start of a run compiles nothing."""

import hashlib
import os
import pathlib
import platform
from types import TracebackType

import jax

_COMPILE = "/jax/core/compile/backend_compile_duration"
_FOUND, _MISSED = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/cache_misses"


def keep_compiled() -> pathlib.Path:
    """Turns JAX's persistent compilation cache on and returns its folder.

    `JAX_COMPILATION_CACHE_DIR` names another one, as ever. The default is a folder of this user
    for each kind of processor: a program that was compiled for one may not run on another, and
    a home may be shared by both.
    """
    folder = jax.config.values["jax_compilation_cache_dir"]
    if folder is None:
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        folder = str(pathlib.Path(home) / "unet_jax" / f"compiled-{_processor()}")
        jax.config.update("jax_compilation_cache_dir", folder)
        # By default JAX keeps what took a second; a start makes many small programs too.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return pathlib.Path(folder)


def _processor() -> str:
    """Digits that two machines share if their processors have the same features."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        features = next(line for line in lines if line.lower().startswith(("flags", "features")))
    except (OSError, StopIteration):  # no Linux
        features = platform.processor()
    return hashlib.sha256(f"{platform.machine()} {features}".encode()).hexdigest()[:8]


class CompileCount:
    """Counts the programs compiled and found on disk, and the seconds it took, in a context."""

    compiled = found = 0
    seconds = 0.0

    def __enter__(self) -> "CompileCount":
        jax.monitoring.register_event_listener(self._note)
        jax.monitoring.register_event_duration_secs_listener(self._time)
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        jax.monitoring.unregister_event_listener(self._note)
        jax.monitoring.unregister_event_duration_listener(self._time)

    def __str__(self) -> str:
        programs = f"{self.compiled} program{'s' * (self.compiled != 1)} compiled"
        return f"{programs}, {self.found} found on disk, in {self.seconds:.1f} s"

    def _note(self, event: str, **_: object) -> None:
        self.found += event == _FOUND
        self.compiled += event == _MISSED

    def _time(self, event: str, duration_secs: float, **_: object) -> None:
        self.seconds += duration_secs * (event == _COMPILE)
