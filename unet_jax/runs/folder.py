"""The folder of a run, which belongs to one experiment and has one writer at a time."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from unet_jax.core.bucket import is_bucket
from unet_jax.core.config import (
    METRIC_FIELDS,
    SCORE_FIELDS,
    differences,
    digest,
    flatten,
    result_fields,
)
from unet_jax.core.errors import UserError
from unet_jax.core.faults import deleted_message
from unet_jax.core.files import read_json, refuse_mangled, write_json
from unet_jax.data.dataset import Dataset
from unet_jax.metrics.registry import METRICS
from unet_jax.runs.lock import locked
from unet_jax.runs.threshold import UNDECIDED, decided_threshold

CONFIG, SPLIT = "config.json", "split.json"
INITIAL = "initial.json"  # where the initial weights are from, if they are not random
DEVICE = "device"  # key of the kind of the devices in `config.json`
CLASSES = "classes"  # key of the names of the classes in `split.json`
CHECKPOINTS = ("checkpoints", "best")


def read_initial(folder: pathlib.Path) -> dict[str, Any]:
    """Returns what the folder of a run records of its initial weights.

    Args:
      folder: the run's folder.

    Returns:
      The origin, under `parent` (another run) or `pretrained` (a file of an encoder's weights), and
      `modules`: what became of each; see `Transfer.modules`. Empty if the weights were random.

    Raises:
      UserError: the record is damaged.
    """
    path = folder / INITIAL
    content = read_json(path) if path.exists() else {}
    if not isinstance(content, dict):
        raise bad_initial(path)
    return content


def bad_initial(path: pathlib.Path) -> UserError:
    """Returns the error about a damaged record of a run's initial weights."""
    return UserError(
        f"{path}: is not the record of a run's initial weights; restore it, or use another folder "
        f"with --workdir=..."
    )


@contextlib.contextmanager
def claim(
    folder: pathlib.Path, config: ConfigDict, dataset: Dataset, device: str | None = None
) -> Iterator[Callable[[], None]]:
    """Context manager that locks a run's folder and writes `config.json` and `split.json` into it.

    Args:
      folder: the run's folder; it is created if necessary.
      config: the resolved config of the experiment.
      dataset: its data, whose splits and hashes are recorded.
      device: kind of the devices that train it, which is recorded, such as `TPU v4`. None, as for
        an inspection, leaves the record of a run that has begun as it is.

    Yields:
      A function that checks the folder during the run. It restores the two files, `initial.json`
      and the lock if they were deleted. It raises `UserError` if the checkpoints were deleted, or
      if another process has locked the folder since.

    Raises:
      UserError: the folder belongs to another experiment, was split from other data, is not a
        run's folder, or has another writer. No config, split or checkpoint is changed.
    """
    refuse_mangled(folder)
    check_ours(folder, config)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder) as check_lock:
        check_data(folder, config, dataset)
        record = {"digest": digest(config), "config": config.to_dict()}
        if device:
            record[DEVICE] = device
        elif has_begun(folder) and (folder / CONFIG).exists():
            record = read_json(folder / CONFIG)
        contents = {folder / SPLIT: _describe_split(config, dataset), folder / CONFIG: record}
        for path, content in contents.items():
            write_json(path, content)

        def check() -> None:
            # In a bucket, a folder exists only as long as it has checkpoints.
            for name in () if is_bucket(folder) else CHECKPOINTS:
                if not (folder / name).is_dir():
                    raise UserError(
                        f"{deleted_message(folder / name)}; rerunning the command resumes "
                        f"from the remaining checkpoints"
                    )
            if not check_lock():
                return
            if (initial := folder / INITIAL) not in contents and initial.exists():
                contents[initial] = read_json(initial)
            for path, content in contents.items():
                if not path.exists():
                    write_json(path, content)

        yield check


def check_ours(folder: pathlib.Path, config: ConfigDict, *, evaluated: bool = False) -> None:
    """Checks that a folder is new, has not begun training, or belongs to this experiment.

    Args:
      folder: the run's folder; it may be missing.
      config: the resolved config of the experiment.
      evaluated: whether the run is only evaluated, so that `SCORE_FIELDS` may differ.

    Raises:
      UserError: the folder belongs to another experiment or is not a run's folder.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file; give a folder with --workdir=...")
    if (folder / CONFIG).exists():
        selecting = (config.eval.best, *config.eval.tune)
        used = {f"eval.{name}" for key in selecting for name in METRICS[key].settings}
        free = SCORE_FIELDS if evaluated else METRIC_FIELDS - used
        differing = differences(read_config(folder), config, free)
        if differing and has_begun(folder):
            raise UserError(
                f"{folder}: holds another experiment ({'; '.join(differing)}); nothing was "
                f"changed; use another folder with --workdir=..."
            )
    else:
        # A run that was killed at its start leaves hidden files: a lock or a temporary file.
        other = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
        if other and other != [SPLIT]:
            raise UserError(
                f"{folder}: has files but no {CONFIG}, so it is not the folder of a run; use "
                f"another one with --workdir=..."
            )


def notes_on_scores(
    folder: pathlib.Path, config: ConfigDict, chosen: Mapping[str, float]
) -> list[str]:
    """Returns a remark for each of the `SCORE_FIELDS` in which an evaluation differs from its run.

    Args:
      folder: the run's folder.
      config: the config of the evaluation.
      chosen: thresholds that the run chose, by metric.
    """
    trained = read_config(folder)
    if not trained.get("eval.threshold", UNDECIDED):
        trained["eval.threshold"] = decided_threshold(0, chosen)
    fields = result_fields(trained).keys() | result_fields(config).keys()
    changes = differences(trained, config, fields - SCORE_FIELDS)
    return [f"unlike training, {x.replace('the config', 'this evaluation')}" for x in changes]


def check_data(folder: pathlib.Path, config: ConfigDict, dataset: Dataset) -> None:
    """Checks that a run uses the data with which it began.

    Args:
      folder: the run's folder.
      config: the resolved config of the experiment.
      dataset: its data now.

    Raises:
      UserError: the run has begun, and the names, seed or hashes in its `split.json` differ.
    """
    path, now = folder / SPLIT, _describe_split(config, dataset)
    saved = read_json(path) if path.exists() else now
    # The names of the classes may change, and earlier versions did not record them.
    differs = not isinstance(saved, dict) or {**saved, CLASSES: now[CLASSES]} != now
    if differs and has_begun(folder):
        raise UserError(
            f"{path}: the data in {config.data.root} differ from those of this run (names or "
            f"hashes); restore the original data or use another folder with --workdir=..."
        )


def has_begun(folder: pathlib.Path) -> bool:
    """Returns whether training has begun; a folder with only an inspection can be reused."""
    return (folder / "checkpoints").exists()


def read_config(folder: pathlib.Path) -> dict[str, Any]:
    """Reads the config of a run.

    Args:
      folder: the run's folder.

    Returns:
      Values by dotted field name, with the options of the current version (`options.complete`).

    Raises:
      UserError: the folder has no readable `config.json`.
    """
    # Imported here, because it imports the networks and so jax, which a report does not need.
    from unet_jax.runs.options import complete

    return complete(stored_config(folder))


def stored_config(folder: pathlib.Path) -> dict[str, Any]:
    """Reads the config of a run as it was written, perhaps by an earlier version.

    Args:
      folder: the run's folder.

    Returns:
      Values by dotted field name.

    Raises:
      UserError: the folder has no readable `config.json`.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"{folder}: has no {CONFIG}, so it is not the folder of a run; check --workdir"
        )
    content = read_json(folder / CONFIG)
    try:
        return flatten(content["config"])
    except (AttributeError, KeyError, RecursionError, TypeError):
        raise UserError(
            f"{folder / CONFIG}: is not the config of a run; restore it, or use another folder "
            f"with --workdir=..."
        ) from None


def recorded_fields(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the fields of the run in `folder` by dotted name, none if no run has begun there.

    Some fields are resolved when a run begins, such as `model.dtype="auto"` for its machine. A run
    that is resumed keeps what it recorded.
    """
    if not has_begun(folder) or not (folder / CONFIG).exists():
        return {}
    return read_config(folder)


def recorded_classes(folder: pathlib.Path) -> list[str] | None:
    """Returns the names of the classes of the run in `folder`.

    Earlier versions recorded them only in the report of a finished run.

    Returns:
      The names, or None if the run recorded none.
    """
    for name in (SPLIT, "report.json"):
        content = read_json(folder / name) if (folder / name).exists() else {}
        found = content.get(CLASSES) if isinstance(content, dict) else None
        if isinstance(found, list) and all(isinstance(entry, str) for entry in found):
            return found
    return None


def class_names(folder: pathlib.Path, count: int) -> Sequence[str]:
    """Returns the names of the classes of the run in `folder`.

    Args:
      folder: the run's folder.
      count: the number of classes, or of logits per pixel, which may be 1 for two classes.

    Returns:
      The recorded names; for runs of earlier versions, which record none, `class-0` and so on.
    """
    count, names = max(2, count), recorded_classes(folder)
    if names is not None and len(names) == count:
        return names
    return [f"class-{number}" for number in range(count)]


def recorded_cpu_devices(folder: pathlib.Path) -> int:
    """Returns the `cpu_devices` of the run in `folder`, or 0 if no run has begun there.

    The rounding of sums over the batch depends on the number of devices, so that a run that is
    resumed keeps it. Earlier versions recorded no number and used one device.
    """
    if not has_begun(folder) or not (folder / CONFIG).exists():
        return 0
    return read_config(folder).get("cpu_devices", 1)


def recorded_device(folder: pathlib.Path) -> str | None:
    """Returns the kind of the devices that last trained the run in `folder`; None if unknown."""
    if not has_begun(folder) or not (folder / CONFIG).exists():
        return None
    content = read_json(folder / CONFIG)
    return content.get(DEVICE) if isinstance(content, dict) else None


def identity(config: ConfigDict, dataset: Dataset) -> dict[str, Any]:
    """Returns what must be equal when a run resumes: the config's digest and the data's splits."""
    return {"config": digest(config), "data": _describe_split(config, dataset)}


def _describe_split(config: ConfigDict, dataset: Dataset) -> dict[str, Any]:
    # Further splits may differ, because no training or model selection uses them.
    parts = ("train", "validation", "test")
    names = {part: list(dataset.splits[part].names) for part in parts}
    return {
        **names,
        "seed": config.data.split_seed,
        "sha256": dict(dataset.sha256),
        CLASSES: list(dataset.classes),
    }
