"""docs/quickstart.ipynb runs from top to bottom, and stores small outputs without machine paths."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from launched import ROOT

NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]
SHELL = re.compile(r"^( *)!((?:.*\\\n)*.*)$", re.MULTILINE)  # a line of IPython's, and its rest


def script() -> str:
    """The notebook's code as a plain Python program."""
    code = "\n\n".join("".join(cell["source"]) for cell in CODE)
    run = r"\1subprocess.run('''\2''', shell=True, check=True)"
    return "import subprocess\n\n" + SHELL.sub(lambda found: found.expand(run), code)


def test_the_stored_outputs_are_small_and_of_any_machine():
    text = NOTEBOOK.read_text()
    assert len(text) < 400_000
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    for cell in CODE:
        for output in cell["outputs"]:
            assert output["output_type"] in ("stream", "display_data")
            assert output.get("name") != "stderr", output
            shown = "".join(output.get("text", output.get("data", {}).get("text/plain", [])))
            assert not re.search(r"/(home|root|tmp|Users|content)\b|[A-Z]:\\", shown), shown
    assert any("image/png" in output.get("data", {}) for cell in CODE for output in cell["outputs"])
    compile(script(), str(NOTEBOOK), "exec")


def run_as_jupyter_does(code: str, folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """Runs code in a folder that `import` searches first, with nothing else of this checkout."""
    binaries = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-"],
        input=code,
        cwd=folder,
        env=environment | {"MPLBACKEND": "Agg", "PATH": binaries},
        capture_output=True,
        text=True,
        timeout=600,
    )


def clone(folder: pathlib.Path) -> pathlib.Path:
    """Copies the files that git tracks, and no other."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this folder is not a clone")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "benchmarks/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.mark.slow
def test_the_notebook_runs_in_a_clean_clone(tmp_path):
    assert "num_epochs=6" in script()
    code = script().replace("num_epochs=6", "num_epochs=1")
    done = run_as_jupyter_does(code, clone(tmp_path / "clone") / "docs")
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) of \d+ pixels differ", done.stdout)[1]) < 10
    assert (tmp_path / "clone" / "runs" / "quickstart" / "report.html").exists()


def test_elsewhere_the_notebook_says_what_it_needs(tmp_path):
    done = run_as_jupyter_does("".join(CODE[0]["source"]), tmp_path)
    assert done.returncode and "is not in a clone of the repository: os.chdir to one" in done.stderr


def test_the_notebook_names_no_address_to_fill_in():
    assert not re.search(r"OWNER|example\.(com|org)|git clone", NOTEBOOK.read_text())
