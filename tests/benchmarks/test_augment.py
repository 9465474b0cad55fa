"""Tests of the augmentation benchmark, on small images."""

import sys

import pytest

from benchmarks import augment


def test_the_table_has_every_transform(monkeypatch, capsys):
    monkeypatch.setattr(augment, "ROUNDS", 2)
    monkeypatch.setattr(augment, "IMAGES", 1)
    monkeypatch.setattr(augment, "SHAPES", ((20, 24, 3), (16, 16, 1)))
    monkeypatch.setattr(sys, "argv", ["augment", "--size=16"])
    augment.main()
    out = capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in out.splitlines() if line.startswith("|")]
    cells = {row[0]: row[1:] for row in rows}
    assert {"none", "elastic", "randaugment", ", ".join(augment.COMBINED)} <= {*cells}
    assert len(cells["noise"]) == 4 and len(cells["hue"]) == 2  # for RGB images only
    assert "map_coordinates" in out


def test_configs_are_found_by_their_file():
    assert augment.open_config("configs/drive.py:native,small").name == "drive-native-small"
    assert augment.open_config("configs/demo.py").name == "demo"


@pytest.mark.parametrize("rates", [[3.0, 1.0, 2.0]])
def test_medians_and_ranges(rates):
    assert augment.median_and_range(rates) == "2 (1-3)"
