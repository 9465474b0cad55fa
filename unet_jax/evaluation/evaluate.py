"""Evaluates trained runs on a split, and writes the report."""

import functools
import pathlib
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from unet_jax import is_binary, models
from unet_jax.core.config import digest
from unet_jax.core.errors import UserError
from unet_jax.data.dataset import Dataset
from unet_jax.distributed import devices, hosts
from unet_jax.evaluation.evaluator import Evaluator
from unet_jax.evaluation.intervals import add_intervals
from unet_jax.evaluation.scores import all_scores, check_finite, second_observer, summarise
from unet_jax.evaluation.task import task_of
from unet_jax.evaluation.thresholds import threshold_table
from unet_jax.inference.ensemble import (
    check_alike,
    ensemble_network,
    run_network,
    symmetries_note,
)
from unet_jax.learning import losses
from unet_jax.metrics.registry import Score
from unet_jax.runs import folder as run_folder
from unet_jax.runs.checkpoints import Restored
from unet_jax.runs.log import read_history
from unet_jax.runs.shared_checkpoints import SharedCheckpoints
from unet_jax.runs.threshold import decided


def summarise_split(
    config: ConfigDict, dataset: Dataset, scores: Sequence[Score], intervals: bool = False
) -> dict[str, Any]:
    """Summarises a split's scores with the experiment's loss and threshold; see `summarise`.

    Args:
      config: the experiment.
      dataset: its data set.
      scores: the scores of the split.
      intervals: whether to add confidence intervals; see `add_intervals`.
    """
    plain = losses.is_mean_over_pixels(**config.loss)
    task = task_of(config, dataset)
    summary = summarise(scores, task, dataset.classes, config.eval.threshold, plain)
    if intervals:
        add_intervals(summary, scores, plain)
    return summary


def write_report(
    evaluator: Evaluator,
    variables: Any,
    *,
    split: str,
    checkpoint: str,
    step: int,
    selected: bool,
    folder: pathlib.Path | None,
    scores: Sequence[Score],
    chosen: Mapping[str, float],
    suffixes: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Builds a report; the first host writes it to the run's folder.

    The report of checkpoint `best` on `Dataset.final_split` is the run's main report,
    `report.json`. Any other is named `report-SPLIT-CHECKPOINT`, followed by the suffixes.

    Args:
      evaluator: the experiment, its data set and its network.
      variables: of the network, on the devices.
      split: name of the split.
      checkpoint: `best`, `last` or a step, as requested.
      step: the step of the checkpoint.
      selected: whether validation selected the model.
      folder: the run's folder; None writes nothing.
      scores: the scores of the whole split, in its order.
      chosen: thresholds that were best on validation, by metric.
      suffixes: suffixes of the file name, for an ensemble and for test-time augmentation.
      notes: remarks that the report shows, in addition to those of the data set.

    Returns:
      The report's content.

    Raises:
      UserError: the loss of an image is not finite; nothing is written.
    """
    config, dataset = evaluator.config, evaluator.dataset
    check_finite(scores, f"{split}, checkpoint {checkpoint} of step {step}")
    content = {
        "name": config.name,
        "split": split,
        "step": step,
        "checkpoint": checkpoint,
        "selected_by": config.eval.best if selected else None,
        "classes": list(dataset.classes),
        "channels": list(dataset.channel_names),
        "notes": [*dataset.notes, *notes],
        "threshold": config.eval.threshold if is_binary(evaluator.task.classes) else None,
        **summarise_split(config, dataset, scores, intervals=True),
        "observer": second_observer(dataset.splits[split], dataset.classes),
        "parameters": models.parameter_count(variables),
        "versions": _versions(),
        "device": devices.describe(evaluator.mesh),
        "config_digest": digest(evaluator.stated),
        "initial": run_folder.read_initial(folder) if folder and hosts.is_first() else {},
    }
    if is_binary(evaluator.task.classes):
        content["thresholds"] = threshold_table(
            scores, evaluator.task, config.eval.threshold, chosen
        )
    stem = "-".join(["report", split, checkpoint, *suffixes])
    if stem == f"report-{dataset.final_split}-best":
        stem = "report"
    if folder and hosts.is_first():
        from unet_jax.reporting import report  # its import of matplotlib takes a second

        overlays = evaluator.overlays(variables, dataset.splits[split], scores)
        history, fields = read_history(folder), config.to_dict()
        report.write_report(folder, content, history, overlays, stem, config=fields)
    return content


def _restore(
    folder: pathlib.Path,
    config: ConfigDict,
    channels: int,
    checkpoint: str,
    step: int | None,
) -> tuple[Restored, bool, list[str]]:
    """Restores the model of a run on all hosts; see `evaluate`.

    Returns:
      The model, whether validation selected it, and remarks for its report.
    """
    keep = config.checkpoint.keep
    checkpoints = SharedCheckpoints(folder, keep, config.to_dict(), read_only=True)
    try:
        target = models.init(models.build(**config.model), channels, seed=config.seed)
        restored = checkpoints.restore_model(checkpoint, target)
        if step not in (None, restored.step):
            raise UserError(
                f"{folder}: checkpoint {checkpoint} is now of step {restored.step}, not of step "
                f"{step}; load the run again"
            )
        if checkpoint != "best":
            return restored, False, []
        notes = checkpoints.notes_on_best(restored.step, config.eval.best)
        return restored, checkpoints.is_best(restored.step), notes
    finally:
        checkpoints.close()


def evaluate(
    runs: Mapping[pathlib.Path, ConfigDict],
    dataset: Dataset,
    mesh: Mesh,
    *,
    split: str,
    checkpoint: str,
    symmetries: bool = False,
    other_data: bool = False,
    step: int | None = None,
    write: bool = True,
) -> dict[str, Any]:
    """Evaluates a run, or an ensemble of runs, on a split, and writes a report.

    An ensemble averages the probabilities of its runs. Its report is written to the first run's
    folder, and its thresholds are those of the first run.

    Args:
      runs: folders of the runs, with their configs.
      dataset: the data set.
      mesh: this host's devices.
      split: name of the split.
      checkpoint: `best`, `last` or a step.
      symmetries: averages over the training symmetries of each run (test-time augmentation).
      other_data: whether `dataset` is not that with which the runs were trained.
      step: the step that the checkpoint of each run must have; None accepts any.
      write: whether to write the report.

    Returns:
      The report's content.

    Raises:
      UserError: the split has no images, a run does not match the data, the other runs or
        `symmetries`, there is no such checkpoint, it has another step, or the loss of an image is
        not finite.
    """
    (folder, *others), config = runs, next(iter(runs.values()))
    if not len(dataset.splits.get(split, ())):
        has = ", ".join(name for name, part in dataset.splits.items() if len(part))
        raise UserError(f"--split={split}: {config.data.root} has no such images; it has {has}")
    networks, restored, selected, remarks = [], [], [], []
    for run, run_config in runs.items():
        hosts.check_same(run_folder.identity(run_config, dataset))
        if not other_data:
            hosts.on_first(functools.partial(run_folder.check_data, run, run_config, dataset))
        check_alike(config, run_config, run)
        networks.append(run_network(run, run_config, symmetries))
        model, is_best, found = _restore(run, run_config, dataset.channels, checkpoint, step)
        restored.append(model)
        selected.append(is_best)
        remarks += [f"{run}: {remark}" if len(runs) > 1 else remark for remark in found]
    first, network, suffixes = restored[0], networks[0], []
    used = decided(config, first.decisive)
    notes = hosts.on_first(lambda: run_folder.notes_on_scores(folder, used, first.decisive))
    notes += remarks
    if others:
        network = ensemble_network(networks)
        suffixes.append(f"ensemble{len(runs)}")
        notes.append(f"probabilities are the mean of {len(runs)} runs: {', '.join(map(str, runs))}")
    if symmetries:
        suffixes.append("tta")
        notes.append(symmetries_note(runs.values()))
    evaluator = Evaluator(config, dataset, network, mesh).decided(first.decisive)
    variables = [one.model for one in restored]
    placed = devices.replicate(variables if others else variables[0], mesh)
    scores = evaluator.scores(placed, dataset.splits[split], thresholds=first.thresholds.values())
    return write_report(
        evaluator,
        placed,
        split=split,
        checkpoint=checkpoint,
        step=first.step,
        selected=all(selected),
        folder=folder if write else None,
        scores=all_scores(scores),
        chosen=first.thresholds,
        suffixes=suffixes,
        notes=notes,
    )


def _versions() -> dict[str, str]:
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {"python": platform.python_version()} | {p: metadata.version(p) for p in packages}
