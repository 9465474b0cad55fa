"""The evaluations of a run: on the validation split during training, on the test split after."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from unet_jax import IGNORED
from unet_jax.core.errors import UserError
from unet_jax.core.stop import StopSignal
from unet_jax.data.dataset import Dataset
from unet_jax.distributed import devices, hosts
from unet_jax.evaluation.evaluate import summarise_split, write_report
from unet_jax.evaluation.evaluator import Evaluator
from unet_jax.evaluation.scores import (
    all_scores,
    check_finite,
    class_scalars,
    mean_scalars,
    only_predicted_class,
    scores_line,
)
from unet_jax.evaluation.thresholds import choose_thresholds
from unet_jax.metrics.registry import METRICS, Score
from unet_jax.reporting.overlays import example_strip
from unet_jax.runs.best import Best
from unet_jax.runs.log import Writer
from unet_jax.runs.progress import Progress
from unet_jax.runs.shared_checkpoints import SharedCheckpoints
from unet_jax.training.plan import Plan

LOGGED_IMAGES = 2  # number of validation images whose predictions are written to TensorBoard


@dataclasses.dataclass(frozen=True)
class RunContext:
    """Everything that the evaluations of a run need, except the variables."""

    folder: pathlib.Path
    plan: Plan
    evaluator: Evaluator
    checkpoints: SharedCheckpoints
    writer: Writer
    progress: Progress
    stop: StopSignal
    check_folder: Callable[[], None]  # see `folder.claim`
    lost_best: int  # step of a best model that was damaged before the run resumed, or 0
    printed: set[str] = dataclasses.field(default_factory=set)  # the lines of `say_once`

    def validation_due(self, step: int) -> bool:
        every_epochs = self.evaluator.config.eval.every_epochs
        has_images = len(self.evaluator.dataset.splits["validation"]) > 0
        return has_images and self.plan.is_due(step, every_epochs)

    def early_stop(self, step: int) -> str | None:
        """Returns why the run ends after the validation at `step`, or None if it continues.

        The steps of the validations are known, and the best model has the step of its own, so that
        a run that is resumed ends at the same step as an uninterrupted one.
        """
        config, bests = self.evaluator.config, self.checkpoints.bests
        patience = config.optim.patience
        if not patience or step >= self.plan.total_steps or not self.validation_due(step):
            return None
        best = bests[0].step if bests else self.lost_best
        count = (step - best) // (self.plan.steps_per_epoch * config.eval.every_epochs)
        if count < patience:
            return None
        since = f"since step {best}" if best else "from the first one on"
        return (
            f"stopped early after step {step} of {self.plan.total_steps}: {config.eval.best} has "
            f"not improved in {count} validation{'s' * (count > 1)} {since} "
            f"(optim.patience={patience})"
        )

    def say_once(self, line: str) -> None:
        """Prints a line, unless it was printed before."""
        if line not in self.printed:
            self.printed.add(line)
            self.progress.say(line)


def check_labelled(dataset: Dataset, root: str) -> None:
    """Checks that the training and the validation labels have pixels that are not ignored.

    Reads labels up to the first with such a pixel.

    Args:
      dataset: the data set.
      root: its folder, for the error message.

    Raises:
      UserError: all pixels of a split are ignored.
    """
    for name in ("train", "validation"):
        split = dataset.splits[name]
        if len(split) and all((split.read(i)[1] == IGNORED).all() for i in range(len(split))):
            raise UserError(
                f"{root}: all pixels of all {len(split)} {name} labels are ignored ({IGNORED}), so "
                f"there is nothing to {'train on' if name == 'train' else 'evaluate'}; check the "
                f"labels (--mode=inspect)"
            )


def score_split(run: RunContext, variables: Any, split: str, **options: Any) -> list[Score]:
    """Scores all images of a split.

    Args:
      run: the run.
      variables: on the devices.
      split: name of the split.
      **options: arguments of `Evaluator.scores`.

    Returns:
      The scores of all hosts, in the split's order.

    Raises:
      Interrupted: the run is asked to stop. Only on a single host: of several hosts, the others
        would wait for the scores of the one that stopped.
    """
    scores = []
    images = run.evaluator.dataset.splits[split]
    for score in run.evaluator.scores(variables, images, **options):
        scores.append(score)
        if hosts.count() == 1:
            run.stop.check()
    return all_scores(scores)


def validate(run: RunContext, variables: Any, step: int) -> None:
    """Evaluates a model on the validation split, and saves it if it is the best so far.

    The best has the lowest loss, or the best value of the metric `eval.best`. Logs the metrics and
    the predictions of `LOGGED_IMAGES` images to TensorBoard.

    Args:
      run: the run.
      variables: the model's variables, on the devices.
      step: the step that they were trained to.

    Raises:
      UserError: the loss of an image is not finite; no model is saved.
      Interrupted: see `score_split`.
    """
    config, dataset = run.evaluator.config, run.evaluator.dataset
    tuned = tuple(config.eval.tune)
    scores = score_split(run, variables, "validation", shown=range(LOGGED_IMAGES), tuned=tuned)
    run.check_folder()  # the images may have taken longer than another process waits for a lease
    check_finite(scores, f"validation at step {step}")
    summary = summarise_split(config, dataset, scores)
    means = mean_scalars(summary)
    curves = means | class_scalars(summary, run.evaluator.task)
    run.writer.write(step, step / run.plan.steps_per_epoch, "validation", curves)
    for score in scores:
        if score.prediction is not None:
            image, label = dataset.splits["validation"].read(score.index)
            strip = example_strip(image, label, score.prediction, len(dataset.classes))
            run.writer.show(step, f"validation/{score.name}", strip)
    run.progress.say(f"validation at step {step}: {scores_line(summary)}")
    if not run.evaluator.stated.eval.threshold:
        run.say_once("until training ends, masks of validation images are at the threshold 0.5")
    if class_name := only_predicted_class(scores, dataset.classes):
        run.progress.say(
            f"every pixel was predicted as {class_name}: this is usual in the first epochs; if it "
            f"persists, check the labels (--mode=inspect) or change optim.learning_rate"
        )
    metric, bests = METRICS[config.eval.best], run.checkpoints.bests
    pooled = summary["aggregate"][metric.key]["pooled"]
    value = pooled if metric.statistic == "pooled" else means.get(metric.key)
    if value is None:
        run.say_once(
            f"eval.best={metric.key}: the {metric.label} is undefined on the validation images; "
            f"such a model is never the best"
        )
        return
    images = sum(row[metric.key] is not None for row in summary["per_image"].values())
    selected = Best.of(step, means, metric, value, images)
    if not bests or selected.order < bests[0].order:
        thresholds = choose_thresholds(scores, run.evaluator.task, tuned)
        for key in sorted(set(tuned) - thresholds.keys()):
            run.say_once(f"eval.tune: {key} is undefined on the validation images; no threshold")
        metrics = selected.metrics | {"thresholds": thresholds}
        # If the run is extended, a best model from a validation that was due only at the end is
        # deleted (`Plan.ends_of_shorter_runs`), so that the previous best must be kept.
        regular = run.plan.is_regular(step, config.eval.every_epochs)
        model = devices.to_host(variables)
        run.check_folder()
        run.checkpoints.save_best(step, model, metrics, keep_previous=not regular)


def report_test(run: RunContext, target: dict, step: int) -> dict[str, Any]:
    """Evaluates the run's best model on `Dataset.final_split` and writes the run's report.

    Args:
      run: the run.
      target: variables with the structure and the shapes of the model's.
      step: the last step of the training.

    Returns:
      The report's content.

    Raises:
      UserError: the loss of an image is not finite; no report is written.
      Interrupted: see `score_split`.
    """
    run.check_folder()
    run.checkpoints.wait()
    notes = []
    if reason := run.early_stop(step):
        notes.append(reason)
        run.progress.say(f"complete     {reason}; to continue it, raise optim.patience")
    step, model, chosen, _ = run.checkpoints.restore_model("best", target)
    selected = run.checkpoints.is_best(step)
    remarks = run.checkpoints.notes_on_best(step, run.evaluator.config.eval.best)
    for remark in remarks:
        run.progress.say(f"note         {remark}")
    notes += remarks
    run = dataclasses.replace(run, evaluator=run.evaluator.decided(chosen))
    variables = devices.replicate(model, run.evaluator.mesh)
    split = run.evaluator.dataset.final_split
    scores = score_split(run, variables, split, thresholds=chosen.values())
    run.check_folder()
    report = write_report(
        run.evaluator,
        variables,
        split=split,
        checkpoint="best",
        step=step,
        selected=selected,
        folder=run.folder,
        scores=scores,
        chosen=chosen,
        notes=notes,
    )
    scalars = mean_scalars(report) | class_scalars(report, run.evaluator.task)
    run.writer.write(step, step / run.plan.steps_per_epoch, split, scalars)
    return report
