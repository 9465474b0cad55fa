"""Tests of the comparison's command, on a small version of the demo experiment."""

import json
import pathlib

import pytest
from launched import last_of_each, run_here
from made_data import TINY
from made_runs import make_run, small_config
from pictures import _no_pictures as _no_pictures

from benchmarks import compare
from benchmarks.pytorch import runs, throughput
from benchmarks.pytorch.train_twin import open_config
from benchmarks.pytorch.variants import Variant
from unet_jax.core.config import differences
from unet_jax.core.files import read_json, write_json

# ml_collections loads configs with a deprecated function.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def launch(arguments: list[str], log: pathlib.Path, real=compare.launch) -> int:
    """Trains this project's network in this process; all else has a process of its own."""
    if arguments[:1] != compare.COMMANDS["jax"]:
        return real(arguments, log)
    code, output = run_here(*arguments[1:])
    log.write_text(output)
    return code


@pytest.mark.slow
def test_both_frameworks_are_trained_evaluated_and_timed_once(
    stacks, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(compare, "launch", launch)
    monkeypatch.setattr(runs, "variants", lambda _: [Variant(), Variant(bfloat16=True)])
    for name, value in {"SECONDS": 0.1, "ROUNDS": 1, "STEPS": 2}.items():
        monkeypatch.setattr(throughput, name, value)
    arguments = last_of_each(
        (*TINY, "--config.num_epochs=1", "--config.model.depth=1", f"--config.data.root={stacks}")
    )
    arguments.append("--compile=")
    arguments += ["--seeds=3", f"--out={tmp_path}"]
    assert compare.main(arguments) == 0
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["seeds"] == [3]
    for framework in ("jax", "torch"):
        run = tmp_path / f"{framework}-seed3"
        assert read_json(run / "config.json")["config"]["seed"] == 3
        assert content["accuracy"]["loss"][framework] == [read_json(run / "report.json")["loss"]]
    ours, theirs = (content["accuracy"]["loss"][name] for name in ("jax", "torch"))
    assert ours == pytest.approx(theirs, rel=1e-2)
    assert set(content["speed"]) == set(compare.SPEEDS)
    for values in content["speed"].values():
        assert set(values) == {"jax", "torch"} and min(values.values()) > 0
    page = (tmp_path / "comparison.md").read_text()
    assert f"| {ours[0]:.4f} ({ours[0]:.4f} – {ours[0]:.4f}) |" in page
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")

    def never(*_):
        raise AssertionError("a finished run was started again")

    monkeypatch.setattr(compare, "launch", never)
    assert compare.main(arguments) == 0
    again = json.loads((tmp_path / "comparison.json").read_text())
    assert again | {"commit": ""} == content | {"commit": ""}  # someone may commit meanwhile

    capsys.readouterr()
    assert compare.main(last_of_each((*arguments, "--config.model.width=8"))) == 2
    assert "model.width" in capsys.readouterr().err


def test_the_page_has_the_means_over_the_seeds(tmp_path):
    losses = {("jax", 3): 0.25, ("jax", 4): 0.75, ("torch", 3): 0.5, ("torch", 4): 0.25}
    for (framework, seed), loss in losses.items():
        statistics = {"mean": loss, "min": loss, "max": loss, "pooled": None}
        path = tmp_path / f"{framework}-seed{seed}/report.json"
        path.parent.mkdir()
        write_json(path, {"aggregate": {"loss": statistics}})
    accuracy = compare.accuracy(tmp_path, [3, 4])
    assert accuracy == {"loss": {"jax": [0.25, 0.75], "torch": [0.5, 0.25]}}
    content = dict.fromkeys(("config", "command", "commit", "device", "cores"), "x")
    speed = {measure: {"jax": 3.0, "torch": 2.0} for measure in compare.SPEEDS}
    content |= {"seeds": [3, 4], "versions": {}, "accuracy": accuracy, "speed": speed}
    page = compare.write_page(content)
    assert "| 0.5000 (0.2500 – 0.7500) | 0.3750 (0.2500 – 0.5000) | +0.1250 |" in page
    assert page.count("| 3 | 2 | 1.50 |") == len(compare.SPEEDS)
    figure = compare.plot_curves({run: [] for run in losses})
    assert [axes.get_title() for axes in figure.axes] == ["train loss", "validation loss"]


def test_the_config_of_a_run_is_that_of_both(stacks, tmp_path, capsys):
    fields = {"optim.ema_decay": 0.99, "eval.threshold": 0.0, "data.augment": ("flip",)}
    config = small_config(**{name.replace(".", "__"): value for name, value in fields.items()})
    config.data.root = str(stacks)
    run = make_run(tmp_path / "run", config, 1)
    arguments = compare.config_of_run(str(run), tmp_path)
    loaded, _ = open_config(arguments)
    config.optim.ema_decay = 0.0
    assert differences(config, loaded, {"data.dtype"}) == []  # resolved by `open_config`
    assert "optim.ema_decay=0.99 of the run is 0.0 here, for both" in capsys.readouterr().out
    both = [f"--run={run}", "--config=configs/demo.py", f"--out={tmp_path}"]
    assert compare.main(both) == 2
    assert "has a config; leave --config out" in capsys.readouterr().err


def test_the_accuracy_is_written_before_the_speed_is_measured():
    content = dict.fromkeys(("config", "command", "commit", "device", "cores"), "x")
    content |= {"seeds": [0], "versions": {}, "accuracy": {"loss": {"jax": [1.0], "torch": [2.0]}}}
    page = compare.write_page(content)
    assert "| -1.0000 |" in page and "not measured yet" in page


def test_a_failed_run_is_reported(stacks, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare, "launch", lambda *_: 1)
    code = compare.main([*TINY, f"--config.data.root={stacks}", f"--out={tmp_path}"])
    assert code == 2
    assert str(tmp_path / "jax-seed0.log") in capsys.readouterr().err


def test_an_interrupted_run_interrupts_the_comparison(stacks, tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "launch", lambda *_: 75)
    assert compare.main([*TINY, f"--config.data.root={stacks}", f"--out={tmp_path}"]) == 75
