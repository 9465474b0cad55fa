"""ONNX models with smaller numbers, and packages: of a run that was trained a little."""

import importlib.util
import json
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
from launched import ROOT, launch, parse_here, refused, run_here
from made_runs import make_run, small_config

FIELDS = (
    "--config=configs/isbi.py:small",
    "--config.model.width=4",
    "--config.model.depth=2",
    "--config.data.size=32",
    "--config.num_epochs=3",
)
ABOUT = ("--author=A. Person, An Institute", "--license=CC-BY-4.0", "--cite=Data, 10.1234/x")


@pytest.fixture(scope="module")
def run(stacks, made_once) -> pathlib.Path:
    """A run that has learnt to tell dark from bright."""

    def make(folder: pathlib.Path) -> None:
        code, output = launch(*FIELDS, f"--config.data.root={stacks}", f"--workdir={folder}")
        assert code == 0, output

    return made_once("exported-run", make)


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
def test_smaller_numbers_give_nearly_the_same_masks(run, stacks, tmp_path):
    images = tifffile.imread(stacks / "train-volume.tif")[:4, None].astype(np.float32)
    found, sizes = {}, {}
    for name in ("onnx", "onnx_float16", "onnx_int8"):
        export(run, tmp_path / name, name)
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
def test_the_lines_of_the_page_run(run, stacks, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    arguments = [x.replace("runs/isbi-small", str(run)) for x in page_commands()[0]]
    status, text = run_here(*[x.replace("=exported", f"={tmp_path}/exported") for x in arguments])
    assert status == 0, text
    shutil.copy(stacks / "train-volume.tif", tmp_path)
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


@pytest.mark.slow
def test_a_package_passes_the_tests_of_the_model_zoo(run, tmp_path):
    pytest.importorskip("bioimageio.core")
    package = tmp_path / "package" / "network.zip"
    # In a process of its own, because bioimageio.spec leaves files open, which warns.
    flags = ("--mode=export", "--format=bioimageio", f"--workdir={run}", *ABOUT)
    code, text = launch(*flags, f"--output={package.parent}")
    assert code == 0, text
    assert f"bioimageio test {package} tests it" in text
    summary = tmp_path / "summary.json"
    done = subprocess.run(
        [sys.executable, "-m", "bioimageio.core", "test", package, f"--summary={summary}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(summary.read_text())["status"] == "passed"


def test_the_commands_of_the_page_are_of_flags_that_exist():
    formats = {parse_here(*arguments).format for arguments in page_commands()}
    assert formats == {"onnx", "bioimageio"}


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
