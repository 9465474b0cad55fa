"""The commands of the page about Cloud TPU, rehearsed with processes for hosts and an emulator."""

import re
import shlex
import signal

import cluster
import emulator
import pytest
from launched import ROOT, history, numbers, run_here

from unet_jax.core.bucket import list_objects, upload
from unet_jax.core.files import path_of

PAGE = ROOT / "docs" / "scaling-and-cloud-tpu.md"
HOSTS = 2
# What makes the experiment of the page small, and long enough to be stopped.
SMALL = {
    "--platform": "cpu",
    "--config.batch_size": "4",
    "--config.model.width": "4",
    "--config.model.depth": "1",
    "--config.data.size": "32",
    "--config.data.augment": "()",
    "--config.optim.ema_decay": "0.0",
    "--config.num_epochs": "10",  # of six steps
    "--config.checkpoint.every_epochs": "5",
    "--config.eval.every_epochs": "10",
    "--config.log.every_steps": "1",
}


def flags_of_the_page() -> dict[str, str]:
    """The flags of the training command that the page runs on each host."""
    (command,) = re.findall(r"everywhere '([^']*launch\.py[^']*)'", PAGE.read_text())
    words = shlex.split(command.replace("\\\n", " "))
    flags = words[words.index("launch.py") + 1 :]
    return dict(flag.replace("BUCKET", emulator.BUCKET).split("=", 1) for flag in flags)


def start(flags: dict[str, str]):
    given = [f"{name}={value}" for name, value in flags.items()]
    return cluster.start_all(
        lambda port, host: ["launch.py", *given, *cluster.flags(port, host, HOSTS)], HOSTS
    )


def wait_for_step(processes, count: int) -> None:
    """Waits until the first host prints a step; the log reaches a bucket in batches."""
    for line in processes[0].stdout:
        if re.match(rf"step {count}/", line):
            return
    raise AssertionError(processes[0].stderr.read())


def test_the_page_uses_a_python_that_is_supported():
    (version,) = re.findall(r"python(\S*) -m venv \.venv", PAGE.read_text())
    (supported,) = re.findall(r'^pythons="(.*)"$', (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert version in supported.split()
    assert f"install -y python{version}-venv" in PAGE.read_text()


@pytest.mark.slow
def test_a_preempted_run_on_several_hosts_resumes_from_the_bucket(storage, stacks):
    flags = flags_of_the_page() | SMALL
    workdir = path_of(flags["--workdir"])
    upload(stacks, path_of(flags["--config.data.root"]))

    processes = start(flags)
    wait_for_step(processes, 10)
    for process in processes:  # what a preemption sends to every host
        process.send_signal(signal.SIGTERM)
    ends = cluster.finish(processes)
    assert [end[0] for end in ends] == [75] * HOSTS, ends
    stopped = max(line["step"] for line in history(workdir) if line["split"] == "train")
    assert 10 <= stopped < 60
    assert not (workdir / "report.json").exists()

    ends = cluster.finish(start(flags))
    assert [end[0] for end in ends] == [0] * HOSTS, ends
    assert f"resumes from step {stopped}" in ends[0][1]
    steps = [line["step"] for line in history(workdir) if line["split"] == "train"]
    assert steps == list(range(1, 61))
    assert numbers(workdir)["split"] == "test"
    assert not [name for name in list_objects(workdir) if "tmp" in name]

    code, output = run_here("--mode=eval", f"--workdir={workdir}", "--split=validation")
    assert code == 0, output
    assert "validation, checkpoint of step" in output
