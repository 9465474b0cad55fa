"""Tests of this project as a peer: its runs are trained, predicted and scored as any other's."""

import json
import pathlib
import time

import pytest
from launched import last_of_each, run_here
from made_data import TINY
from pictures import _no_pictures as _no_pictures

from benchmarks.peers import compare, pace, project
from benchmarks.peers.ours import Ours
from unet_jax.reporting.launching import LAUNCHER

# ml_collections loads configs with a deprecated function.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def execute(arguments: list[str], log: pathlib.Path, environment: object = None) -> float:
    """Runs the launcher in this process."""
    started = time.time()
    assert arguments[0] == str(LAUNCHER)
    assert last_of_each(arguments) == arguments  # the launcher refuses a repeated field
    code, output = run_here(*arguments[1:])
    assert code == 0, output
    return started


@pytest.mark.slow
def test_its_epochs_are_scaled_and_its_predictions_score_as_its_report(
    stacks, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(project, "execute", execute)
    monkeypatch.setattr(pace, "LEAST_STEPS", 6)
    monkeypatch.setattr(pace, "measure", lambda history, started: pace.Pace(1.0, 5.0, 4.5))
    arguments = last_of_each((*TINY, "--config.num_epochs=4", f"--config.data.root={stacks}"))
    arguments.append("--config.eval.threshold=0")  # chosen by the training
    arguments += [f"--out={tmp_path}", "--minutes=1", "--seeds=3", "--peers=ours"]
    assert compare.main(arguments, {"ours": Ours()}) == 0, capsys.readouterr().out
    folder = tmp_path / "ours-seed3"
    config = json.loads((folder / "run/config.json").read_text())["config"]
    # 3 steps of 5 s and a validation of 4.5 s an epoch, after a start of 1 s: three epochs would
    # take 59.5 s, which leaves no reserve
    assert config["num_epochs"] == 2 and config["seed"] == 3
    training = json.loads((folder / "training.json").read_text())
    assert training["steps"] == 6 and training["seconds"] > 0
    own = json.loads((folder / "run/report.json").read_text())["aggregate"]
    scored = json.loads((folder / "report.json").read_text())["aggregate"]
    for metric in ("dice", "auc", "v_rand"):
        assert scored[metric]["mean"] == pytest.approx(own[metric]["mean"], abs=1e-4)
    # BCE at native size is what this run minimises.
    assert scored["loss"]["mean"] == pytest.approx(own["loss"]["mean"], abs=1e-4)
    assert (folder / "report-tta.json").exists()
    assert "--config.num_epochs=2" in (tmp_path / "peers.md").read_text()
