"""Several processes that are hosts to one another, over loopback."""

import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence

ROOT = pathlib.Path(__file__).parents[1]
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "2",
    "PYTHONPATH": str(ROOT),
}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def listening(port: int) -> set[str]:
    """The IP addresses at which any process listens to the port, as the kernel lists them."""
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in pathlib.Path("/proc/net", table).read_text().splitlines()[1:]
    ]
    places = (place.split(":") for _, place, _, state, *_ in lines if state == "0A")
    return {text_of(place) for place, of_port in places if int(of_port, 16) == port}


def text_of(words: str) -> str:
    octets = b"".join(
        bytes.fromhex(words[i : i + 8])[::-1] for i in range(0, len(words), 8)
    )  # words of 32 bits, little-endian
    family = socket.AF_INET if len(octets) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, octets).removeprefix("::ffff:")


def flags(port: int, host: int, count: int = 2) -> list[str]:
    return [f"--coordinator=localhost:{port}", f"--num_processes={count}", f"--process_id={host}"]


def start(arguments: Sequence[object], environment: dict[str, str] | None = None):
    """A Python process with two CPU devices, whose two outputs are files of their own."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_all(arguments_of: Callable[[int, int], Sequence[object]], count: int = 2):
    """One process for each host: `arguments_of(port, host)` are its own."""
    port = free_port()
    return [start(arguments_of(port, host)) for host in range(count)]


def finish(processes: Sequence[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each; none is left behind."""
    try:
        # Both at once, or one that fills its pipe would hold up the other.
        ends = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *end) for process, end in zip(processes, ends, strict=True)]
