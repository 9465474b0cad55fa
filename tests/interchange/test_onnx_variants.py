"""ONNX models with smaller numbers, and the page on exports."""

import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import tifffile
from launched import ROOT, parse_here, run_here


def export(run: pathlib.Path, output: pathlib.Path, name: str, *more: str) -> str:
    code, text = run_here(
        "--mode=export", f"--format={name}", f"--workdir={run}", f"--output={output}", *more
    )
    assert code == 0, text
    return text


def predict(model: pathlib.Path, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    session = onnxruntime.InferenceSession(model)
    mask, probabilities = session.run(["mask", "probabilities"], {"images": images})
    return np.asarray(mask), np.asarray(probabilities)


@pytest.mark.slow
def test_smaller_numbers_give_nearly_the_same_masks(trained, stacks, tmp_path):
    images = tifffile.imread(stacks / "train-volume.tif")[:4, None].astype(np.float32)
    found, sizes = {}, {}
    for name in ("onnx", "onnx_float16", "onnx_int8"):
        export(trained, tmp_path / name, name)
        model = tmp_path / name / "network.onnx"
        sizes[name], found[name] = model.stat().st_size, predict(model, images)
    mask, probabilities = found["onnx"]
    assert 0.2 < mask.mean() < 0.8  # it has learnt something
    for name, largest, share in (("onnx_float16", 0.01, 0.005), ("onnx_int8", 0.4, 0.05)):
        assert sizes[name] < sizes["onnx"]
        assert abs(found[name][1] - probabilities).max() < largest
        assert (found[name][0] != mask).mean() < share


PAGE = (ROOT / "docs" / "export.md").read_text()


def page_commands() -> list[list[str]]:
    """The arguments of each call of launch.py on the page."""
    lines = PAGE.replace("\\\n", " ").splitlines()
    return [shlex.split(line)[2:] for line in lines if line.startswith("python launch.py")]


@pytest.mark.slow
def test_the_lines_of_the_page_run(trained, stacks, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    arguments = [x.replace("runs/isbi-small", str(trained)) for x in page_commands()[0]]
    status, text = run_here(*[x.replace("=exported", f"={tmp_path}/exported") for x in arguments])
    assert status == 0, text
    (tmp_path / "data" / "isbi").mkdir(parents=True)
    shutil.copy(stacks / "train-volume.tif", tmp_path / "data" / "isbi")
    (tmp_path / "apply.py").write_text(code)
    assert len(code.splitlines()) <= 11
    done = subprocess.run(
        [sys.executable, "apply.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "'classes': '[\"membrane\", \"cell\"]'" in done.stdout
    masks = tifffile.imread(tmp_path / "masks.tif")
    assert (masks.shape, masks.dtype) == ((3, 64, 64), np.uint8)


def test_the_commands_of_the_page_are_of_flags_that_exist():
    formats = {parse_here(*arguments).format for arguments in page_commands()}
    assert formats == {"onnx", "bioimageio", "stablehlo"}
