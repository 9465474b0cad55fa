"""The code of docs/python-api.md and of the README's section on it runs."""

import contextlib
import io
import json
import pathlib
import re

import numpy as np
import pytest
import tifffile
from launched import ROOT
from made_files import noise, save
from made_runs import make_run, small_config

PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """What the pages name: runs, one with a report, a slice, a stack and a labelled folder."""
    folder = tmp_path_factory.mktemp("pages")
    run = make_run(folder / "runs" / "isbi-small", small_config(model__depth=1), 1, calm=True)
    report = {"aggregate": {"dice": {"mean": 0.9}}}
    (run / "report.json").write_text(json.dumps(report))
    make_run(folder / "runs" / "demo", small_config(model__depth=1), 1, calm=True)
    save(folder / "slice.png", noise((64, 64)))
    stack = folder / "data" / "phantom" / "train-volume.tif"
    stack.parent.mkdir(parents=True)
    pages = np.stack([noise((64, 64), seed=i) for i in range(3)])
    tifffile.imwrite(stack, pages, photometric="minisblack")
    for i in range(2):
        save(folder / "cells" / "images" / f"{i}.png", noise((32, 32), seed=i))
        save(folder / "cells" / "masks" / f"{i}.png", 255 * noise((32, 32), below=2))
    return folder


def run_code(code: str, folder: pathlib.Path) -> tuple[dict, str]:
    """Runs a script in a folder; returns what it defines and what it prints."""
    names, output = {}, io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(output):
        exec(compile(code, "page", "exec"), names)
    return names, output.getvalue()


@pytest.mark.slow
def test_the_page_s_code_runs_from_top_to_bottom(folder):
    blocks = PYTHON.findall((ROOT / "docs" / "python-api.md").read_text())
    assert len(blocks) == 8
    names, output = run_code("\n".join(blocks), folder)
    assert output.startswith("(64, 64) 0.")
    assert (folder / "exported" / "network.onnx").exists()
    assert "pixels of type float32; the run was trained on uint8 or uint16" in output
    assert set(names["variables"]) == {"params", "batch_stats"}
    assert 0 <= names["report"]["aggregate"]["dice"]["mean"] <= 1


@pytest.mark.parametrize("page", ["README.md", "docs/getting-started.md"])
def test_the_code_of_the_first_pages_runs(folder, page):
    (code,) = (x for x in PYTHON.findall((ROOT / page).read_text()) if "load_run" in x)
    assert len(code.strip().splitlines()) <= 5
    names, _ = run_code(code, folder)
    assert names["masks"].shape == (3, 64, 64) and names["masks"].dtype == np.uint8
