"""The commands of docs/fine-tuning.md and docs/pretrained-encoders.md."""

import json
import pathlib
import re

import pytest
from launched import ROOT, last_of_each, parse_here, run_here
from made_files import noise, save
from own_images import commands_of
from pictures import _no_pictures as _no_pictures

from unet_jax.runs.experiment import check


def commands(page: str) -> list[list[str]]:
    """The arguments of each call of launch.py on a page of docs/."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    return [x[1:] for block in blocks for x in commands_of(block) if x[0] == "launch.py"]


COMMANDS = commands("fine-tuning.md")
PRETRAINED = commands("pretrained-encoders.md")
SMALLER = ("model.width=2", "model.depth=1", "data.size=32", "data.fit=crop", "num_epochs=1")
CELLS = "--config.data.root=cells"


@pytest.mark.parametrize("arguments", [*COMMANDS, *PRETRAINED])
def test_the_commands_are_of_fields_that_exist(arguments):
    check(parse_here(*arguments).config)


@pytest.mark.slow
def test_the_commands_run(stacks, tmp_path):
    for i in range(10):
        save(tmp_path / "cells" / "images" / f"{i}.png", noise((40, 40), seed=i))
        save(tmp_path / "cells" / "masks" / f"{i}.png", 255 * noise((40, 40), seed=i, below=2))
    reports = []
    for arguments in COMMANDS:
        here = [x.replace("=runs/", f"={tmp_path}/runs/") for x in arguments]
        root = tmp_path / "cells" if CELLS in arguments else stacks
        smaller = [f"--config.{field}" for field in SMALLER]
        code, output = run_here(*last_of_each([*here, f"--config.data.root={root}", *smaller]))
        assert code == 0, output
        assert ("arrays taken" in output) == any(x.startswith("--init_from=") for x in arguments)
        (workdir,) = (x.partition("=")[2] for x in here if x.startswith("--workdir="))
        reports.append(json.loads((pathlib.Path(workdir) / "report.json").read_text()))
    assert len({report["loss"] for report in reports}) == len(COMMANDS) == 4
