"""Early stopping: the validation after which a run ends, however often it was interrupted."""

import dataclasses
import json
import types

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from launched import history
from made_data import make_split
from made_runs import set_losses, signal_after
from ml_collections import ConfigDict

from unet_jax.core.errors import UserError
from unet_jax.core.stop import Interrupted
from unet_jax.distributed import devices
from unet_jax.evaluation.task import check_selection
from unet_jax.metrics.registry import Task
from unet_jax.runs.best import Best
from unet_jax.training import loop, validation
from unet_jax.training.loop import train
from unet_jax.training.plan import Plan
from unet_jax.training.validation import RunContext

MESH = devices.local_mesh(jax.devices()[:1])
# Two steps an epoch, a validation after each.
LOSSES = {2: 0.5, 4: 0.3, 6: 0.4, 8: 0.3, 10: 0.2, 12: 0.6, 14: 0.6, 16: 0.1}


def test_a_run_ends_with_the_validation_that_exhausts_its_patience(
    config, dataset, tmp_path, monkeypatch, capsys
):
    set_losses(monkeypatch, LOSSES)
    config.num_epochs, config.optim.patience = 8, 2
    report = train(config, dataset, tmp_path, MESH)
    reason = "stopped early after step 8 of 16: loss has not improved in 2 validations since step 4"
    assert report["step"] == 4
    assert report["notes"] == [f"{reason} (optim.patience=2)"]
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert reason in (tmp_path / "report.md").read_text()
    assert f"complete     {reason}" in capsys.readouterr().out
    lines = history(tmp_path)
    assert [line["step"] for line in lines if line["split"] == "validation"] == [2, 4, 6, 8]

    # Rerunning the command validates the last step again, and trains no further.
    assert train(config, dataset, tmp_path, MESH) == report
    assert f"complete     {reason}" in capsys.readouterr().out
    assert history(tmp_path) == lines

    config.optim.patience = 3
    longer = train(config, dataset, tmp_path, MESH)
    assert longer["step"] == 16 and longer["notes"] == []
    assert history(tmp_path)[: len(lines) - 1] == lines[:-1]


@pytest.mark.slow
def test_an_interrupted_run_ends_at_the_same_step(config, dataset, tmp_path, monkeypatch):
    """Stopped in the step whose validation would end it, and before."""
    set_losses(monkeypatch, LOSSES)
    config.num_epochs, config.optim.patience, config.optim.schedule = 8, 2, "cosine"
    config.eval.best = "loss"
    whole = train(config, dataset, tmp_path / "whole", MESH)
    for step in (3, 8):
        with monkeypatch.context() as patch:
            signal_after(step, patch)
            with pytest.raises(Interrupted):
                train(config, dataset, tmp_path / "parts", MESH)
    assert train(config, dataset, tmp_path / "parts", MESH) == whole
    assert history(tmp_path / "parts") == history(tmp_path / "whole")


@pytest.mark.parametrize(("defined", "since", "last"), [(True, 8, 14), (False, 4, 10)])
def test_a_run_whose_best_model_was_damaged_is_not_without_improvement_from_its_start(
    defined, since, last, config, dataset, tmp_path, monkeypatch
):
    """If the metric is undefined from then on, the run ends as if the model were intact."""
    dice = dict.fromkeys(range(2, 17, 2), 0.1) | {4: 0.5}
    undefined = () if defined else range(6, 17)
    real, step_of = validation.mean_scalars, []
    monkeypatch.setattr(
        validation,
        "mean_scalars",
        lambda summary: {
            key: dice[step_of[-1]] if key == "dice" else value
            for key, value in real(summary).items()
            if key != "dice" or step_of[-1] not in undefined
        },
    )
    validate = validation.validate
    monkeypatch.setattr(
        loop,
        "validate",
        lambda run, state, step: (step_of.append(step), validate(run, state, step)),
    )
    config.num_epochs, config.optim.patience = 8, 3
    config.eval.best = "dice"
    with monkeypatch.context() as patch:
        signal_after(8, patch)
        with pytest.raises(Interrupted):
            train(config, dataset, tmp_path, MESH)
    (best,) = (tmp_path / "best").iterdir()
    assert best.name == "4"
    (best / "metrics" / "metrics").write_text("[]")
    for _ in range(2):  # rerunning the command trains no further
        report = train(config, dataset, tmp_path, MESH)
        assert step_of[-1] == last
        reason, damaged = report["notes"]
        assert f"in 3 validations since step {since}" in reason
        used = "the best of the others" if defined else "the last model"
        assert damaged == f"the best model, of step 4, was damaged; this is {used}"


def context(losses, patience: int, every: int, per_epoch: int, epochs: int) -> RunContext:
    """A run of which only the validations exist; `bests` are those of a list."""
    config = ConfigDict({"optim": {"patience": patience}, "eval": {"every_epochs": every}})
    config.eval.best = "loss"
    evaluator = types.SimpleNamespace(
        config=config, dataset=types.SimpleNamespace(splits={"validation": [0]})
    )
    checkpoints = types.SimpleNamespace(bests=[])
    given = {"plan": Plan(per_epoch, epochs), "evaluator": evaluator, "checkpoints": checkpoints}
    others = {field.name: None for field in dataclasses.fields(RunContext)} | given
    others["lost_best"] = 0
    return RunContext(**others)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    losses=st.lists(st.sampled_from([0.1, 0.2, 0.3, None]), min_size=12, max_size=12),
    patience=st.integers(0, 4),
    every=st.integers(1, 3),
    per_epoch=st.integers(1, 3),
)
def test_the_rule_counts_validations_without_improvement(losses, patience, every, per_epoch):
    """As a count in memory does; None is undefined and improves nothing."""
    run = context(losses, patience, every, per_epoch, epochs=12)
    best, count, expected = None, 0, 12 * per_epoch
    for epoch in range(every, 13, every):
        loss = losses[epoch - 1]
        count += 1
        if loss is not None and (best is None or loss < best):
            best, count = loss, 0
        if patience and count >= patience:
            expected = epoch * per_epoch
            break
    for step in range(1, 12 * per_epoch + 1):
        epoch, rest = divmod(step, per_epoch)
        loss = losses[epoch - 1]
        if rest == 0 and run.validation_due(step) and loss is not None:
            found = Best(step, {"loss": loss})
            bests = run.checkpoints.bests
            bests[:] = [found] if not bests or found.order < bests[0].order else bests
        if run.early_stop(step):
            break
    assert step == expected


def test_early_stopping_needs_validation_images(config, dataset, tmp_path):
    config.optim.patience = 1
    check_selection(config, Task(2), True)
    splits = {**dataset.splits, "validation": make_split(0, 32, seed=0)}
    with pytest.raises(UserError, match=r"^optim\.patience=1: there are no validation images"):
        train(config, dataclasses.replace(dataset, splits=splits), tmp_path, MESH)
