"""Tests of runs on several hosts: processes with two CPU devices each, joined over loopback."""

import json
import pathlib
import signal
import subprocess
import textwrap
import time
from collections.abc import Sequence

import cluster
import jax
import pytest
from launched import WITHOUT_PICTURES, last_of_each, run_here
from made_data import TINY
from pictures import _no_pictures as _no_pictures

from unet_jax.core.errors import UserError
from unet_jax.distributed import hosts
from unet_jax.runs.log import read_history


def script(tmp_path: pathlib.Path, text: str) -> pathlib.Path:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(text))
    return path


@pytest.mark.slow
def test_hosts_of_a_slurm_job_find_one_another(tmp_path):
    path = script(
        tmp_path,
        """
        from unet_jax.distributed import hosts
        with hosts.joined(None, None, None):
            print(hosts.gather(hosts.index()))
        """,
    )
    job = {
        "SLURM_JOB_ID": str(time.time_ns() % 4096),  # from which JAX takes the port
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
    }
    tasks = [{"SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)} for task in range(2)]
    ends = cluster.finish([cluster.start([path], job | task) for task in tasks])
    for task, (code, output, errors) in enumerate(ends):
        assert code == 0, errors
        announced, *_, gathered = output.splitlines()
        assert announced.startswith(f"joining 2 hosts as process {task} at localhost:")
        assert gathered == "[0, 1]"


@pytest.mark.parametrize(
    ("missing", "part"),
    [(0, "process 0 did not answer within"), (1, "not all 2 processes connected")],
)
def test_a_host_that_never_comes_ends_the_wait(monkeypatch, missing, part):
    monkeypatch.setattr(hosts, "JOIN_SECONDS", 0.3)
    address = f"localhost:{cluster.free_port()}"
    with pytest.raises(UserError, match=f"{address}: {part}"):
        with hosts.joined(address, 2, 1 - missing):
            raise AssertionError


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer"), True),
        (jax.errors.JaxRuntimeError("INTERNAL: NCCL operation failed: remote exited"), True),
        (jax.errors.JaxRuntimeError("UNAVAILABLE: tasks are unhealthy"), True),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), False),
        (ValueError("a mistake"), False),
    ],
)
def test_only_errors_of_other_hosts_are_attributed_to_them(error, lost):
    assert hosts._is_of_lost_host(error) == lost


# Hosts that exchange their steps until they are ended.
STEPS = """
    import itertools, sys, time
    from unet_jax.distributed import hosts
    hosts.HEARTBEAT_SECONDS = 4
    with hosts.joined(sys.argv[1], 2, int(sys.argv[2])):
        for step in itertools.count():
            hosts.gather(step)
            print(step, flush=True)
            time.sleep(0.05)
"""


def start_steps(tmp_path: pathlib.Path) -> tuple[int, list[subprocess.Popen]]:
    """Starts two hosts, on machines without commands such as `sh`; returns their port too."""
    path, port = script(tmp_path, STEPS), cluster.free_port()
    arguments = [[path, f"localhost:{port}", host] for host in range(2)]
    return port, [cluster.start(given, {"PATH": ""}) for given in arguments]


def read_until_step(process: subprocess.Popen, step: int) -> None:
    while process.stdout.readline() != f"{step}\n":
        assert process.poll() is None


def assert_lost(end: tuple[int, str, str]) -> None:
    code, _, errors = end
    assert code not in (0, 1)
    assert f"error: {hosts.LOST}" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_an_intruder_changes_nothing_and_a_host_that_was_suspended_says_so(tmp_path):
    port, processes = start_steps(tmp_path)
    try:
        read_until_step(processes[0], 3)
        assert cluster.listening(port) <= {"127.0.0.1", "::1"}
        for intruder, part in ((0, "in use"), (1, "whose 2 processes have all connected")):
            with pytest.raises(UserError, match=part):
                with hosts.joined(f"localhost:{port}", 2, intruder):
                    raise AssertionError
        read_until_step(processes[0], 9)
        processes[1].send_signal(signal.SIGSTOP)
        processes[0].wait(timeout=240)
    finally:
        processes[1].send_signal(signal.SIGCONT)
        ends = cluster.finish(processes)
    for end in ends:
        assert_lost(end)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_host_ends_the_other_which_says_so(tmp_path, killed):
    _, processes = start_steps(tmp_path)
    read_until_step(processes[1 - killed], 3)
    processes[killed].kill()
    assert_lost(cluster.finish(processes)[1 - killed])


@pytest.mark.slow
def test_an_error_of_one_host_ends_both_with_their_own_lines(tmp_path):
    path = script(
        tmp_path,
        """
        import sys
        from unet_jax.distributed import hosts
        from unet_jax.core.errors import UserError
        hosts.HEARTBEAT_SECONDS = 5
        host = int(sys.argv[2])
        with hosts.joined(sys.argv[1], 2, host):
            hosts.gather(host)
            if host == 1:  # the other host shuts down, and waits for this one
                raise UserError("my disk is full")
        """,
    )
    (first, _, lost), (second, _, own) = cluster.finish(
        cluster.start_all(lambda port, host: [path, f"localhost:{port}", host])
    )
    assert (first != 0, second) == (True, 2)
    assert f"error: {hosts.LOST}" in lost
    assert own.strip().splitlines()[-1] == "error: my disk is full"
    assert hosts.LOST not in own


# Whole runs. 23 training images do not fill batches of 4, nor 3 test images two hosts.

# The launcher, in a process that gets SIGTERM at its third step.
LAUNCH_TO_STEP_3 = f"""
    import os, runpy, signal
    from unet_jax.core.tuning import restart_with_huge_pages
    restart_with_huge_pages()  # as the launcher does, before the imports
    from unet_jax.distributed import devices
    reduce, calls = devices.AnyHost.reduce, []
    def reduce_or_terminate(self, flag):
        calls.append(flag)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return reduce(self, flag)
    devices.AnyHost.reduce = reduce_or_terminate
    runpy.run_path("{WITHOUT_PICTURES}", run_name="__main__")
"""
ARGUMENTS = (
    *TINY,
    "--config.model.width=2",
    "--config.model.depth=1",
    "--config.batch_size=4",
    "--config.data.split=23,4,3",
    "--config.num_epochs=2",
)


def flags_of_run(stacks, *others: object) -> list[str]:
    return last_of_each([*ARGUMENTS, f"--config.data.root={stacks}", *others])


def start_launchers(
    folder: pathlib.Path, *arguments: object, second: Sequence[str] = (WITHOUT_PICTURES,)
) -> list:
    """Two hosts; the second has another --workdir, a folder that nobody may need.

    Args:
      folder: the first host's --workdir.
      arguments: the other flags of both.
      second: the script that the second host runs, or its code after `-c`.
    """
    folders, scripts = (folder, folder.with_name("nowhere")), ((WITHOUT_PICTURES,), second)
    return cluster.start_all(
        lambda port, host: [
            *scripts[host],
            *(*arguments, f"--workdir={folders[host]}"),
            *cluster.flags(port, host),
        ]
    )


def run(stacks, folder: pathlib.Path, *others) -> list[tuple[int, str, str]]:
    ends = cluster.finish(start_launchers(folder, *flags_of_run(stacks, *others)))
    assert not folder.with_name("nowhere").exists()
    for word in ("run", "step", "loss", "report"):  # gloo alone speaks, in threads of its own
        assert word not in ends[1][1]
    return ends


def run_alone(stacks, folder: pathlib.Path) -> None:
    """This process, one host with as many devices as the two have."""
    code, output = run_here(*flags_of_run(stacks), f"--workdir={folder}")
    assert code == 0, output


def report(folder: pathlib.Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def losses(folder: pathlib.Path) -> list[tuple[int, str, float]]:
    return [(line["step"], line["split"], line["loss"]) for line in read_history(folder)]


def assert_alike(one: pathlib.Path, other: pathlib.Path) -> None:
    """The same steps and scores, but for rounding."""
    for a, b in zip(losses(one), losses(other), strict=True):
        assert a[:2] == b[:2]
        assert a[2] == pytest.approx(b[2], rel=1e-4)
    assert report(one)["step"] == report(other)["step"]
    assert list(report(one)["per_image"]) == list(report(other)["per_image"])
    for name, row in report(one)["per_image"].items():
        assert row == pytest.approx(report(other)["per_image"][name], rel=2e-3, abs=2e-3)


@pytest.fixture(scope="module")
def uninterrupted(stacks, tmp_path_factory) -> pathlib.Path:
    """A run of two hosts."""
    folder = tmp_path_factory.mktemp("hosts") / "uninterrupted"
    for code, _, errors in run(stacks, folder):
        assert code == 0, errors
    return folder


@pytest.mark.slow
def test_two_hosts_equal_one_with_as_many_devices(uninterrupted, stacks, tmp_path):
    run_alone(stacks, tmp_path / "alone")
    assert_alike(uninterrupted, tmp_path / "alone")
    assert report(uninterrupted)["device"] == "4 x cpu on 2 hosts"
    assert report(tmp_path / "alone")["device"] == "4 x cpu"


@pytest.mark.slow
def test_hosts_stop_at_the_same_step_and_resume(uninterrupted, stacks, tmp_path):
    folder = tmp_path / "stopped"
    second = ("-c", textwrap.dedent(LAUNCH_TO_STEP_3))
    processes = start_launchers(folder, *flags_of_run(stacks), second=second)
    for code, _, errors in cluster.finish(processes):
        assert code == 75, errors
    (checkpoint,) = (folder / "checkpoints").iterdir()
    assert 3 <= int(checkpoint.name) <= 5
    for code, _, errors in run(stacks, folder):
        assert code == 0, errors
    assert report(folder) == report(uninterrupted)
    assert losses(folder) == losses(uninterrupted)


@pytest.mark.slow
def test_the_second_host_needs_no_folder_to_evaluate(uninterrupted, stacks):
    before = report(uninterrupted)
    processes = start_launchers(uninterrupted, "--mode=eval", "--split=validation")
    for code, _, errors in cluster.finish(processes):
        assert code == 0, errors
    evaluated = json.loads((uninterrupted / "report-validation-best.json").read_text())
    best = min(loss for _, split, loss in losses(uninterrupted) if split == "validation")
    assert evaluated["loss"] == pytest.approx(best, rel=1e-6)
    assert len(evaluated["per_image"]) == 4
    assert report(uninterrupted) == before
    assert not uninterrupted.with_name("nowhere").exists()


@pytest.mark.slow
def test_an_error_of_the_first_host_is_reported_by_both(uninterrupted, stacks):
    before = {p: p.read_bytes() for p in uninterrupted.iterdir() if p.is_file()}
    (first, _, own), (second, _, told) = run(stacks, uninterrupted, "--config.seed=1")
    assert (first, second) == (2, 2)
    assert "seed: 0 in the run, 1 in the config" in own
    assert "the first host stopped" in told
    assert "seed: 0 in the run, 1 in the config" in told
    assert {p: p.read_bytes() for p in uninterrupted.iterdir() if p.is_file()} == before


@pytest.mark.slow
def test_hosts_start_from_the_weights_of_another_run(uninterrupted, stacks, tmp_path):
    untrained = ("--config.optim.learning_rate=0", "--config.optim.frozen_norm=all")
    folder, parent = tmp_path / "untrained", f"--init_from={uninterrupted}"
    for code, _, errors in run(stacks, folder, *untrained, parent):
        assert code == 0, errors
    assert report(folder)["per_image"] == report(uninterrupted)["per_image"]


@pytest.mark.slow
def test_hosts_stop_early_at_the_same_step(stacks, tmp_path):
    """Of a network that does not change, no validation but the first improves."""
    folder, patience = tmp_path / "run", ("--config.optim.patience=1", "--config.num_epochs=6")
    constant = ("--config.optim.learning_rate=0", "--config.optim.frozen_norm=all")
    for code, _, errors in run(stacks, folder, *constant, *patience):
        assert code == 0, errors
    steps = [step for step, split, _ in losses(folder) if split == "validation"]
    assert len(steps) == 2
    assert report(folder)["notes"][-1].startswith(f"stopped early after step {steps[1]} of ")
