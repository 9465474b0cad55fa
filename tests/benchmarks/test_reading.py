"""Tests of the reading benchmark, on a small data set."""

import os
import sys

import numpy as np
import pytest
from made_files import noise, save

from benchmarks import reading
from unet_jax.data.files import images


@pytest.fixture
def folder(tmp_path):
    """A data set of configs/folder.py."""
    for name in "abcdefgh":
        save(tmp_path / "folder" / "images" / f"{name}.png", noise((20, 24, 3)))
        save(tmp_path / "folder" / "masks" / f"{name}.png", noise((20, 24), below=2))
    return tmp_path


def test_a_row_has_all_columns(folder, monkeypatch, capsys):
    before = os.environ.get("XDG_CACHE_HOME"), images.stamp_of
    monkeypatch.setattr(reading, "ROUNDS", 2)
    arguments = ["reading", f"--data={folder}", "--images=5", "--config=configs/folder.py"]
    monkeypatch.setattr(sys, "argv", arguments)
    reading.main()
    head, _, row = capsys.readouterr().out.splitlines()
    assert head.count("|") == row.count("|") == len(reading.COLUMNS) + 2
    name, _, _, *rates, stages, longest = row.strip("| ").split(" | ")
    assert name == "folder, 8 images"
    assert all(float(rate) > 0 for rate in rates)
    assert "decode" in stages and longest.split()[0] in stages
    assert (os.environ.get("XDG_CACHE_HOME"), images.stamp_of) == before


def test_stages_are_those_of_the_config(folder, monkeypatch):
    config = reading.open_config("configs/folder.py")
    config.data.root, config.data.fit = str(folder / "folder"), "resize"
    config.data.normalize = "range"
    dataset, seconds = reading.time_openings(config)
    assert len(seconds) == 2
    rng = np.random.default_rng(0)
    stages = reading.time_round(dataset.splits["train"], config, np.arange(3), rng)
    assert [*stages] == ["check", "decode", "resize", "augment", "batch"]
    assert min(stages["decode"], stages["resize"], stages["augment"]) > 0
