"""One writer at a time for a folder in a bucket, tested with an object that checks generations."""

import json
import os
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_jax.core.bucket import Unreachable
from unet_jax.core.errors import UserError
from unet_jax.runs import lease
from unet_jax.runs.lease import LEASE_SECONDS, RENEW_SECONDS, WATCH_SECONDS, Conflict, Lease


class Object:
    """An object in a bucket, as the service keeps it."""

    def __init__(self):
        self.content, self.generation, self.last = None, 0, 0
        self.fails = False  # whether the bucket does not answer
        self.loses_answers = False  # whether it writes but does not answer, once

    def read(self):
        self._answer()
        return None if self.content is None else (self.content, self.generation)

    def write(self, content, generation):
        self._answer()
        self._compare(generation)
        self.last += 1
        self.content, self.generation = content, self.last
        if self.loses_answers:  # the client repeats the request
            self.loses_answers = False
            raise Conflict
        return self.generation

    def delete(self, generation):
        self._answer()
        self._compare(generation)
        self.content, self.generation = None, 0

    def _answer(self):
        if self.fails:
            raise Unreachable("no answer")

    def _compare(self, generation):
        if generation != self.generation:
            raise Conflict


class Clock:
    """A clock that advances only when someone sleeps; `during` is called each time."""

    def __init__(self, during=lambda: None):
        self.now, self.during = 1e9, during

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.during()


def make(store, clock, skew=0.0):
    return Lease(store, "gs://b/run", lambda: clock() + skew, clock, clock.sleep)


def elsewhere(store, **changes):
    """The lease is that of a process on another machine."""
    owner = json.loads(store.content) | {"boot": "another", "host": "there"} | changes
    store.content = json.dumps(owner).encode()


@pytest.fixture
def store():
    return Object()


def test_of_two_processes_one_takes_the_lease(store):
    clock = Clock()
    first = make(store, clock)
    first.acquire()
    with pytest.raises(UserError, match=r"another process .* is writing this run"):
        make(store, clock).acquire()
    assert clock.now == 1e9  # at once: the process of the first is alive, here
    first.check()
    first.release()
    assert store.content is None
    make(store, clock).acquire()


def test_of_two_processes_that_find_no_lease_one_takes_it(store):
    clock = Clock()
    one, other = make(store, clock), make(store, clock)
    read = store.read

    def read_and_lose():
        store.read = read
        found = read()
        other.acquire()
        return found

    store.read = read_and_lose
    with pytest.raises(UserError, match="another process"):
        one.acquire()
    other.check()


def test_the_lease_of_a_killed_process_of_this_machine_is_taken_at_once(store):
    clock = Clock()
    make(store, clock).acquire()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    store.content = json.dumps(json.loads(store.content) | {"pid": ended.pid}).encode()
    make(store, clock).acquire()
    assert clock.now == 1e9


def test_a_process_with_the_number_of_a_killed_one_is_not_taken_for_it(store):
    clock = Clock()
    make(store, clock).acquire()
    owner = json.loads(store.content)
    assert owner["pid"] == os.getpid()
    assert lease.is_alive(owner)
    assert lease.is_dead(owner | {"started": owner["started"] - 1})
    for unknown in ({"boot": "x"}, {"pid_namespace": "x"}, {"boot": ""}):
        assert not lease.is_alive(owner | unknown)
        assert not lease.is_dead(owner | unknown)


@pytest.mark.parametrize("skew", [-1000.0, -5.0, 0.0, 5.0, 1000.0])
def test_the_lease_of_a_silent_host_is_taken_when_it_has_expired(store, skew, capsys):
    clock = Clock()
    make(store, clock, skew).acquire()
    elsewhere(store)
    make(store, clock).acquire()
    waited = clock.now - 1e9
    assert WATCH_SECONDS <= waited <= LEASE_SECONDS + 2
    assert "waiting for up to 60 s" in capsys.readouterr().out


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.floats(1, 100), max_size=6), st.floats(0, 200))
def test_two_processes_never_hold_the_lease_at_the_same_time(gaps, wait):
    """The first one renews its lease after these times, the second one begins after `wait`."""
    store, clock = Object(), Clock()
    first, second = make(store, clock), make(store, clock)
    first._owner["boot"] = "another"
    first.acquire()
    times = [clock.now + sum(gaps[: i + 1]) for i in range(len(gaps))]

    def renew():
        while times and times[0] <= clock.now:
            times.pop(0)
            first.renew()

    clock.during = renew
    clock.sleep(wait)
    try:
        second.acquire()
    except UserError:  # it saw the first renew its lease
        return
    second.check()
    with pytest.raises(UserError):
        first.check()
    first.renew()
    with pytest.raises(UserError, match="taken by another process"):
        first.check()
    second.check()


@pytest.mark.parametrize("skew", [-1000.0, 0.0, 1000.0])
def test_the_lease_of_a_host_that_renews_it_is_not_taken(store, skew):
    clock = Clock()
    first = make(store, clock, skew)
    first.acquire()
    elsewhere(store)
    begin = clock.now

    def renew():
        if clock.now >= begin + RENEW_SECONDS:
            first.renew()
            elsewhere(store)

    clock.during = renew
    with pytest.raises(UserError, match=r"another process \(on there\)"):
        make(store, clock).acquire()
    first.check()


def test_an_owner_that_lost_its_lease_stops_and_does_not_take_it_back(store):
    clock = Clock()
    first = make(store, clock)
    first.acquire()
    elsewhere(store, expires=0)
    second = make(store, clock)
    second.acquire()
    first.renew()
    with pytest.raises(UserError, match="taken by another process"):
        first.check()
    first.release()
    second.renew()
    second.check()


def test_an_owner_whose_bucket_does_not_answer_stops_before_the_lease_expires(store):
    clock = Clock()
    first = make(store, clock)
    first.acquire()
    store.fails = True
    for _ in range(4):
        clock.sleep(RENEW_SECONDS)
        first.renew()
    first.check()
    clock.sleep(1)
    with pytest.raises(UserError, match="could not be renewed in time"):
        first.check()
    store.fails = False
    first.renew()  # nobody took it meanwhile
    first.check()


def test_a_process_that_was_suspended_keeps_a_lease_that_nobody_took(store):
    clock = Clock()
    first = make(store, clock)
    first.acquire()
    clock.sleep(1000)
    first.check()
    elsewhere(store)  # of a process elsewhere, which is now suspended
    clock.sleep(1000)
    make(store, clock).acquire()
    with pytest.raises(UserError, match="taken by another process"):
        first.check()


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="only Linux has this clock")
def test_a_process_on_a_machine_that_was_suspended_asks_for_its_lease(store, monkeypatch):
    first = Lease(store, "gs://b/run")
    first.acquire()
    elsewhere(store, id="another")
    store.generation = store.last = 2  # as when another process writes it
    first.check()  # it is valid for some time
    real = time.clock_gettime
    slept = lambda clock: real(clock) + 1000 * (clock == time.CLOCK_BOOTTIME)  # noqa: E731
    monkeypatch.setattr(time, "clock_gettime", slept)
    with pytest.raises(UserError, match="taken by another process"):
        first.check()


def test_a_lost_answer_and_a_deleted_lease_do_not_end_a_run(store):
    clock = Clock()
    first = make(store, clock)
    store.loses_answers = True
    first.acquire()
    store.loses_answers = True
    first.renew()
    store.content, store.generation = None, 0
    first.renew()
    clock.sleep(LEASE_SECONDS - 1)
    first.check()
    assert store.content is not None


def test_the_lock_of_a_local_run_that_was_copied_is_no_lease(store):
    clock = Clock()
    store.content, store.generation, store.last = b"", 7, 7
    make(store, clock).acquire()
    assert clock.now == 1e9


@pytest.mark.parametrize("content", [b"[]", b"{}", b"\xff", b'{"expires": "x"}'])
def test_a_damaged_lease_is_taken_after_watching_it(store, content):
    clock = Clock()
    store.content, store.generation, store.last = content, 7, 7
    make(store, clock).acquire()
    assert WATCH_SECONDS <= clock.now - 1e9 <= WATCH_SECONDS + 2
