"""The export format of docs/extending.md works as one new file."""

import json
import pathlib
import re
import sys

import numpy as np
import pytest
from flax import traverse_util
from launched import ROOT, run_here
from made_runs import make_run, random_variables, small_config

from unet_jax import interchange
from unet_jax.interchange.registry import EXPORTERS


def code_of(path: str) -> str:
    """The code of a file that the page shows."""
    page = (ROOT / "docs" / "extending.md").read_text()
    return re.search(rf"<!-- file: {re.escape(path)} -->\n+```python\n(.*?)```", page, re.DOTALL)[1]


@pytest.fixture
def npz(tmp_path, monkeypatch):
    """Adds the page's file to the package, in a folder of its own."""
    list(EXPORTERS)  # the other formats stay registered after the test
    (tmp_path / "added").mkdir()
    (tmp_path / "added" / "npz.py").write_text(code_of("unet_jax/interchange/npz.py"))
    monkeypatch.setattr(interchange, "__path__", [*interchange.__path__, str(tmp_path / "added")])
    monkeypatch.setattr(EXPORTERS, "_entries", {**EXPORTERS})
    monkeypatch.setattr(EXPORTERS, "_searched", False)
    yield
    sys.modules.pop("unet_jax.interchange.npz", None)


def export(run: pathlib.Path, output: pathlib.Path) -> tuple[int, str]:
    return run_here("--mode=export", "--format=npz", f"--workdir={run}", f"--output={output}")


def test_a_new_format_is_one_file(npz, tmp_path):
    config, output = small_config(), tmp_path / "exported"
    run = make_run(tmp_path / "run", config, 3)
    code, said = export(run, output)
    assert code == 0, said
    assert f"the weights are in {output}/weights.npz" in said
    expected = traverse_util.flatten_dict(random_variables(config, 3, seed=7), sep="/")
    with np.load(output / "weights.npz") as found:
        assert {*found} == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array)
    fields = json.loads((output / "model.json").read_text())
    assert (fields["step"], fields["channels"], fields["model"]["width"]) == (7, 3, 3)

    code, said = export(run, output)
    assert code == 2
    assert "exists and is not an empty folder" in said
    (output / "model.json").unlink()  # as after a kill
    assert export(run, output)[0] == 0
    assert (output / "model.json").exists()
