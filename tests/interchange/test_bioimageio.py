"""Packages of the BioImage Model Zoo: what they have, and that they pass its tests."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import zipfile

import pytest
from launched import launch, refused
from made_runs import make_run, small_config

from unet_jax.interchange import bioimageio

ABOUT = ("--author=A. Person, An Institute", "--license=CC-BY-4.0", "--cite=Data, 10.1234/x")
NOWHERE = "http://127.0.0.1:9"  # no proxy answers here


def package_of(run: pathlib.Path, output: pathlib.Path) -> tuple[pathlib.Path, str]:
    """Exports a package in a process of its own: bioimageio.spec leaves files open, which warns."""
    flags = ("--mode=export", "--format=bioimageio", f"--workdir={run}", f"--output={output}")
    code, text = launch(*flags, *ABOUT)
    assert code == 0, text
    return output / "network.zip", text


@pytest.mark.slow
def test_a_package_passes_the_tests_of_the_model_zoo(trained, tmp_path):
    """Without a network connection, with both weights, which share the test tensors."""
    pytest.importorskip("bioimageio.core")
    package, text = package_of(trained, tmp_path / "package")
    assert f"its weights are ONNX and TorchScript; bioimageio test {package} tests it" in text
    summary = tmp_path / "summary.json"
    done = subprocess.run(
        [sys.executable, "-m", "bioimageio.core", "test", package, f"--summary={summary}"],
        env=os.environ | {"http_proxy": NOWHERE, "https_proxy": NOWHERE, "no_proxy": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(summary.read_text())["status"] == "passed"
    for name in ("onnx", "torchscript"):
        assert f"Testing inference with '{name}'" in done.stdout + done.stderr
    with zipfile.ZipFile(package) as archive:
        assert {*archive.namelist()} == {
            "README.md", "cover.png", "images.npy", "mask.npy", "network.onnx", "network.pt",
            "probabilities.npy", "rdf.yaml",
        }  # fmt: skip
        described = archive.read("rdf.yaml").decode()
        readme = archive.read("README.md").decode()
    assert "parent: onnx" in described
    assert "- weights: ONNX and TorchScript" in readme and "## Validation" in readme


@pytest.mark.slow
def test_a_package_says_why_it_has_onnx_only(documented, tmp_path, monkeypatch):
    documented("unet_jax/models/link_unet.py")
    link = small_config(model__depth=1, model__name="link_unet")
    run = make_run(tmp_path / "run", link, 1)
    content, said = bioimageio._torchscript(run, link, "best")
    assert content == b"" and said.startswith("ONNX only (model.name=link_unet: has no PyTorch tw")
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "unet_jax.interchange.torch_twin.torchscript")
    monkeypatch.delattr("unet_jax.interchange.torch_twin.torchscript")
    content, said = bioimageio._torchscript(run, link, "best")
    assert (content, said) == (b"", "ONNX only, because PyTorch is not installed")


def test_what_a_package_needs_is_one_line(tmp_path):
    run = make_run(tmp_path / "run", small_config(model__depth=1), 1)
    command = ("--mode=export", "--format=bioimageio", f"--workdir={run}")
    line = refused(*command, f"--output={tmp_path / 'out'}", *ABOUT[:2])
    assert "needs --author='NAME, AFFILIATION' --license=SPDX-ID" in line
    if importlib.util.find_spec("bioimageio"):
        for flag, message in (
            ("--license=MINE", "'MINE': is not an SPDX identifier"),
            ("--author=A/B", "'A/B': a name must not have a slash"),
            ("--cite=Data, 2026", "'Data, 2026': has neither a DOI"),
        ):
            others = [x for x in ABOUT if x.partition("=")[0] != flag.partition("=")[0]]
            line = refused(*command, f"--output={tmp_path / 'out'}", *others, flag)
            assert line.startswith(f"error: {flag.partition('=')[0]}={message}")
    line = refused(
        "--mode=export", "--format=onnx", f"--workdir={run}", "--output=out", "--license=MIT"
    )
    assert line == "error: --license: --format=onnx does not use it; leave it out"
    assert not (tmp_path / "out").exists()
