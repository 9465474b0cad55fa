"""The commands of docs/training.md."""

import json

import pytest
from launched import last_of_each, parse_here, run_here
from made_data import TINY
from pictures import _no_pictures as _no_pictures
from test_fine_tuning import commands

from unet_jax.runs.experiment import check

# Of those before, other tests run the like.
COMMANDS = commands("training.md")[2:]
SMALLER = [x for x in TINY if not x.startswith("--config=")]


@pytest.mark.parametrize("arguments", COMMANDS)
def test_the_commands_are_of_fields_that_exist(arguments):
    check(parse_here(*arguments).config)


@pytest.mark.slow
def test_the_commands_run(stacks, tmp_path):
    """All but that for TPUs, of which there are none here."""
    reports = []
    for number, arguments in enumerate(COMMANDS):
        here = [x for x in arguments if not x.startswith("--workdir=")]
        here += [*SMALLER, f"--config.data.root={stacks}"]
        code, output = run_here(*last_of_each([*here, f"--workdir={tmp_path / str(number)}"]))
        if "--platform=tpu" in arguments:
            assert code == 2 and "JAX cannot compute on tpu here" in output
            continue
        assert code == 0, output
        assert ("in 4 micro-batches" in output) == any("accumulate=4" in x for x in arguments)
        reports.append(json.loads((tmp_path / str(number) / "report.json").read_text()))
    assert len(reports) == len(COMMANDS) - 1 == 4
