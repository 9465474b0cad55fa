"""Thousands of steps: memory, handles and threads do not grow."""

import gc
import os
import pathlib
import resource
import threading

import jax
import pytest

from unet_jax.distributed import devices
from unet_jax.runs.checkpoints import Checkpoints
from unet_jax.runs.log import METRICS, Writer
from unet_jax.training.loop import train

STEPS = int(os.environ.get("UNET_LONG_RUN", 240))  # a multiple of EPOCH; 12000 take some minutes
EPOCH = 20  # steps; each is saved and evaluated
GROWTH = 2**20 * 12  # bytes from the second third to the last: what allocators do


def held() -> dict[str, int]:
    """What this process holds now."""
    gc.collect()
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return {
        "memory": pages * resource.getpagesize(),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "system threads": len(os.listdir("/proc/self/task")),
        "arrays": len(jax.live_arrays()),
    }


@pytest.mark.slow
def test_nothing_grows_in_a_long_run(config, dataset, tmp_path, monkeypatch, capsys):
    config.data.crops_per_image = EPOCH * config.batch_size // 8
    config.num_epochs = STEPS // EPOCH
    config.log.every_steps = 10
    saves, write, found = [], Writer.write, []

    def save(checkpoints, step, items, real=Checkpoints.save):
        saves.append((step, checkpoints))
        real(checkpoints, step, items)

    def note(writer, step, epoch, split, scalars):
        write(writer, step, epoch, split, scalars)
        if split == "validation":  # the end of each epoch
            for _, checkpoints in saves[-1:]:
                checkpoints.wait()  # a running save holds an event loop's files, and threads
            found.append(held())

    monkeypatch.setattr(Checkpoints, "save", save)
    monkeypatch.setattr(Writer, "write", note)
    train(config, dataset, tmp_path, devices.local_mesh(jax.devices()[:1]))
    assert [step for step, _ in saves] == list(range(EPOCH, STEPS + 1, EPOCH))
    third = len(found) // 3
    early, late = found[third : 2 * third], found[2 * third :]
    # The least of each third: what passes only adds, what leaks stays.
    least = [{name: min(x[name] for x in part) for name in part[0]} for part in (early, late)]
    for name in ("files", "threads", "system threads", "arrays"):
        assert least[1][name] <= least[0][name] + 2, name
    memory = [part["memory"] for part in least]
    with capsys.disabled():
        shown = {name: late[-1][name] for name in late[-1] if name != "memory"}
        print(f"\n{STEPS} steps: {memory[0] / 2**20:.1f} -> {memory[1] / 2**20:.1f} MiB, {shown}")
    assert memory[1] - memory[0] < GROWTH
    # The log grows by a line for each `log.every_steps` and each evaluation, and by no more.
    lines = (tmp_path / METRICS).read_text().splitlines()
    assert len(lines) == STEPS // 10 + STEPS // EPOCH + 1
    assert max(map(len, lines)) < 600
    kept = [p.name for p in (tmp_path / "checkpoints").iterdir()]
    assert len(kept) == config.checkpoint.keep
    assert len(list((tmp_path / "best").iterdir())) == 1
