import contextlib
import dataclasses
import functools
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_data import make_split
from made_runs import make_run

from unet_jax import models
from unet_jax.core.errors import UserError
from unet_jax.core.intensities import Intensities
from unet_jax.distributed import devices as parallel
from unet_jax.evaluation.evaluate import evaluate
from unet_jax.evaluation.evaluator import Evaluator
from unet_jax.evaluation.task import task_of
from unet_jax.inference.ensemble import check_alike, single_network
from unet_jax.metrics import calibration, em_challenge
from unet_jax.metrics.registry import Counts, Score
from unet_jax.runs.checkpoints import Checkpoints
from unet_jax.training.loop import train


def scores_of(config, dataset, split, devices=1):
    mesh = parallel.local_mesh(jax.devices()[:devices])
    model = models.build(**config.model)
    variables = parallel.replicate(models.init(model, 1, seed=0), mesh)
    return list(
        Evaluator(config, dataset, single_network(model, Intensities.of(config.data)), mesh).scores(
            variables, split
        )
    )


def assert_same(a, b):
    assert [score.name for score in a] == [score.name for score in b]
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x.counts.confusion, y.counts.confusion)
        np.testing.assert_allclose(x.counts.loss, y.counts.loss, rtol=1e-5)


def test_batch_size_devices_and_padding_examples_change_nothing(config, dataset):
    split = make_split(5, 32, seed=7, ignored=0.2)
    config.eval.batch_size = 1  # no padding examples
    one_by_one = scores_of(config, dataset, split)
    assert [score.name for score in one_by_one] == list(split.names)
    config.eval.batch_size = 3  # four devices make it four
    assert_same(scores_of(config, dataset, split), one_by_one)
    assert_same(scores_of(config, dataset, split, devices=4), one_by_one)


def test_the_next_batch_is_dispatched_before_a_result_is_used(config, dataset, monkeypatch):
    """Devices compute it meanwhile; at most one batch more is held."""
    dispatched, ahead = [], []
    compile_step = parallel.compile_eval_step

    def compiled(step, mesh):
        function = compile_step(step, mesh)
        return lambda variables, batch: dispatched.append(1) or function(variables, batch)

    monkeypatch.setattr(parallel, "compile_eval_step", compiled)
    config.eval.batch_size = 2
    model, mesh = models.build(**config.model), parallel.local_mesh(jax.devices()[:1])
    variables = parallel.replicate(models.init(model, 1, seed=0), mesh)
    evaluator = Evaluator(config, dataset, single_network(model, Intensities.of(config.data)), mesh)
    for used, _ in enumerate(evaluator.predictions(variables, make_split(7, 32, seed=7))):
        ahead.append(len(dispatched) - used // 2 - 1)
    assert ahead == [1, 1, 1, 1, 1, 1, 0]
    assert not list(evaluator.predictions(variables, make_split(0, 32, seed=7)))


@pytest.mark.parametrize("tolerances", [(), (1.0, 2.0, 3.0)])
def test_tolerances_are_for_all_classes_or_for_each(config, dataset, tolerances):
    config.eval.nsd_pixels = tolerances
    with pytest.raises(
        UserError, match=r"^eval\.nsd_pixels=.*; give 1 for all classes, or 1 for each of the 2"
    ):
        task_of(config, dataset)
    for allowed in ((3.0,), (1.0, 2.5)):
        config.eval.nsd_pixels = allowed
        assert task_of(config, dataset).nsd_pixels == allowed


def test_counts_are_of_the_label_on_disk(config, dataset):
    split = make_split(3, 32, seed=7, ignored=0.2)
    for i, score in enumerate(scores_of(config, dataset, split)):
        label = split[i]["label"]
        rows = score.counts.confusion.sum(1)
        assert rows.tolist() == [(label == 0).sum(), (label == 1).sum()]


@pytest.mark.parametrize("input_range", ["symmetric", "unit"])
def test_the_loss_is_the_mean_over_the_images_own_pixels(config, dataset, input_range):
    """Against the model applied to one whole image, in numpy."""
    config.data.input_range = input_range
    split = make_split(2, 32, seed=7, ignored=0.3)
    model = models.build(**config.model)
    variables, apply = models.init(model, 1, seed=0), jax.jit(model.apply)
    for i, score in enumerate(scores_of(config, dataset, split)):
        image = models.scale(jax.numpy.asarray(split[i]["image"][None]), Intensities(input_range))
        logits = np.asarray(apply(variables, image))[0, ..., 0].astype(np.float64)
        label = split[i]["label"]
        valid = label != 255
        target = (label == 1)[valid]
        expected = np.mean(np.logaddexp(0, np.where(target, -logits[valid], logits[valid])))
        np.testing.assert_allclose(score.counts.loss, expected, rtol=1e-4)


def test_the_threshold_decides_between_two_classes(config, dataset):
    for threshold, never in ((1e-6, 0), (1 - 1e-6, 1)):
        config.eval.threshold = threshold
        scores = scores_of(config, dataset, dataset.splits["test"])
        assert sum(score.counts.confusion[:, never].sum() for score in scores) == 0


@pytest.mark.slow
def test_two_logits_train_and_evaluate_as_one_does(config, dataset, tmp_path):
    config.model.classes = 2
    config.loss.name = "cross_entropy"
    config.num_epochs, config.eval.every_epochs, config.checkpoint.every_epochs = 15, 5, 15
    config.optim.learning_rate = 1e-2
    mesh = parallel.local_mesh(jax.devices()[:1])
    report = train(config, dataset, tmp_path, mesh)
    assert report["aggregate"]["dice"]["mean"] > 0.9
    assert report["threshold"] == 0.5


def test_histograms_and_segments_are_of_the_counted_pixels(config, dataset):
    dataset = dataclasses.replace(dataset, cells=True)
    split = make_split(2, 32, seed=7, ignored=0.2)
    model, mesh = models.build(**config.model), parallel.local_mesh(jax.devices()[:1])
    variables = parallel.replicate(models.init(model, 1, seed=0), mesh)
    evaluator = Evaluator(config, dataset, single_network(model, Intensities.of(config.data)), mesh)
    (index, probabilities, _), _ = evaluator.predictions(variables, split)
    score, other = evaluator.scores(variables, split, thresholds=[0.45], shown=[1])
    label = split[index]["label"]
    counted = label < 255
    counts = calibration.histogram(label[counted] == 1, probabilities[counted, 0])
    np.testing.assert_array_equal(score.counts.histogram, counts)
    curve = em_challenge.curve(label, probabilities[..., 0], [0.45, 0.5])
    for metric, column in (("v_rand", 0), ("v_info", 1)):
        curve_of_score = score.curves[metric]
        assert [curve_of_score[0.45], curve_of_score[0.5]] == curve[:, column].tolist()
    assert score.prediction is None
    assert other.prediction.shape == (32, 32)


def test_resized_evaluation_counts_at_native_resolution(config, dataset):
    config.data.fit, config.data.size = "resize", 16
    split = make_split(2, 32, seed=7)
    scores = scores_of(config, dataset, split)
    for i, score in enumerate(scores):
        label = split[i]["label"]
        assert score.counts.confusion.sum(1).tolist() == [(label == 0).sum(), (label == 1).sum()]


@pytest.fixture(scope="module")
def reports_of_runs() -> dict[pathlib.Path, dict]:
    """The run that the tests of this file share, trained by the first that needs it."""
    return {}


@pytest.fixture
def trained(config, dataset, tmp_path, tmp_path_factory, reports_of_runs):
    """The report of a run, whose folder is copied to `tmp_path`; and its mesh."""
    mesh = parallel.local_mesh(jax.devices()[:1])
    if not reports_of_runs:
        folder = tmp_path_factory.mktemp("trained")
        reports_of_runs[folder] = train(config, dataset, folder, mesh)
    ((folder, report),) = reports_of_runs.items()
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return report, mesh


def test_eval_mode_repeats_the_training_report(config, dataset, tmp_path, trained):
    report, mesh = trained
    assert evaluate({tmp_path: config}, dataset, mesh, split="test", checkpoint="best") == report


def test_other_splits_and_checkpoints_have_reports_of_their_own(config, dataset, tmp_path, trained):
    _, mesh = trained
    before = (tmp_path / "report.json").read_bytes()
    other = evaluate({tmp_path: config}, dataset, mesh, split="validation", checkpoint="last")
    assert (tmp_path / "report.json").read_bytes() == before
    assert json.loads((tmp_path / "report-validation-last.json").read_text()) == other
    assert other["split"] == "validation"
    by_step = evaluate(
        {tmp_path: config}, dataset, mesh, split="validation", checkpoint=str(other["step"])
    )
    assert by_step["per_image"] == other["per_image"]


@pytest.mark.slow
def test_symmetries_and_further_runs_are_averaged(config, dataset, tmp_path, trained):
    report, mesh = trained
    other = config.copy_and_resolve_references()
    other.model.width, other.data.input_range, other.seed = 3, "unit", 5
    other.data.augment = ("mirror",)
    second = make_run(tmp_path / "second", other, 1)
    runs = {tmp_path: config, second: other}
    options = {"split": "test", "checkpoint": "best"}
    before = (tmp_path / "report.json").read_bytes()
    averaged = evaluate(runs, dataset, mesh, symmetries=True, **options)
    alone = evaluate({tmp_path: config}, dataset, mesh, symmetries=True, **options)
    for name, content in (("ensemble2-tta", averaged), ("tta", alone)):
        assert json.loads((tmp_path / f"report-test-best-{name}.json").read_text()) == content
    assert (tmp_path / "report.json").read_bytes() == before
    assert averaged["parameters"] > alone["parameters"] == report["parameters"]
    assert any("8 of the square's eight symmetries" in note for note in alone["notes"])
    assert any(f"2 runs: {tmp_path}, {second}" in note for note in averaged["notes"])
    assert any("2 or 8 of the square's eight symmetries" in note for note in averaged["notes"])

    # By hand, with the average of probabilities that are all between 0 and 1.
    networks = {}
    for folder, its in runs.items():
        model = models.build(**its.model)
        with contextlib.closing(Checkpoints(folder, 1, its.to_dict(), read_only=True)) as saved:
            variables = saved.restore_model("best", models.init(model, 1, 0)).model
        networks[folder] = jax.jit(functools.partial(model.apply, variables))

    def losses(symmetries):
        """Loss of the mean over runs of the means over each one's symmetries."""
        found = []
        for image, label in map(dataset.splits["test"].read, range(3)):
            of_runs = []
            for folder, pairs in symmetries.items():
                each = []
                for mirror, turns in pairs:
                    seen = np.rot90(image[:, ::-1] if mirror else image, turns)[None].copy()
                    seen = models.scale(jnp.asarray(seen), Intensities.of(runs[folder].data))
                    probability = models.probabilities(networks[folder](seen))[0]
                    probability = np.rot90(probability, -turns)
                    each.append(probability[:, ::-1] if mirror else probability)
                of_runs.append(np.mean(each, axis=0))
            mean = np.mean(of_runs, axis=0)[..., 0]
            found.append(-np.log(np.where(label == 1, mean, 1 - mean)).mean())
        return np.mean(found)

    all_eight = [(mirror, turns) for mirror in (False, True) for turns in range(4)]
    mirrors = [(False, 0), (True, 0)]
    assert losses({tmp_path: [(False, 0)]}) == pytest.approx(report["loss"], rel=1e-4)
    assert losses({tmp_path: all_eight}) == pytest.approx(alone["loss"], rel=1e-4)
    both = losses({tmp_path: all_eight, second: mirrors})
    assert both == pytest.approx(averaged["loss"], rel=2e-5)
    assert losses({tmp_path: all_eight, second: all_eight}) != pytest.approx(both, rel=5e-5)


def test_symmetries_that_a_run_did_not_draw_are_refused(config, dataset, tmp_path):
    config.data.augment = ("brightness",)
    run = make_run(tmp_path / "run", config, 1)
    options = {"split": "test", "checkpoint": "best", "symmetries": True}
    with pytest.raises(UserError, match=f"--tta: {run} was .*data.augment=brightness"):
        evaluate({run: config}, dataset, parallel.local_mesh(), **options)


@pytest.mark.slow
def test_the_threshold_decides_between_two_logits(config, dataset, tmp_path):
    """The report's row of a threshold is that of the threshold."""
    config.model.classes, config.loss.name = 2, "cross_entropy"
    run = make_run(tmp_path / "run", config, 1, steps=(14,), calm=True)
    mesh = parallel.local_mesh(jax.devices()[:1])
    options = {"split": "test", "checkpoint": "best"}
    positives = []
    for threshold in (0.25, 0.5, 0.75):
        config.eval.threshold = threshold
        report = evaluate({run: config}, dataset, mesh, **options)
        assert report["threshold"] == report["thresholds"][0]["threshold"] == threshold
        positives.append(int(np.sum(report["confusion"], axis=0)[1]))
    assert positives[0] > positives[1] > positives[2]


@pytest.mark.parametrize(
    ("field", "value"), [("data.fit", "resize"), ("model.classes", 2), ("data.size", 8)]
)
def test_runs_of_other_pixels_or_classes_are_no_ensemble(config, dataset, tmp_path, field, value):
    section, name = field.split(".")
    if name == "size":
        config.data.fit = "resize"
    other = config.copy_and_resolve_references()
    other[section][name] = value
    with pytest.raises(UserError, match=rf"--ensemble=there: {field} is {value} there"):
        check_alike(config, other, pathlib.Path("there"))
    check_alike(config, config, pathlib.Path("there"))


def test_unpadded_networks_of_an_ensemble_need_equal_margins(config):
    def refused(first: dict, second: dict) -> str:
        changed = [config.copy_and_resolve_references() for _ in range(2)]
        changed[0].model.update(first)
        changed[1].model.update(second)
        with pytest.raises(UserError) as error:
            check_alike(*changed, pathlib.Path("there"))
        return str(error.value)

    unpadded = {"padding": "valid", "depth": 2}
    assert "the margin of a tile is 8 there and 20 in" in refused(unpadded, unpadded | {"depth": 1})
    assert "the margin of a tile is 20 there and 0 in" in refused({"depth": 2}, unpadded)
    deeper = config.copy_and_resolve_references()
    deeper.model.depth = 3
    check_alike(config, deeper, pathlib.Path("there"))  # padded networks of any depth


@pytest.mark.parametrize(
    ("right", "shown"),
    [
        ([4, 9, 1, 7, 5], ["best: image-1", "median: image-4", "worst: image-2"]),
        ([4, 9], ["best: image-1", "worst: image-0"]),
        ([4], ["best: image-0"]),
        ([], []),
    ],
)
def test_best_median_and_worst_image_are_shown(config, dataset, right, shown):
    split = make_split(len(right) + 1, 32, seed=7)
    model, mesh = models.build(**config.model), parallel.local_mesh(jax.devices()[:1])
    variables = parallel.replicate(models.init(model, 1, seed=0), mesh)
    counts = [np.array([[5, 0], [10 - n, n]]) for n in right]
    counts.append(np.zeros((2, 2), np.int64))  # wholly ignored: no Dice, no rank
    scores = [
        Score(name, Counts(0.5, count, np.zeros((2, calibration.BINS), np.int64)), index=i)
        for i, (name, count) in enumerate(zip(split.names, counts, strict=True))
    ]
    overlays = Evaluator(
        config, dataset, single_network(model, Intensities.of(config.data)), mesh
    ).overlays(variables, split, scores)
    assert [overlay.title.partition(",")[0] for overlay in overlays] == shown
    assert [overlay.name for overlay in overlays] == [title.split()[1] for title in shown]


@pytest.mark.parametrize("checkpoint", ["3", "newest"])
def test_a_checkpoint_that_is_not_there_is_named(config, dataset, tmp_path, trained, checkpoint):
    with pytest.raises(UserError, match=rf"no checkpoint '{checkpoint}'; available: 2, 4"):
        evaluate({tmp_path: config}, dataset, trained[1], split="test", checkpoint=checkpoint)


def test_an_empty_or_unknown_split_is_named(config, dataset, tmp_path, trained):
    dataset = dataclasses.replace(
        dataset, splits={**dataset.splits, "validation": make_split(0, 32, seed=0)}
    )
    for split in ("validation", "holdout"):
        with pytest.raises(UserError, match=f"--split={split}.*it has train, test"):
            evaluate({tmp_path: config}, dataset, trained[1], split=split, checkpoint="best")


def test_a_run_of_other_data_is_not_evaluated(config, dataset, tmp_path, trained):
    dataset.sha256["made"] = "1"
    with pytest.raises(UserError, match="differ from those of this run"):
        evaluate({tmp_path: config}, dataset, trained[1], split="test", checkpoint="best")


def test_a_checkpoint_that_does_not_fit_the_model_is_refused(config, dataset, tmp_path, trained):
    config.model.width = 8
    with pytest.raises(
        UserError, match=r"does not fit the model .*\(8,\) saved, \(16,\) in .*and \d+ more"
    ):
        evaluate({tmp_path: config}, dataset, trained[1], split="test", checkpoint="best")
