"""In processes of their own: these tests' own process has a cache already."""

import os
import subprocess
import sys

PROGRAM = """
import jax
from unet_jax.compilation import CompileCount, keep_compiled
print(keep_compiled())
with CompileCount() as count:
    jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((64, 64))).block_until_ready()
print(count.compiled, count.found)
print(count)
jax.jit(lambda x: x * 3)(2.0)
print(count.compiled, count.found)
"""


def start(home, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment |= {"XDG_CACHE_HOME": str(home), "JAX_PLATFORMS": "cpu"} | variables
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    folder, counts, text, later = done.stdout.splitlines()
    assert later == counts  # outside its context nothing is counted
    return folder, *map(int, counts.split()), text


def test_the_second_start_compiles_nothing(tmp_path):
    folder, compiled, found, text = start(tmp_path)
    assert folder.startswith(str(tmp_path / "unet_jax" / "compiled-"))
    assert compiled >= 1
    assert found == 0
    assert text.startswith(f"{compiled} program")
    again, recompiled, found, text = start(tmp_path)
    assert again == folder
    assert (recompiled, found) == (0, compiled)
    assert f"0 programs compiled, {compiled} found on disk, in 0." in text


def test_the_folder_that_the_environment_names_is_taken(tmp_path):
    folder, *_ = start(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine"))
    assert folder == str(tmp_path / "mine")
    assert not (tmp_path / "unet_jax").exists()
