"""What happens outside to a run in this process: signals, deleted files, a closed terminal."""

import math
import os
import shutil
import signal

import jax
import pytest
from launched import history

from unet_jax.core import stop
from unet_jax.core.errors import UserError
from unet_jax.core.faults import explained
from unet_jax.core.stop import Interrupted
from unet_jax.distributed import devices
from unet_jax.runs.checkpoints import Checkpoints
from unet_jax.runs.log import Writer
from unet_jax.training import loop


@pytest.fixture
def mesh():
    return devices.local_mesh(jax.devices()[:1])


def after(monkeypatch, step: int, act) -> None:
    """Calls `act` once, when a step's record has been written."""
    write, done = Writer.write, []

    def written(self, now, *arguments):
        write(self, now, *arguments)
        if now == step and not done:
            done.append(now)
            act()

    monkeypatch.setattr(Writer, "write", written)


@pytest.fixture(scope="module")
def uninterrupted() -> list:
    """Report and history of the run that the tests of this file share, from the first of them."""
    return []


@pytest.fixture
def whole(config, dataset, tmp_path, mesh, uninterrupted) -> tuple[dict, list]:
    config.num_epochs = 3
    if not uninterrupted:
        folder = tmp_path / "whole"
        uninterrupted[:] = loop.train(config, dataset, folder, mesh), history(folder)
    return uninterrupted[0], uninterrupted[1]


# SIGTERM: test_resume.py.
@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGHUP, marks=pytest.mark.slow), signal.SIGINT]
)
def test_a_signal_that_comes_again_while_the_last_state_is_saved_loses_nothing(
    number, config, dataset, tmp_path, mesh, monkeypatch, whole
):
    folder, close = tmp_path / "run", Checkpoints.close

    def closed(self):
        os.kill(os.getpid(), number)
        close(self)

    with monkeypatch.context() as patch:
        after(patch, 3, lambda: os.kill(os.getpid(), number))
        patch.setattr(Checkpoints, "close", closed)
        patch.setattr(stop, "DUPLICATE_SECONDS", math.inf)  # however slow the machine is
        with pytest.raises(Interrupted):
            loop.train(config, dataset, folder, mesh)
    assert (folder / "checkpoints" / "4").is_dir()  # noted in step 3, saved at the next
    assert loop.train(config, dataset, folder, mesh) == whole[0]
    assert history(folder) == whole[1]


def test_a_file_that_is_deleted_during_a_run_is_written_again(
    config, dataset, tmp_path, mesh, monkeypatch, whole
):
    folder, names = tmp_path / "run", ("config.json", "split.json", "metrics.jsonl", ".lock")
    for step, name in enumerate(names, 2):
        after(monkeypatch, step, (folder / name).unlink)
    assert loop.train(config, dataset, folder, mesh) == whole[0]
    assert all((folder / name).exists() for name in names)
    assert history(folder) == whole[1]
    # The same command after the end only reports.
    assert loop.train(config, dataset, folder, mesh) == whole[0]
    assert history(folder) == whole[1]


# When its folder is gone, orbax complains of each file that it had begun.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", [".", "checkpoints", "best"])
def test_a_run_whose_folder_is_deleted_ends_soon_in_a_line(
    name, config, dataset, tmp_path, mesh, monkeypatch
):
    folder = tmp_path / "run"
    config.num_epochs, config.eval.every_epochs, config.checkpoint.every_epochs = 50, 50, 50
    after(monkeypatch, 3, lambda: shutil.rmtree(folder / name))
    with pytest.raises(UserError, match="was deleted or moved"), explained(folder):
        loop.train(config, dataset, folder, mesh)
    assert not (folder / "report.json").exists()
    assert name != "." or not folder.exists()
