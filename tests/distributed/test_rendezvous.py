"""How the processes of a run meet before JAX joins them: sockets alone, without JAX."""

import contextlib
import errno
import socket
import threading
import time
from concurrent import futures

import pytest
from cluster import free_port, listening
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_jax.core.errors import UserError
from unet_jax.distributed import rendezvous
from unet_jax.distributed.rendezvous import (
    Address,
    parse_address,
    report_to_first,
    wait_for_processes,
)


@contextlib.contextmanager
def first(address: Address, count: int = 2, seconds: float = 20, all_interfaces: bool = False):
    """Process 0 in a thread, once it listens."""
    with futures.ThreadPoolExecutor(1) as pool:
        result = pool.submit(wait_for_processes, address, count, seconds, all_interfaces)
        while not listening(address.port) and not result.done():
            time.sleep(0.01)
        yield result


@contextlib.contextmanager
def service(address: Address, result: futures.Future):
    """What JAX starts when all have come; like gRPC, it speaks first."""
    result.result()
    with socket.create_server(address) as listener, futures.ThreadPoolExecutor(1) as pool:
        listener.settimeout(20)
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.sendall(b"\0\0\x18\x04\0\0\0\0\0\0\x04\0@\0\0")
                    connection.recv(99)

        pool.submit(serve)
        try:
            yield
        finally:
            done.set()
            socket.create_connection(address).close()


def one_line(error: pytest.ExceptionInfo, *parts: object) -> None:
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert str(part) in text


@settings(max_examples=50, deadline=None)
@given(
    host=st.one_of(
        st.ip_addresses().map(str),
        st.from_regex(r"[a-z]([a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True),
    ),
    port=st.integers(1, 65535),
)
def test_a_formatted_address_is_parsed_to_itself(host, port):
    address = Address(host, port)
    assert parse_address(str(address), "--coordinator") == address


@pytest.mark.parametrize(
    ("text", "part"),
    [
        *((text, "expected HOST:PORT") for text in ("", "here", ":1", "here:", "here:x", "[]:1")),
        *(
            (text, "expected HOST:PORT")
            for text in ("::1:1234", "here:١", "here:-1", "here:123456")
        ),
        *((text, "from 1 to 65535") for text in ("here:0", "here:65536")),
    ],
)
def test_invalid_addresses_are_refused(text, part):
    with pytest.raises(UserError, match=part) as error:
        parse_address(text, "--coordinator")
    one_line(error, f"--coordinator={text}:")


@pytest.mark.parametrize(
    ("host", "own", "all_interfaces", "expected"),
    [
        ("localhost", "here", False, {"127.0.0.1", "::1"}),
        ("localhost", "localhost", False, {"127.0.0.1", "::1"}),
        ("127.0.0.1", "here", False, {"127.0.0.1"}),
        ("::1", "here", False, {"::1"}),
        ("localhost", "here", True, {"::", "0.0.0.0"}),
        # A loopback address here that other machines know by another one, as on Debian.
        ("localhost", "LOCALHOST.domain", False, {"127.0.0.1", "::1"}),
        ("here.domain", "here", False, {"::", "0.0.0.0"}),
        # Not an address of this machine, such as one that a cloud forwards to it.
        ("192.0.2.1", "here", False, {"::", "0.0.0.0"}),
    ],
)
def test_the_first_process_listens_at_the_given_address_alone(
    monkeypatch, capsys, host, own, all_interfaces, expected
):
    monkeypatch.delenv("JAX_COORDINATOR_BIND_ADDRESS", raising=False)
    monkeypatch.setattr(socket, "gethostname", lambda: own)
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda name, *a, **k: resolve({"here.domain": "127.0.0.1"}.get(name, name), *a, **k),
    )
    address = Address(host, free_port())
    listeners, bound = rendezvous._listen(address, all_interfaces)
    found = listening(address.port)
    for listener in listeners:
        listener.close()
    assert found and found <= expected
    alone = not expected & {"::", "0.0.0.0"}
    assert bound == (str(address) if alone else f"[::]:{address.port}")
    # What the user did not ask for is said.
    said = capsys.readouterr().out
    assert said == (
        ""
        if alone or all_interfaces
        else f"process 0 listens on all interfaces, because it cannot bind {address} alone\n"
    )


def test_the_variable_of_jax_chooses_where_it_listens(monkeypatch):
    port = free_port()
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", f"127.0.0.1:{port}")
    listeners, bound = rendezvous._listen(Address("192.0.2.1", 1234), all_interfaces=True)
    assert listening(port) == {"127.0.0.1"}
    assert bound == f"127.0.0.1:{port}"
    for listener in listeners:
        listener.close()


@pytest.mark.parametrize("all_interfaces", [False, True])
@pytest.mark.parametrize("taken", ["127.0.0.1", ""])
def test_a_port_in_use_is_named(all_interfaces, taken):
    with socket.create_server((taken, 0)) as other:
        address = Address("localhost", other.getsockname()[1])
        with pytest.raises(UserError, match="in use") as error:
            wait_for_processes(address, 2, 1, all_interfaces)
    one_line(error, f"{address}: process 0 cannot listen there", "choose another port")


def test_a_port_that_only_an_administrator_may_use_is_named(monkeypatch):
    def bind(self, place):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", bind)
    with pytest.raises(UserError, match="administrator") as error:
        wait_for_processes(Address("127.0.0.1", 80), 2, 1, all_interfaces=False)
    one_line(error, "127.0.0.1:80: process 0 cannot listen there (Permission denied)")


@pytest.mark.parametrize("host", ["nowhere.invalid", "a..b", "x" * 70])
def test_an_unknown_host_name_is_reported_at_once(host):
    began = time.monotonic()
    address = Address(host, 1234)
    with pytest.raises(UserError, match="cannot be resolved") as one:
        wait_for_processes(address, 2, 300, all_interfaces=False)
    with pytest.raises(UserError, match="cannot be resolved") as other:
        report_to_first(address, 2, 1, 300)
    one_line(one, address)
    one_line(other, address)
    assert time.monotonic() - began < 60


def test_processes_connect_in_any_order_and_late_ones_do_not_disturb_the_run():
    address = Address("localhost", free_port())
    with futures.ThreadPoolExecutor(2) as pool:
        others = [pool.submit(report_to_first, address, 3, i, 20) for i in (2, 1)]  # before 0
        with first(address, 3) as result, service(address, result):
            for other in others:
                other.result()
            assert result.result() == str(address)
            for process_id in (1, 2):
                with pytest.raises(UserError, match="have all connected") as error:
                    report_to_first(address, 3, process_id, 20)
                one_line(error, f"{address}: the program that listens there is not waiting")
            with pytest.raises(UserError, match="in use"):
                wait_for_processes(address, 3, 20, all_interfaces=False)


def come(address: Address, process_id: int, count: int) -> socket.socket:
    """A process that has come and waits."""
    connection = socket.create_connection(address)
    connection.settimeout(20)
    connection.sendall(rendezvous.HELLO.format(process_id, count).encode())
    assert connection.recv(len(rendezvous.WAIT)).decode() == rendezvous.WAIT
    return connection


def test_a_process_with_a_taken_id_or_of_another_count_is_refused_while_the_others_wait():
    address = Address("localhost", free_port())
    with first(address, 3) as result, come(address, 1, 3) as waiting:
        for count, process_id, part in [
            (3, 1, "another process already has --process_id=1"),
            (3, 0, "another process already has --process_id=0"),
            (3, 3, "another process already has --process_id=3"),
            (2, 1, "process 0 has --num_processes=3, this process has 2"),
        ]:
            with pytest.raises(UserError, match=part) as error:
                report_to_first(address, count, process_id, 20)
            one_line(error)
        assert not result.done()
        with come(address, 2, 3) as last:
            assert waiting.recv(99) == last.recv(99) == rendezvous.GO.encode()
        assert result.result() == str(address)


def test_a_process_that_disconnects_while_waiting_may_connect_again():
    address = Address("localhost", free_port())
    with first(address, 3) as result:
        for _ in range(3):
            come(address, 1, 3).close()
        with futures.ThreadPoolExecutor(2) as pool:
            others = [pool.submit(report_to_first, address, 3, i, 20) for i in (1, 2)]
            with service(address, result):
                for other in others:
                    other.result()


def test_missing_processes_are_reported_by_all():
    address = Address("localhost", free_port())
    missing = r"not all 4 processes connected within 1 s \(missing: 1, 3\)"
    with first(address, 4, seconds=1) as result:
        with pytest.raises(UserError, match=missing) as one:
            report_to_first(address, 4, 2, 20)
        one_line(one, address)
        with pytest.raises(UserError, match=missing):
            result.result()


def test_a_missing_or_silent_process_0_is_reported():
    address = Address("localhost", free_port())
    with pytest.raises(UserError, match="process 0 did not answer within") as error:
        report_to_first(address, 2, 1, 0.5)
    one_line(error, address, "refused")
    with socket.create_server(address):  # such as one that is suspended
        with pytest.raises(UserError, match="process 0 has not answered within") as error:
            report_to_first(address, 2, 1, 0.5)
        one_line(error, address)


def test_a_process_0_that_stops_while_waiting_is_reported():
    with socket.create_server(("localhost", 0)) as listener, futures.ThreadPoolExecutor(1) as pool:
        address = Address("localhost", listener.getsockname()[1])
        other = pool.submit(report_to_first, address, 2, 1, 20)
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(99) == rendezvous.HELLO.format(1, 2).encode()
            connection.sendall(rendezvous.WAIT.encode())
        with pytest.raises(UserError, match="process 0 stopped before all") as error:
            other.result()
    one_line(error, address)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=200),
            st.from_regex(r"unet_jax process -?\d{0,12} of \d{0,12}\n?", fullmatch=True).map(
                str.encode
            ),
        ),
        max_size=5,
    )
)
def test_whatever_else_connects_the_processes_meet(words):
    address = Address("127.0.0.1", free_port())
    real = rendezvous.HELLO.format(1, 2).encode()
    with first(address) as result:
        for said in words:
            with socket.create_connection(address) as connection, contextlib.suppress(OSError):
                if said != real:
                    connection.sendall(said)
        with come(address, 1, 2) as last:
            assert last.recv(99) == rendezvous.GO.encode()
        assert result.result() == str(address)
