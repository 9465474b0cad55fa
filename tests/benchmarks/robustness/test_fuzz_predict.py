"""A folder of damaged files and giants: the good ones among them are predicted."""

import json

import pytest
from launched import WITHOUT_PICTURES

from benchmarks.robustness import fuzz_predict


@pytest.mark.slow
def test_good_files_among_damaged_ones_are_predicted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fuzz_predict, "LAUNCHER", WITHOUT_PICTURES)
    arguments = ["--files=12", "--good=3", "--seed=2", "--seconds=600", f"--folder={tmp_path}"]
    code = fuzz_predict.main(arguments)
    report = json.loads(capsys.readouterr().out)
    assert code == 0, (report, (tmp_path / "output.txt").read_text())
    assert report["good predicted"] == 3
    assert report["refused"] + report["predicted"] == 15
    assert report["refused"] > 2
