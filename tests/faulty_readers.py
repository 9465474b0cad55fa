"""Readers that fail in each way that the fuzzer is to notice; its worker processes import this."""

import os
import pathlib
import signal
import time
from typing import Any

from benchmarks.robustness.judges import Reader, judge_sealed
from unet_jax.core.errors import UserError

VALID = bytes(range(64))


def make(folder: pathlib.Path) -> None:
    for name in "ab":
        (folder / name).write_bytes(VALID)


def faulty(fail: Any) -> Reader:
    """Reads valid files; of others it makes what `fail` does."""

    def read(path: pathlib.Path, folder: pathlib.Path) -> Any:
        content = path.read_bytes()
        return content if content == VALID else fail(content, folder)

    return Reader(make, read, judge_sealed)


def refuse(content: bytes, _: Any) -> Any:
    raise UserError("a file: is broken; mend it")


def raise_error(content: bytes, _: Any) -> Any:
    raise ValueError("two\nlines")


def say_much(content: bytes, _: Any) -> Any:
    raise UserError("two\nlines")


def say_nothing(content: bytes, _: Any) -> Any:
    raise UserError("")


def say_too_much(content: bytes, _: Any) -> Any:
    raise UserError("x" * 100_000)


def crash(content: bytes, _: Any) -> Any:
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(content: bytes, _: Any) -> Any:
    time.sleep(600)


def devour(content: bytes, _: Any) -> Any:
    raise UserError(f"a file: has {len(bytearray(200 * 2**20))} bytes, which are too many")


def run_out(content: bytes, _: Any) -> Any:
    return bytearray(2**36)


def misread(content: bytes, _: Any) -> Any:
    return VALID[:8]


READERS = {
    "good": faulty(refuse),
    "lenient": faulty(lambda content, _: VALID),
    "raises": faulty(raise_error),
    "two lines": faulty(say_much),
    "no line": faulty(say_nothing),
    "long line": faulty(say_too_much),
    "crashes": faulty(crash),
    "hangs": faulty(hang),
    "devours": faulty(devour),
    "runs out": faulty(run_out),
    "misreads": faulty(misread),
    "unready": Reader(make, raise_error, judge_sealed),
}
