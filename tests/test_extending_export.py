"""The export format of docs/extending.md works as one new file."""

import json
import pathlib

import numpy as np
import pytest
from flax import traverse_util
from launched import run_here
from made_runs import make_run, random_variables, small_config

from unet_jax.core.intensities import Intensities


def export(run: pathlib.Path, output: pathlib.Path) -> tuple[int, str]:
    return run_here("--mode=export", "--format=npz", f"--workdir={run}", f"--output={output}")


@pytest.mark.slow
def test_a_new_format_is_one_file(documented, tmp_path):
    documented("unet_jax/interchange/npz.py")
    limits = {"data__normalize": "limits", "data__limits": (-20.0, 300.0), "data__dtype": "int16"}
    config, output = small_config(**limits), tmp_path / "exported"
    run = make_run(tmp_path / "run", config, 3)
    code, output_text = export(run, output)
    assert code == 0, output_text
    assert f"the weights are in {output}/weights.npz" in output_text
    expected = traverse_util.flatten_dict(random_variables(config, 3, seed=7), sep="/")
    with np.load(output / "weights.npz") as found:
        assert {*found} == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array)
    fields = json.loads((output / "model.json").read_text())
    assert (fields["step"], fields["channels"], fields["model"]["width"]) == (7, 3, 3)
    # All that maps stored values to the network's input goes along.
    given = {
        name: tuple(x) if isinstance(x, list) else x for name, x in fields["intensities"].items()
    }
    assert Intensities(**given) == Intensities.of(config.data) == Intensities(limits=(-20.0, 300.0))

    code, output_text = export(run, output)
    assert code == 2
    assert "exists and has files" in output_text
    (output / "model.json").unlink()  # as after a kill
    assert export(run, output)[0] == 0
    assert (output / "model.json").exists()
