"""A run's folder: it belongs to one experiment and has one writer at a time."""

import contextlib
import errno
import fcntl
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from ml_collections import ConfigDict

from unet_jax.core.config import differences, digest, flatten
from unet_jax.core.errors import UserError
from unet_jax.core.faults import gone
from unet_jax.core.files import naming, read_json, write_json
from unet_jax.data.dataset import Dataset

CONFIG, SPLIT, LOCK = "config.json", "split.json", ".lock"
CHECKPOINTS = ("checkpoints", "best")
# What `flock` answers on a file system without locks.
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def claim(
    folder: pathlib.Path, config: ConfigDict, dataset: Dataset
) -> Iterator[Callable[[], None]]:
    """Makes `folder` this experiment's for as long as the context lasts.

    Writes `config.json` and `split.json` into a new folder. Raises a `UserError`, and changes
    nothing, where the folder is another experiment's, was split from other data, is no run's,
    or has a writer already. Yields a function for the time between: it writes these files again
    where they were deleted, and raises a `UserError` where the checkpoints were, or where another
    process has taken the folder.
    """
    check_ours(folder, config)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(_lock(folder))
        check_data(folder, config, dataset)
        contents = {
            folder / SPLIT: _describe_split(config, dataset),
            folder / CONFIG: {"digest": digest(config), "config": config.to_dict()},
        }
        for path, content in contents.items():
            write_json(path, content)

        def check() -> None:
            nonlocal lock
            for name in CHECKPOINTS:
                if not (folder / name).is_dir():
                    raise UserError(
                        f"{gone(folder / name)}; rerunning the command resumes from what is left"
                    )
            if not _is_at(folder / LOCK, lock):
                lock = stack.enter_context(_lock(folder))
            for path, content in contents.items():
                if not path.exists():
                    write_json(path, content)

        yield check


def _lock(folder: pathlib.Path) -> IO[str]:
    """Locks the folder for as long as the file that is returned is open."""
    lock = open(folder / LOCK, "w")
    try:
        with naming(folder / LOCK):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lock
    except BlockingIOError:
        problem = (
            "another process is writing this run; wait for it or stop it, or take another folder "
            "with --workdir=..."
        )
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        problem = (
            f"its file system has no locks ({error.strerror}), so two processes could write one "
            f"run; take a folder on a local disk with --workdir=..., or mount the share with locks"
        )
    lock.close()
    raise UserError(f"{folder}: {problem}")


def _is_at(path: pathlib.Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def check_ours(folder: pathlib.Path, config: ConfigDict) -> None:
    """Raises a `UserError` where `folder` holds something else than this experiment."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file; give a folder with --workdir=...")
    if (folder / CONFIG).exists():
        differing = differences(read_config(folder), config)
        if differing and _has_begun(folder):
            raise UserError(
                f"{folder}: holds another experiment ({'; '.join(differing)}); nothing was "
                f"changed; take another folder with --workdir=..."
            )
    else:
        # Hidden files: a lock or a half-written file of a run that was killed at its start.
        other = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
        if other and other != [SPLIT]:
            raise UserError(
                f"{folder}: has files but no {CONFIG}, so it is no run's folder; take another "
                f"one with --workdir=..."
            )


def check_data(folder: pathlib.Path, config: ConfigDict, dataset: Dataset) -> None:
    """Raises a `UserError` where the run in `folder` was split from other data."""
    path = folder / SPLIT
    differs = path.exists() and read_json(path) != _describe_split(config, dataset)
    if differs and _has_begun(folder):
        raise UserError(
            f"{path}: the data in {config.data.root} are not those of this run (names or "
            f"hashes differ); bring the old data back or take another folder with --workdir=..."
        )


def _has_begun(folder: pathlib.Path) -> bool:
    """Whether anything was trained: an inspection alone makes a folder nobody's."""
    return (folder / "checkpoints").exists()


def read_config(folder: pathlib.Path) -> dict[str, Any]:
    """The config of the run in `folder`, flattened."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: no {CONFIG} there, so no run to evaluate; see --workdir")
    content = read_json(folder / CONFIG)
    try:
        return flatten(content["config"])
    except (AttributeError, KeyError, RecursionError, TypeError):
        raise UserError(
            f"{folder / CONFIG}: holds no config; bring the run's own back, or take another "
            f"folder with --workdir=..."
        ) from None


def recorded_dtype(folder: pathlib.Path) -> str | None:
    """The `model.dtype` of the run in `folder`; None where none has begun.

    What is left to the machine (`auto`) was decided when the run began, and stays so wherever it
    is resumed.
    """
    if not _has_begun(folder) or not (folder / CONFIG).exists():
        return None
    return read_config(folder).get("model.dtype")


def identity(config: ConfigDict, dataset: Dataset) -> dict[str, Any]:
    """What must be the same wherever a run goes on."""
    return {"config": digest(config), "data": _describe_split(config, dataset)}


def _describe_split(config: ConfigDict, dataset: Dataset) -> dict[str, Any]:
    # Further splits may come and go: nothing is trained or chosen on them.
    parts = ("train", "validation", "test")
    names = {part: list(dataset.splits[part].names) for part in parts}
    return {**names, "seed": config.data.split_seed, "sha256": dict(dataset.sha256)}
