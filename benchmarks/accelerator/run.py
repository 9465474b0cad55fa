"""Runs the parts one after another within a time budget, and writes what they measured."""

import argparse
import importlib.metadata
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import benchmarks.accelerator
from benchmarks.accelerator.plan import KINDS, Part, full, smoke
from benchmarks.accelerator.record import OUT_OF_TIME
from benchmarks.accelerator.report import page
from unet_jax.core.command_help import command_parser
from unet_jax.core.errors import EXIT_INTERRUPTED, UserError, print_error
from unet_jax.core.files import read_json, write_all, write_json

ROOT = pathlib.Path(__file__).parents[2]
LEAST = 15.0  # seconds below which no part is started
GRACE = 5.0  # seconds that a part has to end after SIGTERM; kept back from the budget
PROBE = Part("probe", "device", 90.0, {})
NOT_STARTED, RUNNING, INTERRUPTED = "not started", "running", "interrupted"


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns 0, 1 if a part failed, 2 for an error of use, 75 after a signal."""
    default = pathlib.Path(os.environ.get("OUT") or "runs/accelerator")
    parser = command_parser("benchmarks/accelerator.sh", benchmarks.accelerator.__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=default, help="folder to write")
    parser.add_argument("--minutes", type=float, default=9.0, help="time budget")
    parser.add_argument(
        "--part",
        metavar="KIND",
        choices=KINDS,
        action="append",
        help=f"{', '.join(KINDS)}; repeatable",
    )
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, on a CPU too")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    plan = smoke() if options.smoke else full()
    try:
        with tempfile.TemporaryDirectory(
            prefix="accelerator-", ignore_cleanup_errors=True
        ) as scratch:
            run = Run(options, [part for part in plan if part.kind in (options.part or KINDS)])
            return run.all_parts(pathlib.Path(scratch))
    except UserError as error:
        return print_error(error)
    except KeyboardInterrupt:  # between two parts
        return EXIT_INTERRUPTED


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


class Run:
    """One measurement.

    Args:
      options: the command line.
      parts: the parts, the most important first.
    """

    def __init__(self, options: argparse.Namespace, parts: Sequence[Part]):
        self._end = time.monotonic() + 60 * options.minutes - GRACE
        self._out, self._parts, self._smoke = options.out, parts, options.smoke
        self._out.mkdir(parents=True, exist_ok=True)
        self._log = self._out / "log.txt"
        self._log.write_bytes(b"")
        self._current = self._out / "running.json"  # of the part that is running
        self._content: dict[str, Any] = {
            "settings": {"minutes": options.minutes, "smoke": options.smoke},
            "device": {},
            "missing_packages": missing_packages(),
            "files_mib": files_mib(),
            "parts": [_entry(part, NOT_STARTED) for part in parts],
        }

    def all_parts(self, scratch: pathlib.Path) -> int:
        """Measures all parts, with temporary files in `scratch`; returns the exit code.

        Raises:
          UserError: there is no accelerator.
        """
        print(f"files to carry, without data: {self._content['files_mib']:.1f} MiB", flush=True)
        if missing := self._content["missing_packages"]:
            print(f"packages missing: {', '.join(missing)}", flush=True)
        self._write()
        device = self._measure(PROBE, scratch, PROBE.limit)
        self._current.unlink(missing_ok=True)
        if device["status"] == INTERRUPTED:
            return EXIT_INTERRUPTED
        if not device["summary"]:
            raise UserError(f"JAX finds no device: {device['status']}; see {self._log}")
        self._content["device"] = platform = device["summary"]
        if platform["platform"] == "cpu" and not self._smoke:
            raise UserError(
                "JAX finds no GPU or TPU: install it with support for yours, or add --smoke"
            )
        failed = False
        for index, part in enumerate(self._parts):
            limit = min(part.limit, self._end - time.monotonic())
            if limit < LEAST:
                entry = _entry(part, OUT_OF_TIME)
            else:
                self._content["parts"][index] = _entry(part, RUNNING)
                self._write()
                entry = self._measure(part, scratch, limit)
            self._content["parts"][index] = entry
            self._write()
            self._current.unlink(missing_ok=True)
            print(f"{part.kind}, {part.name}: {entry['status']}", flush=True)
            if entry["status"] == INTERRUPTED:
                return EXIT_INTERRUPTED
            failed |= entry["status"].startswith("failed")
        print(self._out / "results.md")
        return int(failed)

    def _write(self) -> None:
        write_json(self._out / "results.json", self._content)
        write_all({self._out / "results.md": page(self._content).encode()})

    def _measure(self, part: Part, scratch: pathlib.Path, seconds: float) -> dict[str, Any]:
        """Runs a part for at most `seconds`, and returns what it has recorded."""
        file = self._current.absolute()
        file.unlink(missing_ok=True)
        start = time.monotonic()
        command = [sys.executable, "-m", "benchmarks.accelerator.child", part.kind]
        command += [json.dumps(part.settings), str(file), str(seconds)]
        with self._log.open("ab") as log:
            log.write(f"--- {part.kind}, {part.name}\n".encode())
            log.flush()
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self._environment(part, scratch),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        try:
            code = process.wait(seconds)
            status = "complete" if code == 0 else f"failed: exit code {code}, see log.txt"
        except subprocess.TimeoutExpired:
            status = f"stopped: out of time after {seconds:.0f} s"
        except KeyboardInterrupt:
            status = INTERRUPTED
        finally:
            _end_group(process)
        content = read_json(file) if file.exists() else {}
        if "failed" in content:
            status = f"failed: {content['failed']}"
        found = {key: content.get(key, empty) for key, empty in (("rows", []), ("summary", {}))}
        return _entry(part, status) | found | {"seconds": time.monotonic() - start}

    def _environment(self, part: Part, scratch: pathlib.Path) -> dict[str, str]:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(scratch),  # PyTorch's compiled kernels too, which later parts use again
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # leaves memory for PyTorch
            "JAX_COMPILATION_CACHE_DIR": str(scratch / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        if part.kind == "roofline" and self._content["device"]["platform"] == "gpu":
            # The profiler attributes no time to the operations within a CUDA graph.
            flags = os.environ.get("XLA_FLAGS", "")
            environment["XLA_FLAGS"] = f"{flags} --xla_gpu_enable_command_buffer=".strip()
        return environment


def _entry(part: Part, status: str) -> dict[str, Any]:
    return {
        "kind": part.kind,
        "name": part.name,
        "status": status,
        "settings": part.settings,
        "rows": [],
        "summary": {},
    }


def _end_group(process: subprocess.Popen) -> None:
    """Ends a part and all processes that it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:  # all have ended
            return
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            continue


def missing_packages() -> list[str]:
    """Returns the packages of requirements.txt that are not installed, in any version."""
    missing = []
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if found := re.match(r"[A-Za-z0-9_.\-]+", line):
            try:
                importlib.metadata.distribution(found[0])
            except importlib.metadata.PackageNotFoundError:
                missing.append(found[0])
    return missing


def files_mib() -> float:
    """Returns the size of the files that the measurement needs, without data sets."""
    folders = ("benchmarks", "configs", "unet_jax")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    needed = [path for path in files if not {"__pycache__", "figures"} & set(path.parts)]
    return sum(path.stat().st_size for path in needed) / 2**20
