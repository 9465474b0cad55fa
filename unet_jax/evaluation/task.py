"""The task of an experiment, which decides its metrics, and the metrics that select its model."""

from ml_collections import ConfigDict

from unet_jax import is_binary
from unet_jax.core.errors import UserError
from unet_jax.data.dataset import Dataset
from unet_jax.data.fit import Fit
from unet_jax.evaluation.thresholds import can_tune
from unet_jax.metrics.registry import METRICS, Task, metrics_of
from unet_jax.runs.threshold import CHOSEN_FOR


def task_of(config: ConfigDict, dataset: Dataset) -> Task:
    """Returns the task of an experiment, which decides the metrics that are computed."""
    return Task(
        len(dataset.classes),
        dataset.cells,
        resized=Fit.of(config.data).resizes,
        groups=tuple(config.eval.metrics),
        nsd_pixels=tuple(config.eval.nsd_pixels),
        length_unit=dataset.length_unit,
        objects=config.eval.objects,
        min_object_pixels=config.eval.min_object_pixels,
        border=dataset.border,
    )


def check_selection(config: ConfigDict, task: Task, validated: bool) -> None:
    """Checks that `eval.best` and `eval.tune` name metrics that are computed for this task.

    Args:
      config: the experiment.
      task: its task.
      validated: whether there are validation images.

    Raises:
      UserError: there are no images to select, to stop early or to choose a threshold by, a metric
        does not apply to the task, `eval.metrics` lacks its group, or no threshold can be chosen
        for it.
    """
    metrics = {metric.key: metric for metric in metrics_of(task)}
    if config.eval.tune and not is_binary(task.classes):
        raise UserError(
            f"eval.tune={tuple(config.eval.tune)}: thresholds are for two classes, but these data "
            f"have {task.classes}; set it to ()"
        )
    tunable = [key for key, metric in metrics.items() if can_tune(metric)]
    for name, keys in (("eval.best", [config.eval.best]), ("eval.tune", config.eval.tune)):
        for key in keys:
            group = METRICS[key].group
            if group not in ("default", *task.groups):
                groups = ",".join(f"'{each}'" for each in (*task.groups, group))
                raise UserError(
                    f"{name}: {key} is of the group {group}, which eval.metrics lacks; add it: "
                    f'--config.eval.metrics="({groups},)"'
                )
            if key not in metrics:
                choices = ", ".join(tunable if name == "eval.tune" else metrics)
                raise UserError(
                    f"{name}: {key} does not apply to these data; choose among {choices}"
                )
    for key in config.eval.tune:
        if key not in tunable:
            raise UserError(
                f"eval.tune: no threshold can be chosen for {key}, which does not depend on it or "
                f"is best at 0 or 1; choose among {', '.join(tunable)}"
            )
    by_dice = is_binary(task.classes) and not config.eval.threshold
    if by_dice and not validated:
        raise UserError(
            "eval.threshold=0: there are no validation images on which to choose it; hold some out "
            "(data.split), or give a threshold, such as 0.5"
        )
    if by_dice and config.eval.tune and CHOSEN_FOR not in config.eval.tune:
        raise UserError(
            f"eval.tune={tuple(config.eval.tune)}: eval.threshold=0 needs the threshold that is "
            f"best for {CHOSEN_FOR}; add it"
        )
    if not validated and config.optim.patience:
        raise UserError(
            f"optim.patience={config.optim.patience}: there are no validation images on which to "
            f"improve; hold some out (data.split), or set it to 0"
        )
    if not validated and (config.eval.best != "loss" or config.eval.tune):
        name = "eval.best" if config.eval.best != "loss" else "eval.tune"
        raise UserError(
            f"{name}={config.eval[name[5:]]}: there are no validation images to choose by; hold "
            f"some out (data.split), or leave the field out"
        )
