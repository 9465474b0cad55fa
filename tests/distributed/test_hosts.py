"""Many hosts as one: processes of two CPU devices each, joined over loopback."""

import json
import pathlib
import signal
import textwrap
import time

import cluster
import jax
import pytest
from launched import last_of_each
from made_data import TINY

from unet_jax.core.errors import UserError
from unet_jax.distributed import hosts
from unet_jax.runs.log import read_history

TALK = """
    import sys
    import jax, numpy as np
    from unet_jax.distributed import devices, hosts
    from unet_jax.core.errors import UserError

    coordinator, count, host = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with hosts.joined(coordinator, count, host):
        assert (hosts.index(), hosts.count(), hosts.is_first()) == (host, count, host == 0)

        values = [{"host": host, "none": None, "texts": ["a"] * host, "odd": -0.1}]
        values.append(np.arange(3 * host, dtype=np.int64).reshape(host, 3))
        for other, (fields, array) in enumerate(hosts.gather(values)):
            assert fields == {"host": other, "none": None, "texts": ["a"] * other, "odd": -0.1}
            assert array.dtype == np.int64 and array.shape == (other, 3)
            np.testing.assert_array_equal(array, np.arange(3 * other).reshape(other, 3))

        calls = []
        assert hosts.on_first(lambda: calls.append(host) or host + 7) == 7
        assert calls == [0] * (host == 0)
        try:
            hosts.on_first(lambda: (_ for _ in ()).throw(UserError("it is full")))
        except UserError as error:
            assert str(error) == ("" if host == 0 else "the first host stopped: ") + "it is full"
        else:
            raise AssertionError

        odd = np.array([-0.0, np.nan, np.inf, 1e-42], np.float32) * np.float32(1 - 2 * host)
        odd.view(np.uint32)[1] = 0x7FC01234 + host  # a NaN with a payload
        tree = {"a": odd, "b": np.asarray(41 + host, np.int32), "c": np.empty((0, 2), np.uint8)}
        told = hosts.share(tree)
        expected = [0x80000000, 0x7FC01234, 0x7F800000, np.float32(1e-42).view(np.uint32)]
        assert told["a"].view(np.uint32).tolist() == expected
        assert told["b"].dtype == np.int32 and told["b"].shape == () and told["b"] == 41
        assert told["c"].shape == (0, 2)

        hosts.check_same({"data": [1, {"a": "b"}]})
        try:
            hosts.check_same({"data": 1, "config": host})
        except UserError as error:
            assert host == 1
            assert str(error).startswith("host 1: its config differ from the first host's; ")
        else:
            assert host == 0

        any_host = devices.AnyHost(devices.local_mesh())
        asked = [any_host.reduce(host == 1 and step == 2) for step in range(5)]
        assert asked == [False, False, False, True, False], asked
        assert devices.describe(devices.local_mesh()) == "4 x cpu on 2 hosts"
"""


def script(tmp_path: pathlib.Path, text: str) -> pathlib.Path:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(text))
    return path


def test_values_are_gathered_from_all_hosts(tmp_path):
    path = script(tmp_path, TALK)
    ends = cluster.finish(
        cluster.start_all(lambda port, host: [path, f"localhost:{port}", 2, host])
    )
    for code, _, errors in ends:
        assert code == 0, errors


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
    ("missing", "part"), [(0, "process 0 did not answer within"), (1, "of 2 processes, 1 did not")]
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


def test_an_intruder_changes_nothing_and_a_host_that_was_suspended_says_so(tmp_path):
    path = script(
        tmp_path,
        """
        import sys, time
        from unet_jax.distributed import hosts
        hosts.HEARTBEAT_SECONDS = 4
        with hosts.joined(sys.argv[1], 2, int(sys.argv[2])):
            for step in range(600):
                hosts.gather(step)
                print(step, flush=True)
                time.sleep(0.05)
        """,
    )
    port = cluster.free_port()
    processes = [  # of a machine without commands, such as `sh`
        cluster.start([path, f"localhost:{port}", host], {"PATH": ""}) for host in range(2)
    ]
    try:
        while processes[0].stdout.readline() != "3\n":
            assert processes[0].poll() is None
        assert cluster.listening(port) <= {"127.0.0.1", "::1"}
        for intruder, part in ((0, "in use"), (1, "whose 2 processes have all come")):
            with pytest.raises(UserError, match=part):
                with hosts.joined(f"localhost:{port}", 2, intruder):
                    raise AssertionError
        for _ in range(30):
            processes[0].stdout.readline()
        processes[1].send_signal(signal.SIGSTOP)
        processes[0].wait(timeout=60)
    finally:
        processes[1].send_signal(signal.SIGCONT)
        ends = cluster.finish(processes)
    for code, _, errors in ends:
        assert code not in (0, 1)
        assert f"error: {hosts.LOST}" in errors
        assert "Traceback" not in errors


def test_an_error_of_one_host_ends_both_with_their_own_lines(tmp_path):
    path = script(
        tmp_path,
        """
        import sys, time
        from unet_jax.distributed import hosts
        from unet_jax.core.errors import UserError
        hosts.HEARTBEAT_SECONDS = 5
        host = int(sys.argv[2])
        with hosts.joined(sys.argv[1], 2, host):
            hosts.gather(host)
            if host == 1:  # the other one has ended by then, and waits
                time.sleep(2)
                raise UserError("my disk is full")
        """,
    )
    began = time.monotonic()
    (first, _, lost), (second, _, own) = cluster.finish(
        cluster.start_all(lambda port, host: [path, f"localhost:{port}", host])
    )
    assert (first != 0, second) == (True, 2)
    assert f"error: {hosts.LOST}" in lost
    assert own.strip().splitlines()[-1] == "error: my disk is full"
    assert hosts.LOST not in own
    assert time.monotonic() - began < 90


# Whole runs. 23 training images do not fill batches of 4, nor 3 test images two hosts.

# The launcher, of hosts that are missed sooner.
LAUNCH = [
    "-c",
    "import runpy; from unet_jax.distributed import hosts; hosts.HEARTBEAT_SECONDS = 10; "
    "runpy.run_path('launch.py', run_name='__main__')",
]
ARGUMENTS = (*TINY, "--config.batch_size=4", "--config.data.split=23,4,3", "--config.num_epochs=2")


def run_arguments(stacks, folder, *others):
    given = [*ARGUMENTS, f"--config.data.root={stacks}", f"--workdir={folder}", *others]
    return [*LAUNCH, *last_of_each(given)]


def start_run(stacks, folder: pathlib.Path, *others) -> list:
    """Two hosts; the second is told of a folder that nobody may need."""
    return cluster.start_all(
        lambda port, host: [
            *run_arguments(stacks, folder if host == 0 else folder.with_name("nowhere"), *others),
            *cluster.flags(port, host),
        ]
    )


def run(stacks, folder: pathlib.Path, *others) -> list[tuple[int, str, str]]:
    ends = cluster.finish(start_run(stacks, folder, *others))
    assert not folder.with_name("nowhere").exists()
    for word in ("run", "step", "loss", "report"):  # gloo alone speaks, in threads of its own
        assert word not in ends[1][1]
    return ends


def run_alone(stacks, folder: pathlib.Path) -> None:
    """One host with as many devices as two have."""
    process = cluster.start(run_arguments(stacks, folder), {"JAX_NUM_CPU_DEVICES": "4"})
    ((code, _, errors),) = cluster.finish([process])
    assert code == 0, errors


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
@pytest.mark.parametrize("asked", [0, 1])
def test_hosts_stop_at_the_same_step_and_resume(uninterrupted, stacks, tmp_path, asked):
    folder = tmp_path / "stopped"
    processes = start_run(stacks, folder)
    for line in processes[0].stdout:
        if line.startswith("step 2/"):
            break
    processes[asked].send_signal(signal.SIGTERM)
    for code, _, errors in cluster.finish(processes):
        assert code == 75, errors
    (checkpoint,) = (folder / "checkpoints").iterdir()
    assert 3 <= int(checkpoint.name) <= 5
    if asked:
        run_alone(stacks, folder)  # on other hosts, a run is the same but for rounding
        assert_alike(folder, uninterrupted)
    else:
        for code, _, errors in run(stacks, folder):
            assert code == 0, errors
        assert report(folder) == report(uninterrupted)
        assert losses(folder) == losses(uninterrupted)


@pytest.mark.slow
def test_the_second_host_needs_no_folder_to_evaluate(uninterrupted, stacks):
    before = report(uninterrupted)
    processes = cluster.start_all(
        lambda port, host: [
            *LAUNCH,
            *("--mode=eval", "--split=validation"),
            f"--workdir={uninterrupted if host == 0 else uninterrupted.with_name('nowhere')}",
            *cluster.flags(port, host),
        ]
    )
    for code, _, errors in cluster.finish(processes):
        assert code == 0, errors
    evaluated = json.loads((uninterrupted / "report-validation-best.json").read_text())
    best = min(loss for _, split, loss in losses(uninterrupted) if split == "validation")
    assert evaluated["loss"] == pytest.approx(best, rel=1e-6)
    assert len(evaluated["per_image"]) == 4
    assert report(uninterrupted) == before
    assert not uninterrupted.with_name("nowhere").exists()


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_host_ends_the_other_which_says_so(stacks, tmp_path, killed):
    processes = start_run(stacks, tmp_path / "run", "--config.num_epochs=500")
    for line in processes[0].stdout:
        if line.startswith("step 7/"):
            break
    processes[killed].kill()
    began = time.monotonic()
    code, _, errors = cluster.finish(processes)[1 - killed]
    assert code not in (0, 75)
    assert f"error: {hosts.LOST}" in errors
    assert time.monotonic() - began < 60
    assert any((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.slow
def test_an_error_of_the_first_host_is_reported_by_both(uninterrupted, stacks):
    before = {p: p.read_bytes() for p in uninterrupted.iterdir() if p.is_file()}
    (first, _, own), (second, _, told) = run(stacks, uninterrupted, "--config.seed=1")
    assert (first, second) == (2, 2)
    assert "seed: 0 in the run, 1 in the config" in own
    assert "the first host stopped" in told
    assert "seed: 0 in the run, 1 in the config" in told
    assert {p: p.read_bytes() for p in uninterrupted.iterdir() if p.is_file()} == before
