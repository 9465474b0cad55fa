"""The platform on which a command computes: the one that is asked for, or a line that says no."""

import json
import os
import subprocess
import sys

import jax
import pytest
from launched import ROOT, refused, run_here
from made_data import TINY
from pictures import _no_pictures as _no_pictures

from unet_jax.core.errors import UserError
from unet_jax.distributed import devices, platform
from unet_jax.runs.folder import recorded_device


def test_the_platform_that_is_asked_for_is_used():
    before = jax.config.values["jax_platforms"]
    for name in ("cpu", None):
        with platform.selected(name):
            assert devices.kind(devices.local_mesh()) == "cpu"
    assert jax.config.values["jax_platforms"] == before


@pytest.mark.parametrize("name", ["gpu", "tpu"])
@pytest.mark.parametrize(
    "arguments",
    [
        (*TINY, "--workdir={folder}"),
        (*TINY, "--workdir={folder}", "--mode=inspect"),
        (*TINY, "--workdir={folder}", "--mode=eval"),
        ("--mode=export", "--workdir={folder}", "--output={folder}"),
    ],
    ids=["train", "inspect", "eval", "export"],
)
def test_another_platform_is_refused_in_one_line(name, arguments, tmp_path):
    """In a process whose devices have been started, JAX would keep them."""
    before = jax.config.values["jax_platforms"]
    line = refused(*(x.format(folder=tmp_path / "run") for x in arguments), f"--platform={name}")
    assert f"--platform={name}: JAX cannot compute on {name} here (" in line
    assert jax.config.values["jax_platforms"] == before
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "environment", "parts"),
    [
        (["--platform=tpu"], {"JAX_PLATFORMS": ""}, ["--platform=tpu: JAX cannot compute on tpu"]),
        (
            ["--platform=gpu"],
            {"JAX_PLATFORMS": "cpu"},
            ["--platform=gpu: JAX cannot compute on gpu"],
        ),
        ([], {"JAX_PLATFORMS": "cuda"}, ["JAX_PLATFORMS=cuda: JAX cannot compute on gpu"]),
        ([], {"JAX_PLATFORMS": "cuda,cpu"}, ["JAX_PLATFORMS=cuda,cpu", "compute on cpu instead"]),
        ([], {"JAX_PLATFORMS": "abacus"}, ["JAX_PLATFORMS=abacus", "compute on abacus here"]),
    ],
)
def test_a_process_without_the_platform_fails_in_one_line(
    stacks, tmp_path, arguments, environment, parts
):
    """JAX itself would use the CPU, raise an error or fail an assertion."""
    command = [*TINY, f"--config.data.root={stacks}", f"--workdir={tmp_path}", *arguments]
    done = subprocess.run(
        [sys.executable, "launch.py", *command],
        cwd=ROOT,
        env={**os.environ, "TPU_LIBRARY_PATH": "", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ") and all(part in line for part in parts)
    assert "Traceback" not in done.stderr


def test_a_run_says_when_it_resumes_on_another_kind_of_device(stacks, tmp_path, monkeypatch):
    arguments = (*TINY, f"--config.data.root={stacks}", f"--workdir={tmp_path}")
    code, output = run_here(*arguments, "--config.num_epochs=1", "--platform=cpu")
    assert code == 0, output
    assert recorded_device(tmp_path) == "cpu"
    assert "note         the run was trained on" not in output
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(saved | {"device": "TPU v5 lite"}))
    code, output = run_here(*arguments, "--config.num_epochs=1")
    assert code == 0, output
    assert "note         the run was trained on TPU v5 lite so far, and resumes on cpu;" in output
    assert recorded_device(tmp_path) == "cpu"


def test_a_platform_that_is_no_platform_is_refused():
    assert "cpu|gpu|tpu" in refused(*TINY, "--platform=npu")


def test_an_error_that_is_not_about_the_platform_is_kept(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: (_ for _ in ()).throw(ValueError("other")))
    with pytest.raises(ValueError, match="other"):
        devices.local_mesh()
    monkeypatch.setattr(jax, "local_devices", lambda: (_ for _ in ()).throw(RuntimeError("in use")))
    with pytest.raises(UserError, match=r"JAX_PLATFORMS=cpu: .* on cpu here \(in use\)"):
        devices.local_mesh()
