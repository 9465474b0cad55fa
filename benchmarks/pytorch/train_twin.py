"""Trains the PyTorch twin as `launch.py` trains the JAX network, from the same initial weights.

python -m benchmarks.pytorch.train_twin --config=configs/isbi.py:small,flips --workdir=runs/torch

The input pipeline gives the same batches in the same order, and the same code evaluates the
predictions. Only the network, the loss, the optimizer and the gradients are PyTorch's. The run
folder has the same `metrics.jsonl` and report. The state is in `checkpoint.pt`; rerunning the
command resumes it.
"""

import contextlib
import dataclasses
import math
import os
import pathlib
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves the memory to PyTorch

import grain
import jax
import numpy as np
import optax
import torch
from jax.sharding import Mesh
from ml_collections import ConfigDict
from torch import nn

from benchmarks.pytorch import runs, twin_losses
from benchmarks.pytorch.variants import Step, Variant
from unet_jax import data, models
from unet_jax.core.command_help import command_parser, describe_config
from unet_jax.core.errors import EXIT_INTERRUPTED, UserError, print_error
from unet_jax.core.files import expand_utf8
from unet_jax.core.intensities import INPUT_RANGES, Intensities
from unet_jax.core.stop import Interrupted, StopSignal
from unet_jax.core.streams import say
from unet_jax.data import pipeline
from unet_jax.data.dataset import Dataset
from unet_jax.distributed import devices
from unet_jax.evaluation.evaluate import summarise_split, write_report
from unet_jax.evaluation.evaluator import Evaluator
from unet_jax.evaluation.scores import class_scalars, mean_scalars, scores_line
from unet_jax.evaluation.thresholds import choose_thresholds
from unet_jax.inference.ensemble import single_network
from unet_jax.interchange.torch_twin import convert, twin
from unet_jax.learning import optim
from unet_jax.metrics.registry import Score
from unet_jax.models.torch_weights import to_variables
from unet_jax.runs import folder as run_folder
from unet_jax.runs.commandline import load_config
from unet_jax.runs.experiment import check, resolve, resolve_intensities
from unet_jax.runs.log import Writer
from unet_jax.runs.progress import Progress
from unet_jax.training.loop import training_batches
from unet_jax.training.plan import Plan, make_plan

CHECKPOINT = "checkpoint.pt"

# The best model on validation: step, loss, thresholds by metric, and weights, a tree of tensors.
Best = dict[str, Any]

# Values that these fields must have, because this loop does not implement others.
REQUIRED = {
    "model.pretrained": "",  # an option of smp_unet
    "optim.name": "adam",
    "optim.weight_decay": 0.0,
    "optim.clip_norm": 0.0,
    "optim.ema_decay": 0.0,
    "optim.encoder_rate": 1.0,
    "optim.frozen_epochs": 0.0,
    "optim.frozen_norm": "none",
    "optim.accumulate": 1,
    "optim.patience": 0,
    "eval.best": "loss",
    "eval.tune": (),
}


class TwinEvaluator(Evaluator):
    """Evaluates the twin with weights that are given as Flax variables."""

    def __init__(
        self, config: ConfigDict, dataset: Dataset, model: nn.Module, variant: Variant, mesh: Mesh
    ):
        original = single_network(models.build(**config.model), Intensities.of(config.data))
        super().__init__(config, dataset, original, mesh)
        self._twin = model
        # Compiling for each shape of whole images would take longer than it would save.
        self._variant = Variant(variant.bfloat16, variant.channels_last)
        self._loss = twin_losses.build(**config.loss)

    def run(
        self, variables: dict, batches: grain.IterDataset
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        self._twin.load_state_dict(convert.to_state_dict(variables, self._twin))
        forward = self._variant.forward(self._twin)
        for batch in batches:
            device = device_of(self._twin)
            image, label = prepare_batch(batch, device, Intensities.of(self.config.data))
            with torch.no_grad():
                logits = forward(image)
                losses = [
                    self._loss(logit[None], truth[None])
                    for logit, truth in zip(logits, label, strict=True)
                ]
                binary = logits.shape[1] == 1
                probabilities = torch.sigmoid(logits) if binary else torch.softmax(logits, dim=1)
            loss = np.array([value.item() for value in losses])
            yield batch["index"], probabilities.permute(0, 2, 3, 1).cpu().numpy(), loss


def prepare_batch(
    batch: dict[str, np.ndarray], device: torch.device, intensities: Intensities
) -> tuple[torch.Tensor, torch.Tensor]:
    """Moves a batch to a device: image, float32 [N, C, H, W] as `models.scale`, label [N, H, W]."""
    image, label = batch["image"], torch.from_numpy(batch["label"]).to(device)
    if intensities.limits or intensities.std or image.dtype.kind != "u":
        scaled = torch.from_numpy(intensities.network_input(image)).to(device)
        return scaled.permute(0, 3, 1, 2), label
    low, high = INPUT_RANGES[intensities.input_range]
    # PyTorch has no arithmetic for 16-bit unsigned integers.
    wide = image if image.dtype == np.uint8 else image.astype(np.int32)
    moved = torch.from_numpy(wide).to(device).permute(0, 3, 1, 2)
    return moved.float() * ((high - low) / np.iinfo(image.dtype).max) + low, label


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def choose_variant(config: ConfigDict, mode: str) -> Variant:
    """Returns PyTorch's usually fastest variant, at the JAX network's precision on this device.

    `mode` is that of torch.compile; "" trains eagerly.
    """
    dtype = models.build(**config.model).dtype
    return Variant(dtype.name == "bfloat16", channels_last=True, compile=mode, fused=True)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of the twin; the weights in `model` and the state of `optimizer` change."""

    config: ConfigDict
    dataset: Dataset
    plan: Plan
    folder: pathlib.Path
    device: torch.device
    initial: dict[str, Any]  # the initial Flax variables
    model: nn.Module
    variant: Variant
    optimizer: torch.optim.Optimizer
    schedule: optax.Schedule  # update, from 0 -> learning rate
    update: Step
    evaluator: TwinEvaluator

    def variables(self) -> dict[str, Any]:
        """Returns the model's weights as Flax variables."""
        return to_variables(self.model.state_dict(), self.initial)

    def scores(self, weights: dict, split: str, thresholds: Iterable[float] = ()) -> list[Score]:
        """Scores the images of a split with Flax variables, in the order of the split."""
        images = self.dataset.splits[split]
        found = self.evaluator.scores(weights, images, thresholds=thresholds)
        return sorted(found, key=lambda score: score.index)


def train(
    config: ConfigDict, dataset: Dataset, folder: pathlib.Path, mode: str = "default"
) -> dict[str, Any]:
    """Trains, or resumes the run in `folder`; returns the test report.

    Args:
      config: the experiment.
      dataset: its data.
      folder: the run's folder.
      mode: mode of torch.compile; "" trains eagerly.

    Raises:
      Interrupted: after SIGTERM or Ctrl-C, when the state is saved.
      UserError: the loss is not finite.
    """
    run = build_run(config, dataset, folder, mode)
    with contextlib.ExitStack() as stack:
        stack.enter_context(run_folder.claim(folder, config, dataset))
        start, best = _restore(run)
        steps = f"{run.plan.total_steps} steps, starting at {start}"
        say(f"PyTorch      {run.variant} on {run.device}; {steps}")
        writer = stack.enter_context(contextlib.closing(Writer(folder, start)))
        progress = Progress(start, run.plan.total_steps, config.batch_size)
        stack.callback(progress.close)
        stop = stack.enter_context(StopSignal())
        best = _fit(run, start, best, writer, progress, stop)
        return _report_test(run, best, writer)


def build_run(config: ConfigDict, dataset: Dataset, folder: pathlib.Path, mode: str) -> Run:
    """Builds what a run needs, with the initial weights of the JAX network."""
    plan, device = make_plan(config, len(dataset.splits["train"])), runs.device()
    initial = models.init(models.build(**config.model), dataset.channels, config.seed)
    model = twin.build(dataset.channels, **config.model)
    model.load_state_dict(convert.to_state_dict(initial, model))
    model.to(device)
    evaluated = twin.build(dataset.channels, **config.model).to(device)  # has its own weights
    variant = choose_variant(config, mode)
    optimizer = variant.optimizer(model, config.optim.learning_rate)
    return Run(
        config=config,
        dataset=dataset,
        plan=plan,
        folder=folder,
        device=device,
        initial=initial,
        model=model,
        variant=variant,
        optimizer=optimizer,
        schedule=optim.build_schedule(config.optim, config.num_epochs, plan.steps_per_epoch),
        update=variant.train_step(model, twin_losses.build(**config.loss), optimizer),
        evaluator=TwinEvaluator(config, dataset, evaluated, variant, devices.local_mesh()),
    )


def _fit(
    run: Run, start: int, best: Best | None, writer: Writer, progress: Progress, stop: StopSignal
) -> Best | None:
    """Trains from step `start` to the end; returns the best model on validation."""
    config, plan, splits = run.config, run.plan, run.dataset.splits
    batches = training_batches(config, splits["train"], run.folder)[start : plan.total_steps]
    progress.restart_clock(start)
    for step, batch in enumerate(pipeline.read_ahead(batches, config.data.workers), start + 1):
        rate = float(np.asarray(run.schedule(step - 1)))
        loss = _train_step(run, batch, step, rate)
        if step == start + 1:
            loss.item()  # waits for the GPU
            progress.say(f"first step   {progress.restart_clock(step):.1f} s")
        if step % config.log.every_steps == 0:
            scalars = {"loss": loss.item(), "learning_rate": rate}
            if not math.isfinite(scalars["loss"]):
                raise UserError(f"step {step}: the loss is {scalars['loss']}")
            pace = progress.update(step, scalars["loss"])
            scalars |= {"images_per_second": pace} if pace else {}
            writer.write(step, step / plan.steps_per_epoch, "train", scalars)
        validation_due = len(splits["validation"]) > 0 and plan.is_due(
            step, config.eval.every_epochs
        )
        if stop.requested or validation_due or plan.is_due(step, config.checkpoint.every_epochs):
            if validation_due:
                best = _validate(run, step, best, writer, progress)
            _save(run, step, best)
            stop.check()
            progress.restart_clock(step)
    return best


def _train_step(run: Run, batch: dict[str, np.ndarray], step: int, rate: float) -> torch.Tensor:
    """Updates the model; returns the loss before the update."""
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    if run.config.model.dropout:
        # Seeded by the step, so that a resumed run has the same dropout.
        torch.manual_seed(run.config.seed * run.plan.total_steps + step)
    weight = torch.from_numpy(batch["weight"]).to(run.device) if "weight" in batch else None
    image, label = prepare_batch(batch, run.device, Intensities.of(run.config.data))
    return run.update(image, label, weight)


def _validate(run: Run, step: int, best: Best | None, writer: Writer, progress: Progress) -> Best:
    """Scores the validation split; returns the better of this model and the best so far."""
    weights = run.variables()
    found = run.scores(weights, "validation")
    summary = summarise_split(run.config, run.dataset, found)
    means = mean_scalars(summary)
    curves = means | class_scalars(summary, run.evaluator.task)
    writer.write(step, step / run.plan.steps_per_epoch, "validation", curves)
    progress.say(f"validation at step {step}: {scores_line(summary)}")
    if best is not None and best["loss"] <= means["loss"]:
        return best
    return {
        "step": step,
        "loss": means["loss"],
        "thresholds": choose_thresholds(found, run.evaluator.task),
        "weights": jax.tree.map(torch.from_numpy, weights),
    }


def chosen_weights(run: Run) -> dict[str, Any]:
    """Returns the Flax variables that a finished run was evaluated with.

    Args:
      run: the run; its checkpoint is loaded.
    """
    _, best = _restore(run)
    return run.variables() if best is None else variables_of(best)


def variables_of(best: Best) -> dict[str, Any]:
    """Returns the Flax variables of the best model."""
    return jax.tree.map(np.asarray, best["weights"])


def _report_test(run: Run, best: Best | None, writer: Writer) -> dict[str, Any]:
    """Evaluates the best model, or without validation the last one, on the test split."""
    if best is None:
        step, chosen, weights = run.plan.total_steps, {}, run.variables()
    else:
        step, chosen, weights = best["step"], best["thresholds"], variables_of(best)
    run = dataclasses.replace(run, evaluator=run.evaluator.decided(chosen))
    report = write_report(
        run.evaluator,
        weights,
        split="test",
        checkpoint="best",
        step=step,
        selected=best is not None,
        folder=run.folder,
        scores=run.scores(weights, "test", chosen.values()),
        chosen=chosen,
    )
    scalars = mean_scalars(report) | class_scalars(report, run.evaluator.task)
    writer.write(step, step / run.plan.steps_per_epoch, "test", scalars)
    return report


def _save(run: Run, step: int, best: Best | None) -> None:
    """Writes the checkpoint atomically."""
    path = run.folder / CHECKPOINT
    part = path.with_name(f".{path.name}.part")
    state = {"step": step, "model": run.model.state_dict(), "best": best}
    torch.save(state | {"optimizer": run.optimizer.state_dict()}, part)
    part.replace(path)


def _restore(run: Run) -> tuple[int, Best | None]:
    """Loads the checkpoint, if there is one; returns its step, or 0, and the best model so far."""
    path = run.folder / CHECKPOINT
    if not path.exists():
        return 0, None
    state = torch.load(path, weights_only=True)
    run.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["best"]


def open_config(arguments: Sequence[str]) -> tuple[ConfigDict, Dataset]:
    """Returns the checked, resolved config and its data set."""
    config = load_config(arguments)
    check(config)
    devices.use_cores(config.batch_size)
    config.data.root = expand_utf8(config.data.root)
    dataset = data.open_dataset(config.data)
    config, _ = resolve_intensities(resolve(config, dataset.classes), dataset)
    fields = config.to_dict()
    for name, required in REQUIRED.items():
        section, field = name.split(".")
        found = fields[section].get(field, required)
        if found != required:
            raise UserError(
                f"{name}={found}: the comparison with PyTorch supports only {name}={required}"
            )
    return config, dataset


def main(arguments: Sequence[str]) -> int:
    parser = command_parser("python -m benchmarks.pytorch.train_twin", __doc__)
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="the run folder")
    parser.add_argument("--compile", default="default", help="mode of torch.compile; '' is eager")
    describe_config(parser)
    options, rest = parser.parse_known_args(arguments)
    try:
        config, dataset = open_config(rest)
        start = time.perf_counter()
        report = train(config, dataset, options.workdir, options.compile)
    except UserError as error:
        return print_error(error)
    except Interrupted:
        print("interrupted; the state is saved, and rerunning the command resumes it")
        return EXIT_INTERRUPTED
    seconds = time.perf_counter() - start
    print(f"test, step {report['step']}, {seconds:.0f} s: {scores_line(report)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
