"""Tests of the comparison's command, on a small version of the demo experiment."""

import json

import pytest
from launched import last_of_each
from made_data import TINY

from benchmarks import compare, speed
from benchmarks.pytorch import throughput
from benchmarks.pytorch.variants import Variant

# ml_collections loads configs with a deprecated function.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.mark.slow
def test_both_frameworks_are_trained_evaluated_and_timed_once(
    stacks, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(speed, "variants", lambda _: [Variant(), Variant(bfloat16=True)])
    monkeypatch.setattr(throughput, "SECONDS", 0.1)
    arguments = last_of_each((*TINY, "--config.num_epochs=1", f"--config.data.root={stacks}"))
    arguments.append("--compile=")
    arguments += ["--seeds=3,4", f"--out={tmp_path}"]
    assert compare.main(arguments) == 0
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["seeds"] == [3, 4]
    for framework in ("jax", "torch"):
        means = [
            json.loads((tmp_path / f"{framework}-seed{seed}/report.json").read_text())["loss"]
            for seed in (3, 4)
        ]
        assert content["accuracy"]["loss"][framework] == means
        assert means[0] != means[1]
    ours, theirs = (content["accuracy"]["loss"][name] for name in ("jax", "torch"))
    assert ours == pytest.approx(theirs, rel=1e-2)
    assert set(content["speed"]) == set(compare.SPEEDS)
    for values in content["speed"].values():
        assert set(values) == {"jax", "torch"} and min(values.values()) > 0
    page = (tmp_path / "comparison.md").read_text()
    mean = sum(ours) / 2
    assert f"| {mean:.4f} ({min(ours):.4f} – {max(ours):.4f}) |" in page
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")

    def never(*_):
        raise AssertionError("a finished run was started again")

    monkeypatch.setattr(compare, "launch", never)
    assert compare.main(arguments) == 0
    assert json.loads((tmp_path / "comparison.json").read_text()) == content

    capsys.readouterr()
    assert compare.main(last_of_each((*arguments, "--config.model.width=8"))) == 2
    assert "model.width" in capsys.readouterr().err


def test_a_failed_run_is_reported(stacks, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare, "launch", lambda *_: 1)
    code = compare.main([*TINY, f"--config.data.root={stacks}", f"--out={tmp_path}"])
    assert code == 2
    assert str(tmp_path / "jax-seed0.log") in capsys.readouterr().err


def test_an_interrupted_run_interrupts_the_comparison(stacks, tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "launch", lambda *_: 75)
    assert compare.main([*TINY, f"--config.data.root={stacks}", f"--out={tmp_path}"]) == 75
