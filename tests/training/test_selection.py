"""Which model is the best, and for which metrics a threshold is chosen: eval.best and eval.tune."""

import contextlib
import json
import re

import jax
import pytest
from made_runs import make_run
from PIL import Image

import unet_jax.training.loop
import unet_jax.training.validation
from unet_jax import modes
from unet_jax.api import load_run
from unet_jax.core.errors import UserError
from unet_jax.data.files.inputs import RECORD
from unet_jax.distributed import devices
from unet_jax.evaluation.evaluate import evaluate as evaluate_runs
from unet_jax.evaluation.task import check_selection
from unet_jax.evaluation.thresholds import USED
from unet_jax.inference.outputs import Extras
from unet_jax.inference.predict import predict
from unet_jax.interchange.registry import EXPORTERS
from unet_jax.metrics.registry import Task
from unet_jax.runs.checkpoints import Checkpoints
from unet_jax.runs.experiment import read_configs
from unet_jax.runs.folder import read_config
from unet_jax.training.loop import train

MESH = devices.local_mesh(jax.devices()[:1])


def set_means(monkeypatch, means):
    """The validation means of the steps are these; None is undefined."""
    real, validate = (
        unet_jax.training.validation.mean_scalars,
        unet_jax.training.validation.validate,
    )

    def validate_with(run, variables, step):
        def of_step(summary):
            changed = real(summary) | means[step]
            return {key: value for key, value in changed.items() if value is not None}

        with monkeypatch.context() as patch:
            patch.setattr(unet_jax.training.validation, "mean_scalars", of_step)
            validate(run, variables, step)

    monkeypatch.setattr(unet_jax.training.loop, "validate", validate_with)


def best_of(folder):
    with contextlib.closing(Checkpoints(folder, 2, {}, read_only=True)) as saved:
        return saved.bests[0]


# Two steps an epoch, an evaluation after each.
MEANS = {
    2: {"loss": 0.1, "dice": 0.5},
    4: {"loss": 0.3, "dice": 0.9},
    6: {"loss": 0.2, "dice": 0.7},
}


@pytest.mark.parametrize(
    ("best", "step"), [pytest.param("loss", 2, marks=pytest.mark.slow), ("dice", 4)]
)
def test_the_model_with_the_best_value_is_kept(config, dataset, tmp_path, monkeypatch, best, step):
    set_means(monkeypatch, MEANS)
    config.num_epochs, config.eval.best = 3, best
    config.eval.tune = ("iou",)
    report = train(config, dataset, tmp_path, MESH)
    assert report["step"] == step
    assert ("best Dice on validation" in (tmp_path / "report.md").read_text()) == (best == "dice")
    kept = best_of(tmp_path)
    assert kept.rank == (0.1 if best == "loss" else -0.9)
    assert ("selected" in kept.metrics) == (best == "dice")
    assert kept.metrics["thresholds"].keys() == {"iou"}
    assert [row["rule"] for row in report["thresholds"]] == [USED, "best IoU on validation"]
    # Rerunning the command validates the last step again.
    assert train(config, dataset, tmp_path, MESH) == report
    config.eval.best = "iou"
    with pytest.raises(UserError, match=rf"eval\.best: {best} in the run, iou in the config"):
        unet_jax.training.loop.run_folder.check_ours(tmp_path, config)


def test_an_undefined_value_is_never_the_best_and_named_once(
    config, dataset, tmp_path, monkeypatch, capsys
):
    undefined = {"dice": None}
    set_means(monkeypatch, {2: undefined, 4: undefined, 6: {"dice": 0.1}, 8: undefined})
    config.num_epochs, config.eval.best = 4, "dice"
    assert train(config, dataset, tmp_path, MESH)["step"] == 6
    output = capsys.readouterr().out
    assert output.count("eval.best=dice: the Dice is undefined on the validation images") == 1


def test_a_metric_of_masks_selects_the_model_and_has_a_threshold(
    config, dataset, tmp_path, grouped
):
    config.num_epochs, config.eval.best, config.eval.tune = 1, "edge", ("edge",)
    config.eval.metrics = ("boundary",)
    report = train(config, dataset, tmp_path, MESH)
    kept = best_of(tmp_path)
    selected = {"metric": "edge", "better": "higher", "value": 0.5, "images": 3}
    assert kept.metrics["selected"] == selected
    fixed, tuned = report["thresholds"]
    assert (tuned["rule"], tuned["threshold"]) == ("best edge on validation", 0.5)
    assert fixed["edge"] == tuned["edge"] == 0.5 and tuned["dice"] is not None


def test_without_a_defined_value_the_report_says_that_it_is_of_the_last_model(
    config, dataset, tmp_path, monkeypatch
):
    set_means(monkeypatch, {2: {"dice": None}})
    config.num_epochs, config.eval.best = 1, "dice"
    report = train(config, dataset, tmp_path, MESH)
    assert report["step"] == 2
    again = evaluate_runs(
        {tmp_path: config}, dataset, MESH, split="test", checkpoint="best", write=False
    )
    for found in (report, again):
        assert found["selected_by"] is None
        assert "no model has a defined dice on validation; this is the last model" in found["notes"]


def test_a_chosen_threshold_decides_in_every_use_of_the_run(config, dataset, tmp_path):
    config.num_epochs, config.eval.threshold = 2, 0.0
    report = train(config, dataset, tmp_path, MESH)
    chosen = best_of(tmp_path).metrics["thresholds"]["dice"]
    assert chosen not in (0.0, 0.5)
    assert report["threshold"] == chosen
    assert [row["rule"] for row in report["thresholds"]] == [USED, "best Dice on validation"]
    means = {name: report["aggregate"][name]["mean"] for name in ("dice", "iou")}
    for row in report["thresholds"]:
        assert row["threshold"] == chosen
        assert {name: row[name] for name in means} == pytest.approx(means)
    assert f"are at the threshold {chosen:.4f}" in (tmp_path / "report.md").read_text()
    assert read_config(tmp_path)["eval.threshold"] == 0.0
    # Reading a checkpoint would start JAX's devices, whose number the commands set afterwards.
    (saved,) = read_configs([tmp_path]).values()
    assert saved.eval.threshold == 0.0
    other = saved.copy_and_resolve_references()
    other.eval.threshold = 0.9
    for checkpoint in ("best", "last"):
        own = load_run(tmp_path, checkpoint).config
        for used, threshold in ((saved, chosen), (own, chosen), (other, 0.9)):
            again = evaluate_runs(
                {tmp_path: used}, dataset, MESH, split="test", checkpoint=checkpoint, write=False
            )
            assert again["threshold"] == threshold
            assert any("unlike training" in note for note in again["notes"]) == (used is other)


def test_prediction_and_exports_use_a_chosen_threshold(config, dataset, tmp_path, monkeypatch):
    run, output = tmp_path / "run", tmp_path / "masks"
    config.num_epochs, config.eval.threshold = 1, 0.0
    chosen = train(config, dataset, run, MESH)["threshold"]
    assert chosen not in (0.0, 0.5)
    assert load_run(run).config.eval.threshold == chosen
    image, _ = dataset.splits["test"].read(0)
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(tmp_path / "image.png")
    predict(
        read_configs([run]),
        MESH,
        wanted=str(tmp_path / "image.png"),
        output=output,
        checkpoint="best",
        side=64,
        extras=Extras(),
    )
    assert json.loads((output / RECORD).read_text())["threshold"] == chosen
    used = []

    def exporter(folder, config, *, checkpoint, output):
        used.append(config.eval.threshold)

    monkeypatch.setitem(EXPORTERS._found(), "own", exporter)
    modes.export(str(run), "own", "best", str(tmp_path / "exported"), {})
    assert used == [chosen]


def test_a_run_without_a_validated_model_has_a_threshold_of_a_half(config, tmp_path):
    config.eval.threshold = 0.0
    make_run(tmp_path, config, channels=1)
    for checkpoint in ("best", "last"):
        assert load_run(tmp_path, checkpoint).config.eval.threshold == 0.5


@pytest.mark.parametrize(
    "field",
    [{"best": "dice"}, {"tune": ("dice",)}, {"threshold": 0.0}, {"threshold": 0.0, "best": "dice"}],
)
def test_without_validation_images_nothing_is_selected(config, field):
    check_selection(config, Task(2), False)
    config.eval.update(field)
    with pytest.raises(UserError, match=r"^eval\.(best|tune|threshold)=.*no validation images"):
        check_selection(config, Task(2), False)


@pytest.mark.parametrize(
    ("best", "tune", "task", "message"),
    [
        ("mean_iou", (), Task(2), "eval.best: mean_iou does not apply to these data; choose among"),
        ("v_rand", (), Task(2), "eval.best: v_rand does not apply to these data; choose among"),
        ("loss", ("v_rand",), Task(2), "eval.tune: v_rand does not apply to these data; choose"),
        (
            "loss",
            ("recall",),
            Task(2),
            "no threshold can be chosen for recall, .* choose among dice",
        ),
        ("loss", ("auc",), Task(2), "no threshold can be chosen for auc"),
        ("loss", ("mean_iou",), Task(3), r"eval.tune=\('mean_iou',\): .* have 3; set it to \(\)"),
    ],
)
def test_a_metric_that_cannot_be_used_is_refused(config, best, tune, task, message):
    config.eval.best, config.eval.tune = best, tune
    with pytest.raises(UserError, match=message) as error:
        check_selection(config, task, True)
    assert "\n" not in str(error.value)


def test_a_chosen_threshold_needs_that_of_dice(config):
    config.eval.threshold, config.eval.tune = 0.0, ("iou",)
    with pytest.raises(UserError, match=r"^eval\.tune=\('iou',\): .* best for dice; add it"):
        check_selection(config, Task(2), True)
    config.eval.tune = ("iou", "dice")
    check_selection(config, Task(2), True)
    config.eval.tune = ()
    check_selection(config, Task(3), False)  # thresholds are for two classes


@pytest.mark.parametrize("field", ["best", "tune"])
def test_a_metric_of_a_group_that_is_not_computed_is_refused(config, grouped, field):
    config.eval.update({field: "edge" if field == "best" else ("edge",)})
    message = rf"eval\.{field}: edge is of the group boundary, .* --config.eval.metrics="
    with pytest.raises(UserError, match=message) as error:
        check_selection(config, Task(2), True)
    (value,) = re.findall(r"eval\.metrics=\"(.*)\"", str(error.value))
    check_selection(config, Task(2, groups=eval(value)), True)


@pytest.fixture
def grouped(monkeypatch):
    """A metric of masks in the group boundary."""
    from unet_jax.metrics.registry import METRICS, Metric

    metric = Metric("edge", "edge", "edge.", group="boundary", of_masks=lambda masks: 0.5)
    monkeypatch.setitem(METRICS._found(), "edge", metric)
