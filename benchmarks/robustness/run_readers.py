"""Readers of a run's files, weight maps and PyTorch weights for the fuzzer, with valid files."""

import contextlib
import functools
import json
import pathlib
from typing import Any

import numpy as np

from benchmarks.robustness.judges import Trial, judge_cut, judge_sealed
from unet_jax.core.errors import UserError


def _config() -> Any:
    from configs import base

    config = base.get_config()
    config.name = "fuzzed"
    return config


def _dataset() -> Any:
    from unet_jax.data.dataset import Dataset, Split

    split = Split(names=("a", "b"), sizes=((8, 8),) * 2, read=_read_example)
    parts = dict.fromkeys(("train", "validation", "test"), split)
    return Dataset(parts, ("background", "blob"), 1, {"made": "0"})


def _read_example(index: int) -> tuple[np.ndarray, np.ndarray]:
    label = np.kron(np.eye(3, dtype=np.uint8), np.ones((4, 4), np.uint8))
    return np.zeros((12, 12, 1), np.uint8), np.roll(label, index)


def make_run(folder: pathlib.Path) -> None:
    """Writes the folder of a run with config, split, metrics and report."""
    from unet_jax.runs import folder as run_folder
    from unet_jax.runs.log import Writer

    run = folder / "fuzzed-seed0"
    with run_folder.claim(run, _config(), _dataset()), contextlib.closing(Writer(run, 0)) as writer:
        for step in range(1, 7):
            writer.write(step, step / 2, "train", {"loss": 1 / step, "learning_rate": 1e-3})
            writer.write(step, step / 2, "validation", {"loss": 1 / step, "dice": 0.5})
    values = {"mean": 0.5, "min": 0.1, "max": 0.9, "pooled": 0.5}
    report = {"name": "fuzzed", "aggregate": {"loss": values, "dice": values}, "loss": 0.5}
    (run / "report.json").write_text(json.dumps(report))
    for path in run.iterdir():
        if path.name.startswith((".", "events")):
            path.unlink()


def read_config(path: pathlib.Path, _: pathlib.Path) -> Any:
    """Reads and checks `config.json` as a resumed run does; returns the flattened fields."""
    from unet_jax.core.config import flatten
    from unet_jax.runs import folder as run_folder
    from unet_jax.runs.experiment import check, saved_config

    fields = run_folder.read_config(path.parent)
    config = saved_config(fields)
    check(config)
    with contextlib.suppress(UserError):  # the config may be that of another experiment
        run_folder.check_ours(path.parent, _config())
    return flatten(config)


def read_metrics(path: pathlib.Path, _: pathlib.Path) -> Any:
    """Reads, plots and resumes `metrics.jsonl`; returns its records before it was resumed."""
    from unet_jax.reporting.charts import figure, learning_curves
    from unet_jax.runs.log import Writer, read_history

    history = read_history(path.parent)
    figure(learning_curves(history, reported_step=3))
    Writer(path.parent, 3).close()
    for events in path.parent.glob("events*"):
        events.unlink()
    return history


def judge_history(trial: Trial) -> str:
    """Reports complete lines that were not read, and a truncated file that is no prefix."""
    records, expected = trial.result, trial.expected
    if trial.cut and records != expected[: len(records)]:
        return "a truncated file gives another result"
    complete = [line for line in trial.content.split(b"\n")[:-1] if line.strip()]
    return "lines are skipped" if len(records) < len(complete) else ""


def read_report(path: pathlib.Path, folder: pathlib.Path) -> Any:
    """Reads `report.json` as a sweep does, writes the table and returns its rows."""
    from unet_jax.reporting import sweep

    rows = sweep.table(folder, [sweep.Run("fuzzed.py", 0)])
    sweep.write_table(folder.parent, rows, [])
    return rows


def read_split(path: pathlib.Path, _: pathlib.Path) -> Any:
    """Compares `split.json` with the data set."""
    from unet_jax.runs import folder as run_folder

    return run_folder.check_data(path.parent, _config(), _dataset())


@functools.cache
def _states() -> tuple[dict[int, Any], dict[Any, Any], dict[str, Any]]:
    """Returns training states and models by step, and the metrics of the best model."""

    def model(step: int) -> dict[str, Any]:
        kernel = np.arange(18, dtype=np.float32).reshape(2, 9) * step
        return {"params": {"a": {"kernel": kernel}, "b": np.full(3, step, np.float32)}}

    models: dict[Any, Any] = {step: model(step) for step in (10, 20)}
    counts = {step: {"count": np.asarray(step, np.int32)} for step in models}
    states = {step: {"model": models[step], "optimizer": counts[step]} for step in models}
    return states, models, {"loss": 0.25, "thresholds": {"dice": 0.75}}


def make_checkpoints(folder: pathlib.Path) -> None:
    """Saves two checkpoints and a best model."""
    from unet_jax.runs.checkpoints import Checkpoints

    states, models, metrics = _states()
    with contextlib.closing(Checkpoints(folder, 2, {"seed": 0})) as saved:
        for step, state in states.items():
            saved.save(step, state)
        saved.save_best(10, models[10], metrics)


def read_checkpoints(_: pathlib.Path, folder: pathlib.Path) -> Any:
    """Restores the latest state and the best model; returns them after the saved ones."""
    from unet_jax.runs.checkpoints import Checkpoints

    states, models, _metrics = _states()
    with contextlib.closing(Checkpoints(folder, 2, {"seed": 0}, read_only=True)) as saved:
        step, state = saved.restore_latest(states[10]) or (None, None)
        best = saved.restore_model("best", models[10])
        return _states(), step, state, best.step, best.model, saved.best_metrics


def make_maps(folder: pathlib.Path) -> None:
    """Caches the weight maps of a split."""
    read_maps(folder, folder)


def read_maps(_: pathlib.Path, folder: pathlib.Path) -> Any:
    """Reads all weight maps of a split, or computes those that are missing in the cache."""
    from unet_jax.data.weight_map import with_weights

    split = with_weights(_dataset().splits["train"], folder, 10.0, 2.0)
    return [split[i]["weight"] for i in range(len(split))]


def make_state_dicts(folder: pathlib.Path) -> None:
    """Saves PyTorch weights in the zip format and in the old pickle format."""
    import torch

    tensors = {"inc.weight": torch.arange(18.0).reshape(2, 9), "outc.bias": torch.ones(3)}
    torch.save(tensors, folder / "new.pth")
    torch.save({"model": tensors}, folder / "old.pth", _use_new_zipfile_serialization=False)


def read_state_dict(path: pathlib.Path, _: pathlib.Path) -> Any:
    """Reads PyTorch weights as numpy arrays by name."""
    from unet_jax.runs.tensor_files import read_state_dict

    return read_state_dict(path)[0]


def judge_state_dict(trial: Trial) -> str:
    """Judges PyTorch weights: only the zip format has checksums."""
    return judge_sealed(trial) if trial.original[:2] == b"PK" else judge_cut(trial)
