"""Rendezvous of a run's processes at the address of process 0, before JAX is initialised.

JAX's coordination service ends all processes when another one connects with an id in use. It aborts
a process in C++ when the port is in use or the other processes do not connect in time. Therefore
process 0 first listens at the address itself, until every process has connected and sent its id.
It then closes its socket and releases the others, and JAX uses the same address. A process that
connects later reaches JAX's service instead; it detects this and disconnects.
"""

import contextlib
import errno
import ipaddress
import os
import re
import select
import socket
import time
from collections.abc import Sequence
from typing import NamedTuple

from unet_jax.core.errors import UserError

RETRY_SECONDS = 0.2  # between attempts to connect to process 0
HELLO_SECONDS = 2  # timeout for a connected process to send its id
# Protocol: a process sends HELLO. Process 0 answers WAIT and later GO, or REFUSED with a reason.
HELLO = "unet_jax process {} of {}\n"
_HELLO = re.compile(rb"unet_jax process (\d{1,9}) of (\d{1,9})\n")
WAIT, GO, REFUSED = "unet_jax wait\n", "unet_jax go\n", "unet_jax refused: "


class Address(NamedTuple):
    """The address at which process 0 listens."""

    host: str  # a name or an IP address, without brackets
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, source: str) -> Address:
    """Parses an address.

    Args:
      text: HOST:PORT or [IPV6]:PORT.
      source: flag or variable that contains the text, for error messages.

    Raises:
      UserError: the text is not an address, or the port is not in 1 ... 65535.
    """
    found = re.fullmatch(r"(?:\[([^][]+)\]|([^][:]+)):([0-9]{1,5})", text)
    if found is None:
        raise UserError(f"{source}={text}: expected HOST:PORT of process 0, or [IPV6]:PORT")
    port = int(found[3])
    if not 1 <= port <= 65535:
        raise UserError(f"{source}={text}: the port must be from 1 to 65535")
    return Address(found[1] or found[2], port)


def wait_for_processes(address: Address, count: int, seconds: float, all_interfaces: bool) -> str:
    """Waits on process 0 until processes 1 to `count - 1` have connected.

    Args:
      address: the address of process 0.
      count: number of processes, including process 0.
      seconds: timeout.
      all_interfaces: whether to listen on all interfaces. If false, process 0 listens at `address`
        alone if it can.

    Returns:
      The address at which process 0 listened, to which JAX's service must bind.

    Raises:
      UserError: process 0 cannot listen, or a process did not connect within `seconds`.
    """
    deadline = time.monotonic() + seconds
    waiting: dict[int, socket.socket] = {}
    listeners, bound = _listen(address, all_interfaces)
    with contextlib.ExitStack() as stack:
        for listener in listeners:
            stack.enter_context(listener).settimeout(HELLO_SECONDS)
        missing = list(range(1, count))
        while missing and (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([*listeners, *waiting.values()], [], [], left)
            # Waiting processes send nothing, so a readable connection has been closed. Its id
            # is available again, perhaps to one of the new connections.
            for closed in [i for i, connection in waiting.items() if connection in ready]:
                waiting.pop(closed).close()
            for listener in listeners:
                if listener in ready:
                    _accept(listener, waiting, count)
            missing = [i for i in range(1, count) if i not in waiting]
    names = ", ".join(map(str, missing[:9])) + (", ..." if missing[9:] else "")
    problem = (
        f"{address}: not all {count} processes connected within {seconds:g} s (missing: {names}); "
        f"start one with each --process_id from 0 to {count - 1}"
    )
    # JAX aborts if another program binds the port between here and the start of its service.
    for connection in waiting.values():
        _send(connection, f"{REFUSED}{problem}\n" if missing else GO)
        connection.close()
    if missing:
        raise UserError(problem)
    return bound


def report_to_first(address: Address, count: int, process_id: int, seconds: float) -> None:
    """Connects to process 0 and waits until all other processes have connected too.

    Args:
      address: the address of process 0.
      count: number of processes, including process 0.
      process_id: id of this process, from 1.
      seconds: timeout.

    Raises:
      UserError: process 0 did not answer within `seconds`, refused this process, or stopped.
    """
    deadline = time.monotonic() + seconds
    connection = _connect(address, deadline, seconds)
    with connection, connection.makefile(encoding="ascii", errors="replace") as answers:
        problem = "process 0 stopped before all processes had connected; see its output"
        try:
            connection.sendall(HELLO.format(process_id, count).encode())
            connection.settimeout(max(HELLO_SECONDS, deadline - time.monotonic()))
            answer = answers.readline(999)
            if answer == WAIT:
                # The longer timeout leaves process 0 time to report which processes are missing.
                connection.settimeout(seconds + 5)
                answer = answers.readline(999)
            elif not answer.startswith(REFUSED):
                problem = (
                    f"the program that listens there is not waiting for process {process_id}: "
                    f"it is a run whose {count} processes have all connected, or another program; "
                    f"choose another --process_id or port, or stop that program first"
                )
        except TimeoutError:
            answer, problem = "", f"process 0 has not answered within {seconds:g} s"
        except OSError as error:
            answer, problem = "", f"{problem} ({error.strerror})"
    if answer.startswith(REFUSED):
        raise UserError(answer.removeprefix(REFUSED).rstrip())
    if answer != GO:
        raise UserError(f"{address}: {problem}")
    # JAX's client sleeps for a second if its service has not started yet, so this waits for it.
    _connect(address, time.monotonic() + seconds, seconds).close()


def _listen(address: Address, all_interfaces: bool) -> tuple[list[socket.socket], str]:
    """Returns sockets that listen at the address, and the address to which JAX must bind.

    The sockets listen on all interfaces in two cases. The address of another interface, such as
    the public address of a virtual machine, cannot be bound. The machine's own host name may
    resolve differently elsewhere: on Debian it resolves to a loopback address on the machine
    itself. The environment variable JAX_COORDINATOR_BIND_ADDRESS overrides this choice.
    """
    if override := os.environ.get("JAX_COORDINATOR_BIND_ADDRESS"):
        address, all_interfaces = parse_address(override, "JAX_COORDINATOR_BIND_ADDRESS"), False
    listeners: list[socket.socket] = []
    try:
        addresses = [] if all_interfaces else _resolve(address)
        if not _is_own_name(address.host, addresses):
            for family, socket_address in addresses:
                try:
                    listeners.append(socket.create_server(socket_address, family=family))
                except OSError as error:
                    if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                        raise
        if listeners:
            return listeners, str(address)
        if not all_interfaces:
            print(f"process 0 listens on all interfaces, because it cannot bind {address} alone")
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        socket_address = ("", address.port)
        listeners.append(socket.create_server(socket_address, family=family, dualstack_ipv6=both))
        return listeners, f"[::]:{address.port}"
    except OSError as error:
        for listener in listeners:
            listener.close()
        reason = os.strerror(error.errno) if error.errno else error
        advice = {
            errno.EADDRINUSE: "stop the other program or the earlier run that listens there, or ",
            errno.EACCES: "ports below 1024 need administrator rights: ",
        }.get(error.errno or 0, "")
        raise UserError(
            f"{address}: process 0 cannot listen there ({reason}); {advice}choose another port"
        ) from error


def _is_own_name(host: str, addresses: Sequence[tuple[int, tuple]]) -> bool:
    """Returns whether the host is this machine's own name and resolves only to loopback addresses.

    Args:
      host: the host name.
      addresses: the families and socket addresses to which it resolves.
    """
    own_name = socket.gethostname().partition(".")[0].lower()
    return host.partition(".")[0].lower() == own_name != "localhost" and all(
        ipaddress.ip_address(socket_address[0].partition("%")[0]).is_loopback
        for _, socket_address in addresses
    )


def _resolve(address: Address) -> list[tuple[int, tuple]]:
    """Resolves the host name to address families and socket addresses, without duplicates."""
    try:
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:  # ValueError: the name is malformed
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{address}: the host name cannot be resolved ({reason})") from error
    return list(
        dict.fromkeys((family, socket_address) for family, _, _, _, socket_address in found)
    )


def _connect(address: Address, deadline: float, seconds: float) -> socket.socket:
    """Connects to process 0, retrying until `deadline` since it may start later.

    Args:
      address: the address of process 0.
      deadline: value of `time.monotonic()` at which to give up.
      seconds: the whole timeout, for error messages.

    Raises:
      UserError: process 0 did not answer in time, or the host name cannot be resolved.
    """
    reason: object = "no address"
    while True:
        for family, socket_address in _resolve(address):
            connection = socket.socket(family, socket.SOCK_STREAM)
            try:
                connection.settimeout(max(RETRY_SECONDS, min(10, deadline - time.monotonic())))
                connection.connect(socket_address)
                # If no socket listens on this machine, TCP may connect a socket to itself.
                if connection.getsockname() != connection.getpeername():
                    return connection
            except OSError as error:
                reason = error.strerror or error
            connection.close()
        if time.monotonic() > deadline:
            raise UserError(
                f"{address}: process 0 did not answer within {seconds:g} s ({reason}); "
                f"check that it runs, that this is its address and that no firewall blocks the port"
            )
        time.sleep(RETRY_SECONDS)


def _accept(listener: socket.socket, waiting: dict[int, socket.socket], count: int) -> None:
    """Accepts a connection and adds its process to `waiting`, or refuses it with a reason."""
    try:
        connection, _ = listener.accept()
    except OSError:  # the connection is closed already
        return
    hello = None
    with contextlib.suppress(OSError):
        connection.settimeout(HELLO_SECONDS)
        with connection.makefile("rb") as stream:
            hello = _HELLO.fullmatch(stream.readline(99))
    if hello is None:  # not a process of a run, but perhaps a port scanner or health check
        connection.close()
        return
    process_id, expected = int(hello[1]), int(hello[2])
    if expected != count:
        problem = f"process 0 has --num_processes={count}, this process has {expected}"
    elif not 0 < process_id < count or process_id in waiting:
        problem = f"another process already has --process_id={process_id}; give each its own"
    else:
        waiting[process_id] = connection
        _send(connection, WAIT)
        return
    _send(connection, f"{REFUSED}{problem}\n")
    connection.close()


def _send(connection: socket.socket, line: str) -> None:
    with contextlib.suppress(OSError):  # closed connections are detected elsewhere
        connection.sendall(line.encode())
