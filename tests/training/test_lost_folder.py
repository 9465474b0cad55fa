"""A run whose folder another process has taken meanwhile changes nothing there any more."""

import fcntl
import json
import pathlib

import jax
import pytest
from made_runs import set_losses

from unet_jax.core.bucket import is_bucket, list_objects
from unet_jax.core.errors import UserError
from unet_jax.distributed import devices
from unet_jax.runs import lease
from unet_jax.runs.checkpoint_files import COMMIT
from unet_jax.runs.lock import LOCK
from unet_jax.training import validation
from unet_jax.training.loop import train

MESH = devices.local_mesh(jax.devices()[:1])


def files(folder: pathlib.Path) -> dict[str, int]:
    """What distinguishes the versions of all files in a folder."""
    if is_bucket(folder):
        return {name: int(info["generation"]) for name, info in list_objects(folder).items()}
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != LOCK)
    return {str(path): path.stat().st_mtime_ns for path in found}


@pytest.fixture(params=["disk", pytest.param("bucket", marks=pytest.mark.slow)])
def folder(request, tmp_path) -> pathlib.Path:
    return request.getfixturevalue("bucket") if request.param == "bucket" else tmp_path / "run"


@pytest.fixture
def take(folder, monkeypatch):
    """A function with which another process takes the folder, and saves newer checkpoints."""
    acquire, leases, locks = lease.Lease.acquire, [], []
    monkeypatch.setattr(lease.Lease, "acquire", lambda x: (leases.append(x), acquire(x)))

    def taken() -> None:
        if leases:
            (folder / LOCK).write_bytes(json.dumps({"id": "other", "host": "there"}).encode())
            for step in (98, 99):
                (folder / "checkpoints" / str(step) / COMMIT).write_bytes(b"1")
            leases[0].renew()
        else:
            (folder / LOCK).unlink()
            locks.append(open(folder / LOCK, "w"))
            fcntl.flock(locks[0], fcntl.LOCK_EX)

    yield taken
    for lock in locks:
        lock.close()


@pytest.mark.parametrize(("split", "number"), [("validation", 2), ("test", 1)])
def test_a_run_that_lost_its_folder_while_it_scored_images(
    split, number, folder, take, config, dataset, monkeypatch
):
    set_losses(monkeypatch, {2: 0.3, 4: 0.2})
    config.checkpoint.keep = 2
    score, calls, before = validation.score_split, [], {}

    def score_and_lose(run, variables, name, **options):
        scores = score(run, variables, name, **options)
        calls.append(name)
        if calls.count(split) == number and not before:
            run.checkpoints._checkpoints._latest.wait_until_finished()
            take()
            before.update(files(folder))
        return scores

    monkeypatch.setattr(validation, "score_split", score_and_lose)
    with pytest.raises(UserError, match="another process"):
        train(config, dataset, folder, MESH)
    assert files(folder) == before
