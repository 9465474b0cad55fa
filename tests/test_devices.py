"""The CPU devices of a run: as many as there are cores, and then always as many."""

import json
import os
import pathlib
import shutil
from collections.abc import Callable

import pytest
from launched import WITHOUT_PICTURES, history, launch, numbers, run_here, start
from made_data import TINY
from ml_collections import ConfigDict

from configs import base
from unet_jax import modes
from unet_jax.core import tuning
from unet_jax.core.errors import UserError
from unet_jax.core.files import write_json
from unet_jax.distributed import devices
from unet_jax.inference.outputs import Extras


class Chosen(Exception):
    """Ends a command as soon as it has split the CPU."""


def chosen_devices(monkeypatch, command: Callable[[], object]) -> int:
    """Returns into how many devices a command would split a CPU of 8 cores."""

    def split(count: int) -> None:
        raise Chosen(count)

    monkeypatch.delenv(tuning.VARIABLE, raising=False)
    monkeypatch.setattr(tuning, "usable_cores", lambda: 8)
    monkeypatch.setattr(devices, "split_cpu", split)
    with pytest.raises(Chosen) as chosen:
        command()
    return chosen.value.args[0]


def devices_of(monkeypatch, folder: pathlib.Path, **fields: int) -> int:
    """Returns into how many devices training in `folder` would split a CPU of 8 cores."""
    config = base.get_config()
    config.update_from_flattened_dict({"batch_size": 12} | fields)
    return chosen_devices(monkeypatch, lambda: modes.train(config, str(folder), (None, 1, None)))


def begin(folder: pathlib.Path, config: ConfigDict, **changes: int | None) -> None:
    """Makes the folder of a run that has begun; a change to None removes the field."""
    fields = config.to_dict() | changes
    fields = {name: value for name, value in fields.items() if value is not None}
    (folder / "checkpoints").mkdir(parents=True)
    write_json(folder / "config.json", {"digest": "", "config": fields})


def test_a_new_run_takes_the_cores_that_divide_its_batch(tmp_path, monkeypatch):
    assert devices_of(monkeypatch, tmp_path / "new") == 6
    assert devices_of(monkeypatch, tmp_path / "new", batch_size=16) == 8
    assert devices_of(monkeypatch, tmp_path / "new", cpu_devices=3) == 3
    micro_batches = {"optim.accumulate": 4}
    assert devices_of(monkeypatch, tmp_path / "new", batch_size=16, **micro_batches) == 4


def test_a_resumed_run_keeps_its_number(tmp_path, monkeypatch):
    begin(tmp_path / "run", base.get_config(), cpu_devices=4)
    assert devices_of(monkeypatch, tmp_path / "run") == 4
    assert devices_of(monkeypatch, tmp_path / "run", cpu_devices=2) == 2


def test_a_run_of_a_version_that_recorded_no_number_keeps_its_one_device(tmp_path, monkeypatch):
    begin(tmp_path / "run", base.get_config(), cpu_devices=None)
    assert devices_of(monkeypatch, tmp_path / "run") == 1


def test_a_run_that_began_on_an_accelerator_takes_the_cores(tmp_path, monkeypatch):
    begin(tmp_path / "run", base.get_config(), cpu_devices=0)
    assert devices_of(monkeypatch, tmp_path / "run") == 6


def test_a_number_that_the_user_has_set_for_jax_is_kept(monkeypatch):
    updates = []
    monkeypatch.setattr(devices.jax.config, "update", lambda *update: updates.append(update))
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3")
    devices.split_cpu(2)
    monkeypatch.setenv("XLA_FLAGS", "")
    devices.split_cpu(2)  # the tests' own number is set
    assert updates == []


def test_a_number_that_has_no_effect_is_reported(stacks, tmp_path, monkeypatch):
    def stop(*_: object) -> None:
        raise UserError("enough")

    monkeypatch.setattr(modes.loop, "train", stop)
    arguments = (*TINY, f"--config.data.root={stacks}", f"--workdir={tmp_path / 'run'}")
    code, output = run_here(*arguments, "--config.cpu_devices=2")  # the tests have 4
    assert code == 2
    assert "note         cpu_devices=2 has no effect" in output
    code, output = run_here(*arguments)
    assert "no effect" not in output


def test_evaluation_takes_the_devices_of_the_run_and_prediction_the_cores(tmp_path, monkeypatch):
    begin(tmp_path / "run", base.get_config(), cpu_devices=2)
    run, options = str(tmp_path / "run"), {"checkpoint": "best", "tta": False}

    def evaluate() -> None:
        modes.evaluate(None, run, [], (None, 1, None), split="test", data=None, **options)

    def predict() -> None:
        modes.predict([run], "images", str(tmp_path / "out"), tile=0, extras=Extras(), **options)

    assert chosen_devices(monkeypatch, evaluate) == 2
    assert chosen_devices(monkeypatch, predict) == base.get_config().eval.batch_size == 4


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("taskset"), reason="no taskset")
def test_processes_resume_bit_for_bit_on_fewer_cores(stacks, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    arguments = (*TINY, f"--config.data.root={stacks}", "--config.batch_size=4")
    arguments += ("--config.num_epochs=2",)
    code, output = launch(
        *arguments, "--config.cpu_devices=2", f"--workdir={whole}", script=WITHOUT_PICTURES
    )
    assert code == 0, output
    shutil.copytree(whole, parts)
    shutil.rmtree(parts / "checkpoints" / "12")  # the newest, of the second of two epochs
    (parts / "report.json").unlink()
    core = str(min(os.sched_getaffinity(0)))
    process = start(
        *arguments,
        f"--workdir={parts}",
        script=WITHOUT_PICTURES,
        before=("taskset", "-c", core),
    )
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "resumes from step 6" in output
    assert "devices      2 x cpu" in output
    assert json.loads((parts / "config.json").read_text())["config"]["cpu_devices"] == 2
    assert history(whole) == history(parts)
    assert numbers(whole) == numbers(parts)
