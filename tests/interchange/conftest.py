"""A run that exports are made of."""

import pathlib

import pytest
from launched import launch

FIELDS = (
    "--config=configs/isbi.py:small",
    "--config.model.width=4",
    "--config.model.depth=2",
    "--config.data.size=32",
    "--config.num_epochs=3",
)


@pytest.fixture(scope="session")
def trained(stacks, made_once) -> pathlib.Path:
    """A run that has learnt to tell dark from bright."""

    def make(folder: pathlib.Path) -> None:
        code, output = launch(*FIELDS, f"--config.data.root={stacks}", f"--workdir={folder}")
        assert code == 0, output

    return made_once("exported-run", make)
