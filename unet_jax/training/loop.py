"""The training loop."""

import contextlib
import functools
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import grain
import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from unet_jax import models
from unet_jax.core import tuning
from unet_jax.core.compilation import CompileCount
from unet_jax.core.config import flatten
from unet_jax.core.errors import UserError
from unet_jax.core.intensities import Intensities
from unet_jax.core.stop import Interrupted, StopSignal
from unet_jax.core.streams import say
from unet_jax.data import pipeline
from unet_jax.data.dataset import Dataset, Split
from unet_jax.data.weight_map import folder_of_maps, with_weights
from unet_jax.distributed import devices, hosts
from unet_jax.evaluation.evaluator import Evaluator
from unet_jax.evaluation.task import check_selection, task_of
from unet_jax.inference.ensemble import single_network
from unet_jax.learning import optim
from unet_jax.runs import folder as run_folder
from unet_jax.runs.log import Writer
from unet_jax.runs.progress import Progress
from unet_jax.runs.shared_checkpoints import SharedCheckpoints
from unet_jax.training.parent import initial_variables
from unet_jax.training.plan import Plan, make_plan
from unet_jax.training.state import (
    TrainState,
    checkpoint_items,
    from_checkpoint,
    init_state,
    template,
    with_variables,
)
from unet_jax.training.step import compile_update
from unet_jax.training.validation import (
    RunContext,
    check_labelled,
    report_test,
    validate,
)


class Updates(NamedTuple):
    """The optimizer of a run and its compiled updates, of the first steps and of the others."""

    optimizer: optax.GradientTransformation
    schedule: optax.Schedule  # of the learning rate
    frozen: Callable  # does not train the encoder
    whole: Callable
    frozen_steps: int

    @classmethod
    def compiled(
        cls, config: ConfigDict, model: models.Network, plan: Plan, mesh: Mesh
    ) -> "Updates":
        """Returns the updates of an experiment; they are compiled when they are called first."""
        schedule = optim.build_schedule(config.optim, config.num_epochs, plan.steps_per_epoch)
        frozen_steps = optim.frozen_steps(config.optim, plan.steps_per_epoch)
        optimizer = optim.build(config.optim, schedule, model.encoder_modules, frozen_steps)
        frozen = compile_update(config, model, optimizer, mesh, True)
        whole = compile_update(config, model, optimizer, mesh)
        return cls(optimizer, schedule, frozen, whole, frozen_steps)

    def at(self, step: int) -> Callable:
        """Returns the update of a step, from 1."""
        return self.frozen if step <= self.frozen_steps else self.whole


def training_batches(config: ConfigDict, split: Split, folder: pathlib.Path) -> grain.MapDataset:
    """Builds this host's share of a run's training batches, an endless data set.

    Args:
      config: the experiment.
      split: the training images.
      folder: the run's folder; weight maps are cached in it (`folder_of_maps`).

    Returns:
      Augmented batches, a random-access data set that is indexed by the step, from 0.
    """
    if config.data.border_weight:
        maps, sigma = folder_of_maps(folder), config.data.border_sigma
        split = with_weights(split, maps, config.data.border_weight, sigma)
    return pipeline.batches_of(
        config, split, process_index=hosts.index(), process_count=hosts.count()
    )


def train(
    config: ConfigDict,
    dataset: Dataset,
    folder: pathlib.Path,
    mesh: Mesh,
    init_from: str | None = None,
) -> dict[str, Any]:
    """Trains an experiment, or resumes the run in `folder`, and evaluates its best model on test.

    Args:
      config: the experiment.
      dataset: its data.
      folder: on the first host the run's folder; on any other host a folder for its own files.
      mesh: this host's devices.
      init_from: another run from whose weights a new run starts; see `parent`.

    Returns:
      The test report.

    Raises:
      Interrupted: after SIGTERM or Ctrl-C; the state is saved.
      UserError: the experiment cannot be trained, or its loss is not finite.
    """
    devices.check_batch_size(config.batch_size, mesh, config.optim.accumulate)
    check_selection(config, task_of(config, dataset), len(dataset.splits["validation"]) > 0)
    check_labelled(dataset, config.data.root)
    plan = make_plan(config, len(dataset.splits["train"]))
    model = models.build(**config.model)
    evaluator = Evaluator(config, dataset, single_network(model, Intensities.of(config.data)), mesh)
    updates = Updates.compiled(config, model, plan, mesh)

    with contextlib.ExitStack() as stack:
        compiling = stack.enter_context(CompileCount())
        channels, ema_decay = dataset.channels, config.optim.ema_decay
        initial = init_state(model, updates.optimizer, channels, config.seed, ema_decay)
        hosts.check_same(run_folder.identity(config, dataset) | {"--init_from": init_from})
        check_folder = stack.enter_context(_claimed(folder, config, dataset, mesh))
        variables = initial_variables(init_from, folder, config, dataset, initial.variables)
        # Entered before the checkpoints: a repeated signal then cannot interrupt their last save.
        stop = stack.enter_context(StopSignal())
        checkpoints = SharedCheckpoints(folder, config.checkpoint.keep, config.to_dict())
        stack.enter_context(_closing(checkpoints, check_folder))
        restored, state = _restore(checkpoints, initial, variables, folder)
        start = restored or 0
        _check_length(plan, start, folder)
        steps = [best.step for best in checkpoints.bests]
        checkpoints.delete_best(plan.ends_of_shorter_runs(steps, config.eval.every_epochs))
        _print_summary(config, dataset, folder, mesh, plan, model, initial.variables, restored)
        batches = training_batches(config, dataset.splits["train"], folder)
        writer = Writer(folder, start)
        stack.enter_context(_closing(writer, check_folder))
        writer.describe(flatten(config))
        progress = Progress(start, plan.total_steps, config.batch_size)
        stack.callback(progress.close)
        run = RunContext(
            folder=folder,
            plan=plan,
            evaluator=evaluator,
            checkpoints=checkpoints,
            writer=writer,
            progress=progress,
            stop=stop,
            check_folder=check_folder,
            lost_best=checkpoints.lost_best(start),
        )
        state = devices.replicate(state, mesh)
        # Only the shapes are needed from here on, not a second state for as long as the run takes.
        target = template(initial.variables)
        del initial, variables
        if restored is not None and run.validation_due(restored):
            # A state is saved before its validation, which may have been interrupted.
            validate(run, state.evaluated, restored)
        step = start
        if start < plan.total_steps and not run.early_stop(start):
            step = _fit(run, state, start, batches, updates, compiling)
        return report_test(run, target, step)


@contextlib.contextmanager
def _claimed(
    folder: pathlib.Path, config: ConfigDict, dataset: Dataset, mesh: Mesh
) -> Iterator[Callable[[], None]]:
    """Context manager that claims the run's folder; yields a check of it (`folder.claim`).

    Only the first host writes to the folder. On any other host the check does nothing. Prints a
    line if the run resumes on another kind of device.
    """
    before = hosts.on_first(functools.partial(run_folder.recorded_device, folder))
    now = devices.kind(mesh)
    if before not in (None, now):
        dropout = " and by what dropout drops" if config.model.get("dropout") else ""
        say(
            f"note         the run was trained on {before} so far, and resumes on {now}; results "
            f"differ by rounding{dropout}; model.dtype remains {config.model.dtype}"
        )
    check: Callable[[], None] | None = None
    with contextlib.ExitStack() as stack:

        def claim() -> None:
            nonlocal check
            check = stack.enter_context(run_folder.claim(folder, config, dataset, now))

        hosts.on_first(claim)
        yield check or (lambda: None)


@contextlib.contextmanager
def _closing(part: Writer | SharedCheckpoints, check_folder: Callable[[], None]) -> Iterator[None]:
    """Context manager that closes `part`; it changes nothing if another process has the folder."""
    with contextlib.closing(part):
        complete = False
        try:
            yield
            complete = True
        finally:
            try:
                check_folder()
            except (UserError, OSError):
                part.abandon()
                if complete:  # otherwise an earlier error says more
                    raise


def _restore(
    checkpoints: SharedCheckpoints,
    initial: TrainState,
    variables: dict | None,
    folder: pathlib.Path,
) -> tuple[int | None, TrainState]:
    """Returns the step and state of the newest checkpoint, or None and the state to start from.

    Args:
      checkpoints: the run's checkpoints.
      initial: a state of step 0.
      variables: see `parent.initial_variables`.
      folder: the run's folder.
    """
    if checkpoint := checkpoints.restore_latest(checkpoint_items(initial)):
        return from_checkpoint(*checkpoint)
    if variables is None:
        raise UserError(
            f"{folder}: all checkpoints were damaged; rerunning the command, with --init_from if "
            f"the run began with it, starts from the first step"
        )
    return None, with_variables(initial, variables)


def _fit(
    run: RunContext,
    state: TrainState,
    start: int,
    batches: grain.MapDataset,
    updates: Updates,
    compiling: CompileCount,
) -> int:
    """Runs the steps after `start`, with logging, checkpoints and validation when they are due.

    Returns:
      The last step: that of the plan, or an earlier one if the run stops early.
    """
    config, mesh, plan = run.evaluator.config, run.evaluator.mesh, run.plan
    names = run.evaluator.dataset.splits["train"].names
    key = jax.random.key(config.seed)
    any_host = devices.AnyHost(mesh)
    prefetched = pipeline.read_ahead(batches[start : plan.total_steps], config.data.workers)
    with devices.on_devices(prefetched, mesh) as device_batches:
        run.progress.restart_clock(start)
        metrics = None
        unchecked = []
        for step, batch in enumerate(device_batches, start + 1):
            # One step runs while the next is prepared. A longer queue would only delay a stop.
            previous_metrics = metrics
            state, metrics = updates.at(step)(state, batch, key)
            stopping = any_host.reduce(run.stop.requested)
            jax.block_until_ready(previous_metrics)
            unchecked.append((step, metrics, batch["index"]))
            if step == start + 1:
                jax.block_until_ready(metrics)
                seconds = run.progress.restart_clock(step)
                run.progress.say(f"first step   {seconds:.1f} s; since the start {compiling}")
            elif step == updates.frozen_steps + 1:
                jax.block_until_ready(metrics)  # the compilation is no part of the pace
                run.progress.restart_clock(step)
                run.progress.say(f"unfrozen     the encoder is trained from step {step}")
            log_due = step % config.log.every_steps == 0
            save_due = (
                stopping
                or plan.is_due(step, config.checkpoint.every_epochs)
                or run.validation_due(step)
            )
            if not (log_due or save_due):
                continue
            run.check_folder()
            _check_finite(unchecked, names)
            unchecked.clear()
            scalars = {name: float(value) for name, value in metrics.items()}
            if log_due:
                scalars["learning_rate"] = float(np.asarray(updates.schedule(step - 1)))
                pace = run.progress.update(step, scalars["loss"])
                if pace:
                    scalars["images_per_second"] = pace
                run.writer.write(step, step / plan.steps_per_epoch, "train", scalars)
            if save_due:
                run.writer.flush()
                run.checkpoints.save(step, checkpoint_items(devices.to_host(state)))
                if stopping:
                    raise Interrupted
                if run.validation_due(step):
                    validate(run, state.evaluated, step)
                    if run.early_stop(step):
                        return step
                run.progress.restart_clock(step)
    return plan.total_steps


def _check_length(plan: Plan, start: int, folder: pathlib.Path) -> None:
    """Raises a `UserError` if the run in `folder` is already longer than the plan."""
    if start > plan.total_steps:
        epochs = -(-start // plan.steps_per_epoch)
        raise UserError(
            f"num_epochs={plan.num_epochs}: the run in {folder} is already at step {start}, in "
            f"epoch {epochs}; set num_epochs to at least {epochs}, or use another folder with "
            f"--workdir=..."
        )


def _print_summary(
    config: ConfigDict,
    dataset: Dataset,
    folder: pathlib.Path,
    mesh: Mesh,
    plan: Plan,
    model: nn.Module,
    variables: dict,
    restored: int | None,
) -> None:
    """Prints a summary of the run before it starts or resumes."""
    size = config.data.size
    gflop = models.forward_gflop(model, variables, size, dataset.channels)
    cost = f"{gflop:.1f} GFLOP" if gflop else "GFLOP unknown"
    millions = models.parameter_count(variables) / 1e6
    counts = ", ".join(f"{len(split)} {name}" for name, split in dataset.splits.items())
    say(f"run          {config.name} in {folder}")
    pages = ", huge pages for malloc" if tuning.has_huge_pages() else ""
    say(f"devices      {devices.describe(mesh)}{pages}")
    say(f"data         {config.data.root}: {counts}; classes {', '.join(dataset.classes)}")
    say(f"model        {config.model.name}: {millions:.2f} M parameters, {cost} forward")
    say(f"             for each image of {size}x{size}, computed in {model.dtype}")
    accumulate = config.optim.accumulate
    micro = f" in {accumulate} micro-batches" if accumulate > 1 else ""
    resumes = "" if restored is None else f"; resumes from step {restored}"
    say(
        f"steps        {plan.total_steps}: {config.num_epochs} epochs of {plan.steps_per_epoch} "
        f"batches of {config.batch_size}{micro}{resumes}"
    )
    if frozen_steps := optim.frozen_steps(config.optim, plan.steps_per_epoch):
        say(f"frozen       the encoder is not trained in the first {frozen_steps} steps")


def _check_finite(
    steps: Sequence[tuple[int, dict[str, jax.Array], jax.Array]], names: Sequence[str]
) -> None:
    """Raises a `UserError` with the first step that has a non-finite metric, and its images."""
    for step, metrics, indices in steps:
        for name, value in metrics.items():
            if not math.isfinite(value):
                examples = ", ".join(sorted({names[i] for i in devices.join(indices)}))
                raise UserError(
                    f"step {step}: the {name} is {float(value)}, on crops of {examples}; the "
                    f"checkpoints predate it; check these images, lower "
                    f"optim.learning_rate, or set optim.clip_norm or optim.warmup_epochs"
                )
