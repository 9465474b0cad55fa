"""A finished run with more epochs ends as one that had them from the beginning."""

import contextlib
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from launched import history
from made_runs import set_losses

from unet_jax.core.errors import UserError
from unet_jax.core.stop import Interrupted, StopSignal
from unet_jax.distributed import devices
from unet_jax.runs.checkpoints import Checkpoints
from unet_jax.training.loop import train
from unet_jax.training.plan import Plan

MESH = devices.local_mesh(jax.devices()[:1])


def best_of(folder):
    """The best model's step, metrics and arrays."""
    with contextlib.closing(Checkpoints(folder, 2, {}, read_only=True)) as saved:
        best = saved.bests[0]
        with contextlib.closing(saved._best):
            restored = saved._best.restore(best.step)["model"]
    return best, jax.tree.leaves(restored)


def assert_same_run(one, other):
    assert history(one) == history(other)
    (best, arrays), (other_best, other_arrays) = best_of(one), best_of(other)
    assert best == other_best
    for a, b in zip(arrays, other_arrays, strict=True):
        np.testing.assert_array_equal(a, b)


# Two steps an epoch, an evaluation each two epochs; step 6 is evaluated as the end alone.
LOSSES = {
    "the old end is the lowest and the new one lower than before": {4: 0.5, 6: 0.1, 8: 0.3},
    "the old end took the place of the best": {4: 0.5, 6: 0.1, 8: 0.9},
    "the old end is not the best": {4: 0.2, 6: 0.4, 8: 0.3},
}


FIRST, SECOND, THIRD = LOSSES


@pytest.mark.slow
@pytest.mark.parametrize(("case", "stopped"), [(FIRST, True), (SECOND, True), (THIRD, False)])
def test_extended_is_uninterrupted(config, dataset, tmp_path, monkeypatch, case, stopped):
    """Also where the extension is stopped between the old end and its first evaluation."""
    set_losses(monkeypatch, LOSSES[case])
    config.eval.every_epochs = 2
    config.num_epochs = 4
    whole = train(config, dataset, tmp_path / "whole", MESH)
    config.num_epochs = 3
    short = train(config, dataset, tmp_path / "extended", MESH)
    assert short["step"] == min((4, 6), key=LOSSES[case].get)
    config.num_epochs = 4
    if stopped:
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            patch.setattr(StopSignal, "requested", True)
            train(config, dataset, tmp_path / "extended", MESH)
    assert train(config, dataset, tmp_path / "extended", MESH) == whole
    assert_same_run(tmp_path / "extended", tmp_path / "whole")


@pytest.mark.slow
def test_extended_before_the_first_regular_evaluation(config, dataset, tmp_path, monkeypatch):
    """Again and again, with saves on other schedules than evaluations."""
    set_losses(monkeypatch, {2: 0.1, 4: 0.5, 6: 0.2, 8: 0.6, 10: 0.7})
    config.eval.every_epochs = 2
    config.checkpoint.every_epochs, config.checkpoint.keep = 3, 1
    config.num_epochs = 5
    whole = train(config, dataset, tmp_path / "whole", MESH)
    for config.num_epochs in (1, 3, 5):
        report = train(config, dataset, tmp_path / "extended", MESH)
    assert report == whole
    assert report["step"] == 4
    assert_same_run(tmp_path / "extended", tmp_path / "whole")


@pytest.mark.slow
def test_the_same_command_after_an_end_outside_the_schedule_only_reports(
    config, dataset, tmp_path, monkeypatch
):
    set_losses(monkeypatch, {4: 0.5, 6: 0.1})
    config.eval.every_epochs = 2
    config.num_epochs = 3
    first = train(config, dataset, tmp_path, MESH)
    lines = history(tmp_path)
    assert {path.name for path in (tmp_path / "best").iterdir()} == {"4", "6"}
    assert train(config, dataset, tmp_path, MESH) == first
    assert first["step"] == 6
    assert history(tmp_path) == lines
    assert {path.name for path in (tmp_path / "best").iterdir()} == {"4", "6"}


@pytest.mark.slow
def test_fewer_epochs_than_were_trained_are_refused(config, dataset, tmp_path):
    """The report would be of another run than its config says."""
    train(config, dataset, tmp_path, MESH)
    config.num_epochs = 1
    pattern = r"num_epochs=1: the run in .* is already at step 4, in epoch 2; set num_epochs"
    with pytest.raises(UserError, match=pattern):
        train(config, dataset, tmp_path, MESH)
    config.num_epochs = 2
    train(config, dataset, tmp_path, MESH)


def test_the_only_best_model_of_an_older_version_is_kept():
    """It deleted the regular one before it: nothing else would be left of the training so far."""
    plan = Plan(steps_per_epoch=2, num_epochs=4)
    assert plan.ends_of_shorter_runs([6, 4], every_epochs=2) == [6]
    assert plan.ends_of_shorter_runs([6], every_epochs=2) == []
    assert plan.ends_of_shorter_runs([2], every_epochs=2) == [
        2
    ]  # before the first regular evaluation
    assert plan.ends_of_shorter_runs([8, 4], every_epochs=2) == []
    assert plan.ends_of_shorter_runs([], every_epochs=2) == []


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    losses=st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=9, max_size=9),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4).map(sorted),
    every=st.integers(1, 4),
)
def test_any_extensions_choose_what_one_run_chooses(losses, lengths, every):
    """The rules of `train` and `validate` alone, on a list in the place of `best/`."""

    def run(lengths):
        kept = []  # steps in best/, the best first
        for length, start in zip(lengths, [0, *lengths], strict=False):
            plan = Plan(1, length)
            ends = plan.ends_of_shorter_runs(kept, every)
            kept = [step for step in kept if step not in ends]
            # A start evaluates the state that it resumes from once more.
            for step in itertools.chain([start] * (start > 0), range(start + 1, length + 1)):
                if not plan.is_due(step, every):
                    continue
                if not kept or losses[step - 1] < losses[kept[0] - 1]:
                    others = [other for other in kept if other != step]
                    kept = [step, *others[: int(not plan.is_regular(step, every))]]
        return kept[0]

    assert run(lengths) == run(lengths[-1:])
