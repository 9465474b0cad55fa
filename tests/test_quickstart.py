"""docs/quickstart.ipynb runs from top to bottom, and stores small outputs without machine paths."""

import json
import os
import re
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


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    for name in ("launch.py", "configs", "unet_jax", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "pages").mkdir()  # where Jupyter starts, beside the repository's own
    assert "num_epochs=6" in script()
    (tmp_path / "script.py").write_text(script().replace("num_epochs=6", "num_epochs=1"))
    binaries = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", tmp_path / "script.py"],
        cwd=tmp_path / "pages",
        env=os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", "PATH": binaries},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) of \d+ pixels differ", done.stdout)[1]) < 10
    assert (tmp_path / "runs" / "quickstart" / "report.html").exists()
