"""Many hosts as one run: joining them, and what they tell one another.

Each host is one process with the devices that it sees. The first one alone reads and writes the
run's folder. All hosts call these functions in the same order; on one host they do nothing.
"""

import contextlib
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from flax import serialization
from jax.experimental import multihost_utils

from unet_jax.errors import UserError, print_error

JOIN_SECONDS = 300  # that a host waits for the others at the start
SILENCE_SECONDS = 60  # after which a host that is not heard of is lost, and the run with it
END_SECONDS = 24 * 3600  # that a host waits at its end, such as for the first one's report
LOST = (
    "a host of this run failed, was killed or never came (its own last lines say more), and the "
    "others cannot go on without it; the checkpoints are whole: start the same command on all "
    "hosts again"
)
Tree = Any


def count() -> int:
    return jax.process_count()


def index() -> int:
    return jax.process_index()


def is_first() -> bool:
    """Whether this host owns the run's folder."""
    return jax.process_index() == 0


@contextlib.contextmanager
def joined(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Iterator[None]:
    """One of several hosts for as long as the context lasts, where there are several.

    JAX itself finds them on Cloud TPU, SLURM and Open MPI. Elsewhere all three arguments are
    needed, `coordinator` being HOST:PORT of process 0. An error of one host ends its process at
    once, not waiting for the others, and within `SILENCE_SECONDS` all of them.
    """
    _check(coordinator, num_processes, process_id)
    with _last_words() as ended:
        several = _initialize(coordinator, num_processes, process_id)
        if not several:
            ended()
        try:
            yield
        except Exception as error:
            if not several:
                raise
            if isinstance(error, UserError):
                code = print_error(error)
            elif isinstance(error, jax.errors.JaxRuntimeError):
                code = print_error(f"{LOST} ({error})")
            else:
                traceback.print_exc()
                code = 1
            ended()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def _check(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    if coordinator is None and num_processes is None and process_id is None:
        return
    if coordinator is None or num_processes is None or process_id is None:
        raise UserError(
            "--coordinator, --num_processes, --process_id: give all three, or none where the "
            "cluster tells them (Cloud TPU, SLURM)"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--coordinator={coordinator}: expected HOST:PORT of process 0")
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id={process_id}: must be at least 0 and below --num_processes, "
            f"which is {num_processes}"
        )


def _initialize(coordinator: str | None, num_processes: int | None, process_id: int | None) -> bool:
    """Joins the other hosts; returns whether there are any."""
    # JAX would take SIGTERM for itself; stop.py listens to it.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=SILENCE_SECONDS,
            shutdown_timeout_seconds=END_SECONDS,
        )
    except ValueError as error:
        if coordinator is None and "coordinator_address" in str(error):
            return False  # no cluster that JAX knows
        raise
    return count() > 1


@contextlib.contextmanager
def _last_words() -> Iterator[Callable[[], None]]:
    """Says `LOST` if this process is ended in the context, by JAX or by a kill.

    JAX aborts a process whose peers are lost, beyond the reach of any handler in it; so another
    process waits for its end.
    """
    # It has a session of its own, where Ctrl-C does not reach it.
    watch = subprocess.Popen(
        ["sh", "-c", 'read -r word || echo "error: $0" >&2', LOST],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )

    def ended() -> None:
        if watch.returncode is None:
            watch.communicate(b"ended\n")

    try:
        yield ended
    finally:
        ended()


def gather(value: Any) -> list[Any]:
    """Every host's value, in their order: numbers, texts, None, numpy arrays, lists and dicts."""
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
    """What `function` returns on the first host, where alone it is called, on all of them.

    See `gather` for what that can be. A `UserError` there is one on all.
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
    """Raises a `UserError` on a host where one of the facts is another than on the first."""
    first = gather(facts)[0]
    differing = " and ".join(name for name in facts if facts[name] != first[name])
    if differing:
        raise UserError(
            f"host {index()}: its {differing} differ from the first host's; all hosts need the "
            f"same command, the same version of this code and the same data"
        )


def share(tree: Tree) -> Tree:
    """The first host's numpy arrays, bit for bit, on all; theirs have the same shapes."""
    if count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    leaves = [np.asarray(leaf) for leaf in leaves]
    # As bytes: JAX adds zeros to what it broadcasts, and -0.0 + 0.0 is 0.0.
    told = [multihost_utils.broadcast_one_to_all(x.reshape(-1).view(np.uint8)) for x in leaves]
    shared = [new.view(old.dtype).reshape(old.shape) for new, old in zip(told, leaves, strict=True)]
    return jax.tree.unflatten(structure, shared)
