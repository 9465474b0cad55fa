"""In processes of their own: these tests' own process has a cache already."""

import os
import platform
import subprocess
import sys

import jax
import pytest

from unet_jax.core import compilation
from unet_jax.core.compilation import keep_compiled, release_memory_after_compiling

PROGRAM = """
import jax
from unet_jax.core.compilation import CompileCount, keep_compiled
print(keep_compiled())
with CompileCount() as count:
    jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((64, 64))).block_until_ready()
print(count.compiled, count.cached)
print(count)
jax.jit(lambda x: x * 3)(2.0)
print(count.compiled, count.cached)
"""


def run(home, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment |= {"XDG_CACHE_HOME": str(home), "JAX_PLATFORMS": "cpu"} | variables
    command = [sys.executable, "-c", PROGRAM]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


def start(home, **variables):
    done = run(home, **variables)
    folder, counts, text, later = done.stdout.splitlines()
    assert later == counts  # outside its context nothing is counted
    return folder, *map(int, counts.split()), text


@pytest.mark.slow
def test_the_second_start_compiles_nothing(tmp_path):
    folder, compiled, found, text = start(tmp_path)
    assert folder.startswith(str(tmp_path / "unet_jax" / "compiled-"))
    assert compiled >= 1
    assert found == 0
    assert text.startswith(f"{compiled} program")
    again, recompiled, found, text = start(tmp_path)
    assert again == folder
    assert (recompiled, found) == (0, compiled)
    assert f"0 programs compiled, {compiled} loaded from the cache, in 0." in text


@pytest.mark.slow
def test_the_folder_that_the_environment_names_is_taken(tmp_path):
    folder, *_ = start(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine"))
    assert folder == str(tmp_path / "mine")
    assert not (tmp_path / "unet_jax").exists()


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"])
def test_where_no_program_can_be_kept_a_line_says_so_and_they_are_counted(tmp_path, variable):
    (tmp_path / "file").touch()
    home = tmp_path / "home"
    done = run(home, **{variable: str(tmp_path / "file")})
    assert done.stderr == ""
    note, folder, counts, text, _ = done.stdout.splitlines()
    assert "compilation cache cannot be written" in note
    assert str(tmp_path / "file") in note
    assert "JAX_COMPILATION_CACHE_DIR" in note
    assert folder == "None"
    compiled, found = map(int, counts.split())
    assert compiled >= 1
    assert found == 0
    assert text.startswith(f"{compiled} program")


def test_a_missing_home_folder_is_reported_in_one_line(monkeypatch, capsys):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", home)
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        assert keep_compiled() is None
        assert not jax.config.values["jax_enable_compilation_cache"]
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        jax.config.update("jax_enable_compilation_cache", True)
    assert "cannot be written (Could not determine home" in capsys.readouterr().out


def test_memory_is_returned_after_long_compilations_alone(monkeypatch):
    trimmed = []
    monkeypatch.setattr(compilation, "_malloc_trim", lambda: trimmed.append)
    listeners = []
    monkeypatch.setattr(jax.monitoring, "register_event_duration_secs_listener", listeners.append)
    release_memory_after_compiling.__wrapped__()
    (listen,) = listeners
    listen("/jax/core/compile/backend_compile_duration", 0.1)
    listen("/jax/another/event", 5.0)
    assert trimmed == []
    listen("/jax/core/compile/backend_compile_duration", 5.0)
    assert trimmed == [0]


def test_without_malloc_trim_nothing_is_returned(monkeypatch):
    monkeypatch.setattr(compilation, "_malloc_trim", lambda: None)
    monkeypatch.setattr(
        jax.monitoring, "register_event_duration_secs_listener", lambda _: pytest.fail("listens")
    )
    release_memory_after_compiling.__wrapped__()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's function")
def test_glibc_has_the_function():
    trim = compilation._malloc_trim()
    assert trim is not None
    assert trim(0) in (0, 1)
