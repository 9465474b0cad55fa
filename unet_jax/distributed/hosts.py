"""Multi-host runs: initialisation, failure handling and communication between hosts.

Each host runs one process with its visible devices. Only the first host reads and writes the run's
folder. All hosts must call these functions in the same order; on a single host the functions do
not communicate.
"""

import contextlib
import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import serialization
from jax.experimental import multihost_utils

from unet_jax.core.errors import UserError, print_error
from unet_jax.distributed import rendezvous

JOIN_SECONDS = 300  # timeout for all hosts to join at start-up
HEARTBEAT_SECONDS = 60  # heartbeat timeout after which a host counts as lost and the run ends
# How long the first host stays after an error. JAX aborts the others as soon as it is gone, maybe
# before they have printed the error that it sent them.
GRACE_SECONDS = 3.0
SHUTDOWN_SECONDS = 24 * 3600  # timeout at shutdown, such as while the first host writes the report
LOST = (
    "a host of this run failed, was killed or was suspended (see the end of its output), and the "
    "others cannot continue without it; the checkpoints are intact: rerunning the command on all "
    "hosts resumes the run"
)
_WATCH_SCRIPT = """
import signal, sys
for number in (signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
if not sys.stdin.readline():
    print(sys.argv[1], file=sys.stderr)
"""
Tree = Any


def count() -> int:
    """Returns the number of hosts. If there is only this one, JAX's devices are not started."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
    """Returns the index of this host, from 0."""
    return jax.process_index() if jax.distributed.is_initialized() else 0


def is_first() -> bool:
    """Returns whether this is the first host, which alone reads and writes the run's folder."""
    return index() == 0


@contextlib.contextmanager
def joined(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Iterator[None]:
    """Joins this process to the other hosts of the run, if there are any, within the context.

    JAX detects the hosts on Cloud TPU, SLURM and Open MPI, unless `num_processes` is 1. Elsewhere
    all three arguments are needed. An error on one host ends its process immediately and those of
    the other hosts within `HEARTBEAT_SECONDS`.

    Args:
      coordinator: HOST:PORT of process 0.
      num_processes: number of hosts.
      process_id: index of this host, from 0.

    Raises:
      UserError: the arguments or the environment are invalid, or the other hosts did not join.
        After joining, this process reports its errors and exits instead of raising them.
    """
    cluster = _cluster(coordinator, num_processes, process_id)
    if cluster is None:
        yield
        return
    if cluster.process_id == 0:
        bound = rendezvous.wait_for_processes(
            cluster.address, cluster.count, JOIN_SECONDS, all_interfaces=cluster.detected
        )
    else:
        bound = None
        rendezvous.report_to_first(cluster.address, cluster.count, cluster.process_id, JOIN_SECONDS)
    with _reported_loss() as ended:
        try:
            _initialize(cluster, bound)
            stopped = None
            try:
                yield
            except SystemExit as error:
                stopped = error
            # Shutting down here rather than at Python's exit also reports hosts lost meanwhile.
            jax.distributed.shutdown()
            if stopped is not None:
                raise stopped
        except Exception as error:
            if isinstance(error, UserError):
                code = print_error(error)
            elif _is_of_lost_host(error):
                code = print_error(f"{LOST} ({error})")
            else:
                traceback.print_exc()
                code = 1
            ended()
            sys.stdout.flush()
            sys.stderr.flush()
            if cluster.process_id == 0:
                time.sleep(GRACE_SECONDS)
            os._exit(code)


class _Cluster(NamedTuple):
    address: rendezvous.Address
    count: int
    process_id: int
    detected: bool  # whether JAX detected the cluster, without command-line flags


def _cluster(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> _Cluster | None:
    """Returns the hosts of this run; None if this is the only one."""
    if coordinator is None and num_processes is None and process_id is None:
        return _detect()
    if num_processes is not None and num_processes < 1:
        raise UserError(f"--num_processes={num_processes}: must be at least 1")
    if num_processes == 1 and coordinator is None and process_id in (None, 0):
        return None
    if coordinator is None or num_processes is None or process_id is None:
        raise UserError(
            "--coordinator, --num_processes, --process_id: give all three, none if the cluster "
            "sets them (Cloud TPU, SLURM), or --num_processes=1 to run on this host alone"
        )
    address = rendezvous.parse_address(coordinator, "--coordinator")
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id={process_id}: must be at least 0 and below --num_processes, "
            f"which is {num_processes}"
        )
    if num_processes == 1:
        return None
    return _Cluster(address, num_processes, process_id, detected=False)


def _detect() -> _Cluster | None:
    """Returns the hosts that JAX detects from the environment; None if this is the only one.

    It prints them, since joining them may take up to `JOIN_SECONDS`.
    """
    hint = "--num_processes=1 runs on this host alone"
    try:
        # JAX has no public function that detects a cluster without joining it.
        from jax._src.clusters import ClusterEnv

        coordinator, count, process_id, _ = ClusterEnv.auto_detect_unset_distributed_params(
            os.environ.get("JAX_COORDINATOR_ADDRESS"), None, None, None, None, JOIN_SECONDS
        )
        if coordinator is None or count == 1:
            return None
        host, _, port = coordinator.rpartition(":")
        address = rendezvous.Address(host.strip("[]"), int(port))
        if count is None or process_id is None or not 0 <= process_id < count:
            raise ValueError(f"this is process {process_id} of {count} at {address}")
    except Exception as error:  # each kind of cluster raises other types
        raise UserError(
            f"the hosts of this run cannot be detected from the environment "
            f"({type(error).__name__}: {error}): give --coordinator, --num_processes and "
            f"--process_id; {hint}"
        ) from error
    print(f"joining {count} hosts as process {process_id} at {address}; {hint}", flush=True)
    return _Cluster(address, count, process_id, detected=True)


def _initialize(cluster: _Cluster, bound: str | None) -> None:
    """Joins the other hosts through JAX, which aborts this process if that fails."""
    # JAX's preemption service would replace the SIGTERM handler of stop.py.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        str(cluster.address),
        cluster.count,
        cluster.process_id,
        initialization_timeout=JOIN_SECONDS,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        coordinator_bind_address=bound,
    )


def _is_of_lost_host(error: Exception) -> bool:
    """Returns whether JAX failed to communicate with another host; it raises several classes."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        return not str(error).startswith("RESOURCE_EXHAUSTED")  # this host is out of memory
    return isinstance(error, ValueError) and bool(re.search(r"\b(Gloo|NCCL)\b", str(error)))


@contextlib.contextmanager
def _reported_loss() -> Iterator[Callable[[], None]]:
    """Prints `LOST` if JAX or a signal kills this process within the context.

    JAX aborts a process when it loses another host, and the process cannot handle that. A
    subprocess therefore waits for it to end.

    Yields:
      A function that ends the subprocess without printing.
    """
    # The subprocess has its own session, so that Ctrl-C does not reach it, and ignores the SIGTERM
    # that schedulers send to all processes of a job.
    watch = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WATCH_SCRIPT, f"error: {LOST}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )

    def ended() -> None:
        # The subprocess ends by itself after this line, so a timeout needs no handling.
        with contextlib.suppress(subprocess.TimeoutExpired):
            watch.communicate(b"ended\n", timeout=10)

    try:
        yield ended
    finally:
        ended()


def gather(value: Any) -> list[Any]:
    """Gathers a value from every host.

    Args:
      value: a number, string, None, numpy array, or list or dict of these.

    Returns:
      The values of all hosts, in the order of their indices.
    """
    if count() == 1:
        return [value]
    packed = np.frombuffer(serialization.msgpack_serialize(value), np.uint8)
    lengths = multihost_utils.process_allgather(np.asarray(len(packed), np.int32)).tolist()
    padded = np.pad(packed, (0, max(lengths) - len(packed)))
    rows = multihost_utils.process_allgather(padded)
    return [
        serialization.msgpack_restore(row[:length].tobytes())
        for row, length in zip(rows, lengths, strict=True)
    ]


def on_first(function: Callable[[], Any]) -> Any:
    """Calls a function on the first host only, and returns its result on all hosts.

    Args:
      function: returns a value of the types that `gather` supports.

    Raises:
      UserError: on all hosts if `function` raises one.
    """
    if count() == 1:
        return function()
    value, problem = None, None
    if is_first():
        try:
            value = function()
        except UserError as error:
            problem = str(error)
    value, problem = gather([value, problem])[0]
    if problem is not None:
        raise UserError(problem if is_first() else f"the first host stopped: {problem}")
    return value


def check_same(facts: dict[str, Any]) -> None:
    """Checks that all hosts have the same values as the first host.

    Args:
      facts: the values by name, of the types that `gather` supports.

    Raises:
      UserError: on each host whose values differ.
    """
    first = gather(facts)[0]
    differing = " and ".join(name for name in facts if facts[name] != first[name])
    if differing:
        raise UserError(
            f"host {index()}: {differing} differ from the first host; all hosts need the same "
            f"command, the same version of this code and the same data"
        )


def share(tree: Tree) -> Tree:
    """Broadcasts the first host's arrays to all hosts, preserving every bit.

    Args:
      tree: pytree of arrays with the same structure, shapes and dtypes on all hosts.

    Returns:
      The first host's arrays, in numpy if there are several hosts.
    """
    if count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    leaves = [np.asarray(leaf) for leaf in leaves]
    # Arrays are sent as bytes, since JAX broadcasts by adding zeros, and -0.0 + 0.0 is 0.0.
    content = [np.ascontiguousarray(x.reshape(-1)).view(np.uint8) for x in leaves]
    received = [multihost_utils.broadcast_one_to_all(x) for x in content]
    shared = [
        new.view(old.dtype).reshape(old.shape) for new, old in zip(received, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, shared)
