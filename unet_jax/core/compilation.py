"""Compiled programs are kept on disk, so that the second start of a run compiles nothing."""

import hashlib
import os
import pathlib
import platform
import tempfile
from types import TracebackType

import jax

from unet_jax.core.streams import say

_COMPILE = "/jax/core/compile/backend_compile_duration"  # reported of programs found on disk too
_FOUND = "/jax/compilation_cache/cache_hits"


def keep_compiled() -> pathlib.Path | None:
    """Turns JAX's persistent compilation cache on and returns its folder.

    `JAX_COMPILATION_CACHE_DIR` names another one, as ever. The default is a folder of this user
    for each kind of processor: a program that was compiled for one may not run on another, and
    a home may be shared by both. Where the folder cannot be written, it says so, once, and returns
    None: programs are then compiled at each start.
    """
    folder = jax.config.values["jax_compilation_cache_dir"]
    ours = folder is None
    try:
        folder = str(_home() / "unet_jax" / f"compiled-{_processor()}") if ours else folder
        if "://" not in folder:  # a bucket's folder is JAX's business
            os.makedirs(folder, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError) as error:
        jax.config.update("jax_enable_compilation_cache", False)
        say(
            f"note         compiled programs cannot be kept ({error}), so each start compiles "
            f"anew; name a folder with JAX_COMPILATION_CACHE_DIR"
        )
        return None
    if ours:
        jax.config.update("jax_compilation_cache_dir", folder)
        # By default JAX keeps what took a second; a start makes many small programs too.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return pathlib.Path(folder)


def _home() -> pathlib.Path:
    """Where caches are: XDG_CACHE_HOME, if it is absolute, as its specification wants it."""
    named = pathlib.Path(os.environ.get("XDG_CACHE_HOME", ""))
    return named if named.is_absolute() else pathlib.Path.home() / ".cache"


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

    programs = found = 0
    seconds = 0.0

    @property
    def compiled(self) -> int:
        return self.programs - self.found

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

    def _time(self, event: str, duration_secs: float, **_: object) -> None:
        if event == _COMPILE:
            self.programs += 1
            self.seconds += duration_secs
