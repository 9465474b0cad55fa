import random

import pytest
from launched import ROOT, WITHOUT_PICTURES
from made_data import TINY

from benchmarks.robustness import kills


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_saves_loses_no_more_than_they_would_have_saved(
    finished, stacks, tmp_path, monkeypatch
):
    monkeypatch.chdir(ROOT)
    # `kills` adds the number of epochs itself.
    monkeypatch.setattr(kills, "TINY", [x for x in TINY if "num_epochs" not in x])
    monkeypatch.setattr(kills, "LAUNCHER", WITHOUT_PICTURES)
    monkeypatch.setattr(kills, "INTERVAL", 3)
    monkeypatch.setattr(kills, "DELAY", 0.0)
    kinds = ["while saving", "while saving"]
    epochs, rng = [4, 4, 4], random.Random(14)
    counts = kills.run_to_the_end(tmp_path / "run", stacks, kinds, epochs, 10.0, rng)
    assert counts["SIGKILL"] == 2
    assert counts["during a save"] >= 1
    assert kills.outcome(tmp_path / "run") == kills.outcome(finished)


def test_the_expected_checkpoint_follows_from_the_logged_steps(tmp_path):
    run = tmp_path / "run"
    kills.log_of(run).write_text("steps        48: 8 epochs\nstep 6/48  loss 1\n")
    assert kills.resumed_from(run) == 0
    assert kills.newest_on_disk(run, 0) == 0  # the first save may not have begun
    kills.log_of(run).write_text("steps  ; resumes from step 12\nstep 19/48  loss\n")
    assert kills.resumed_from(run) == 12
    assert kills.newest_on_disk(run, 12) == 18
    (run / "checkpoints" / "18.orbax-checkpoint-tmp").mkdir(parents=True)
    assert kills.newest_on_disk(run, 0) == 12
    kills.log_of(run).write_text("")
    assert kills.resumed_from(run) is None
