"""Losses that are not finite, and labels of which nothing counts: one line, and nothing broken."""

import contextlib
import dataclasses
import functools
import math

import jax
import numpy as np
import pytest
from launched import history
from made_data import make_split, pick
from made_runs import make_run

from unet_jax import models
from unet_jax.api import load_run
from unet_jax.core.errors import UserError
from unet_jax.core.intensities import Intensities
from unet_jax.distributed import devices
from unet_jax.evaluation.evaluate import evaluate
from unet_jax.evaluation.evaluator import Evaluator
from unet_jax.evaluation.scores import check_finite
from unet_jax.inference import predictor
from unet_jax.inference.ensemble import single_network
from unet_jax.metrics.registry import Counts, Score
from unet_jax.runs.checkpoints import Checkpoints
from unet_jax.runs.experiment import read_configs
from unet_jax.training.loop import train
from unet_jax.training.validation import check_labelled

MESH = devices.local_mesh(jax.devices()[:1])


def relabelled(dataset, split, change):
    """The data set with other labels in a split: `change` has them, uint8 [N, H, W], in place."""
    images, labels = dataset.splits[split].read.args
    labels = labels.copy()
    change(labels)
    read = functools.partial(pick, images, labels)
    changed = dataclasses.replace(dataset.splits[split], read=read)
    return dataclasses.replace(dataset, splits={**dataset.splits, split: changed})


def diverging(config):
    """A learning rate that overflows in the first step, which is an epoch."""
    config.batch_size = 8
    config.model.norm = "none"
    config.optim.name = "sgd"
    config.optim.learning_rate = 1e20
    return config


def test_a_validation_loss_that_is_not_finite_ends_the_run_in_one_line(config, dataset, tmp_path):
    lines = []
    for _ in range(2):
        with pytest.raises(UserError) as error:
            train(diverging(config), dataset, tmp_path, MESH)
        lines.append(str(error.value))
    assert lines[0].startswith(
        "validation at step 1: the loss is not finite for 3 of 3 images: image-0 (nan), image-1 "
        "(nan), image-2 (nan); no model and no report was saved; look at these images, or "
    )
    assert "lower optim.learning_rate" in lines[0]
    assert lines[1] == lines[0]
    assert not any((tmp_path / "best").iterdir())
    assert {line["split"] for line in history(tmp_path)} == {"train"}
    assert not (tmp_path / "report.json").exists()
    assert not (tmp_path / "damaged").exists()


def with_loss(score, loss):
    return dataclasses.replace(score, counts=dataclasses.replace(score.counts, loss=loss))


def broken_scores(monkeypatch, at_call, loss=math.nan):
    """From the `at_call`th evaluation of a split on, the second image has this loss."""
    real, calls = Evaluator.scores, []

    def scores(self, variables, split, **options):
        calls.append(split)
        for score in real(self, variables, split, **options):
            wrong = len(calls) >= at_call and score.index == 1
            yield with_loss(score, loss) if wrong else score

    monkeypatch.setattr(Evaluator, "scores", scores)


@pytest.mark.parametrize(
    ("at_call", "where", "loss"),
    [
        (2, "validation at step 4", math.nan),
        pytest.param(3, "test, checkpoint best of step [24]", math.inf, marks=pytest.mark.slow),
    ],
)
def test_rerunning_after_a_fault_gives_the_uninterrupted_result(
    config, dataset, tmp_path, monkeypatch, at_call, where, loss
):
    whole = train(config, dataset, tmp_path / "whole", MESH)
    with monkeypatch.context() as patch:
        broken_scores(patch, at_call, loss)
        pattern = rf"^{where}: the loss is not finite for 1 of 3 images: image-1 \({loss}\); "
        with pytest.raises(UserError, match=pattern):
            train(config, dataset, tmp_path / "again", MESH)
    assert not (tmp_path / "again" / "report.json").exists()
    assert train(config, dataset, tmp_path / "again", MESH) == whole
    assert history(tmp_path / "again") == history(tmp_path / "whole")


def test_evaluation_writes_no_report_without_a_loss(config, dataset, tmp_path):
    make_run(tmp_path, config, channels=1)
    with contextlib.closing(Checkpoints(tmp_path, 2, {})) as saved:
        model = models.init(models.build(**config.model), 1, 0)
        model = saved.restore_model("7", model).model
        model = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), model)
        saved.save(9, {"model": model})
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=r"^test, checkpoint last of step 9: the loss is not"):
        evaluate({tmp_path: config}, dataset, MESH, split="test", checkpoint="last")
    assert {path.name for path in tmp_path.iterdir()} == before
    report = evaluate({tmp_path: config}, dataset, MESH, split="test", checkpoint="7")
    assert report["loss"] is not None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # orbax's requests
def test_reports_say_that_the_best_model_was_damaged(config, dataset, tmp_path):
    """The last model is used; once the damage is known, the command that is rerun validates it."""
    config.eval.best, config.eval.threshold = "recall", 0.0
    assert train(config, dataset, tmp_path, MESH)["notes"] == []
    (best,) = (tmp_path / "best").iterdir()
    assert best.name == "2"  # of four steps
    for path in (best / "model").rglob("*"):
        if path.is_file():
            path.write_bytes(bytes(path.stat().st_size))
    note = "the best model, of step 2, was damaged; this is "
    asked = {"split": "test", "checkpoint": "best", "write": False}
    read = evaluate({tmp_path: config}, dataset, MESH, **asked)
    assert note + "the last model" in read["notes"]
    assert read["selected_by"] is None
    assert read["threshold"] == 0.5  # not what was chosen for the damaged model
    assert load_run(tmp_path).config.eval.threshold == 0.5
    (saved,) = read_configs([tmp_path]).values()
    assert predictor.load({tmp_path: saved}, "best", MESH).threshold == 0.5
    assert best.exists()  # a reader moves nothing
    again = [train(config, dataset, tmp_path, MESH) for _ in range(2)]
    again.append(evaluate({tmp_path: config}, dataset, MESH, **asked))
    others = "the best of the others"
    for report, used in zip(again, ("the last model", others, others), strict=True):
        assert note + used in report["notes"]
        assert (report["step"], report["loss"]) == (4, read["loss"])
    last = evaluate({tmp_path: config}, dataset, MESH, **asked | {"checkpoint": "last"})
    assert not any("damaged" in remark for remark in last["notes"])


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("fit", ["crop", "resize"])
def test_probabilities_that_are_nan_make_the_loss_nan_where_they_count(
    config, dataset, monkeypatch, ignored, fit
):
    """A loss of resized labels may not see them."""
    config.data.fit, config.data.size = fit, 32
    if ignored:
        dataset = relabelled(dataset, "test", lambda labels: labels[1, :4].fill(255))
    real = Evaluator.predictions

    def predictions(*arguments):
        for index, probabilities, loss in real(*arguments):
            probabilities = probabilities.copy()
            if index == 1:
                probabilities[:4] = np.nan
            yield index, probabilities, loss

    monkeypatch.setattr(Evaluator, "predictions", predictions)
    model = models.build(**config.model)
    variables = devices.replicate(models.init(model, 1, 0), MESH)
    evaluator = Evaluator(config, dataset, single_network(model, Intensities.of(config.data)), MESH)
    scores = list(evaluator.scores(variables, dataset.splits["test"]))
    assert [math.isnan(score.counts.loss) for score in scores] == [False, not ignored, False]
    for score in scores:
        counted = (dataset.splits["test"].read(score.index)[1] != 255).sum()
        assert score.counts.confusion.sum() == score.counts.histogram.sum() == counted


def score(name, loss, pixels=4):
    confusion = np.array([[pixels, 0], [0, 0]])
    return Score(name, Counts(loss, confusion, np.zeros((2, 1024), np.int64)))


def test_the_line_names_three_images_and_counts_the_rest():
    bad = [score(f"image-{i}", math.nan) for i in range(5)]
    pattern = (
        r"^here: the loss is not finite for 5 of 6 images: image-0 \(nan\), image-1 \(nan\), "
        r"image-2 \(nan\) and 2 more; "
    )
    with pytest.raises(UserError, match=pattern) as error:
        check_finite([score("good", 0.5), *bad], "here")
    assert "\n" not in str(error.value)
    check_finite([score("nothing counts", math.nan, pixels=0), score("good", 0.5)], "here")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_labels_of_which_nothing_counts_are_refused_before_the_first_step(
    config, dataset, tmp_path, split
):
    dataset = relabelled(dataset, split, lambda labels: labels.fill(255))
    config.data.root = "somewhere"
    count = len(dataset.splits[split])
    pattern = rf"^somewhere: all pixels of all {count} {split} labels are ignored \(255\), so "
    with pytest.raises(UserError, match=pattern):
        train(config, dataset, tmp_path / "run", MESH)
    assert not (tmp_path / "run").exists()


def test_one_image_of_which_nothing_counts_is_fine(config, dataset, tmp_path):
    for split in ("train", "validation", "test"):
        dataset = relabelled(dataset, split, lambda labels: labels[0].fill(255))
    report = train(config, dataset, tmp_path, MESH)
    assert report["loss"] > 0
    assert report["per_image"]["image-0"]["dice"] is None


def test_only_labels_up_to_the_first_that_counts_are_read(dataset):
    seen = []

    def read(index):
        seen.append(index)
        return np.zeros((4, 4, 1), np.uint8), np.full((4, 4), 0 if index == 1 else 255, np.uint8)

    split = dataclasses.replace(make_split(9, 8, seed=0), read=read)
    splits = {**dataset.splits, "train": split, "validation": make_split(0, 8, seed=0)}
    check_labelled(dataclasses.replace(dataset, splits=splits), "root")
    assert seen == [0, 1]
