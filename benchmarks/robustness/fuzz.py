"""Fuzzes all readers: each damaged or hostile file must be read, or refused in one line.

python -m benchmarks.robustness.fuzz --files=10000 --processes=2 --readers=png,tiff --out=fuzz.json

Mutates valid files of every format (`readers.py`, `mutate.py`) and reads them in child processes,
which may crash, hang or exhaust their memory. These outcomes are failures, as are an error other
than a `UserError` of one line, and undetected damage where it can be judged (see `judges.py`).
Files that fail are kept in the folder --keep. To reproduce a failure, use
--readers=NAME --first=NUMBER --files=1.
"""

import concurrent.futures
import dataclasses
import importlib
import json
import multiprocessing
import os
import pathlib
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.process_memory import process_memory_mib
from benchmarks.robustness import mutate
from benchmarks.robustness.judges import Trial
from unet_jax.core.command_help import command_parser
from unet_jax.core.errors import UserError

FAILURES = ("exception", "message", "misread", "crash", "hang", "memory")
OUTCOMES = ("read", "refused", *FAILURES)
START_SECONDS = 300  # time limit for imports and for reading the valid files
LONGEST = 1000  # most characters of an error message
MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Options:
    """Seed and limits of a fuzzing run."""

    seed: int = 0
    seconds: float = 10  # time limit for a file
    mib: int = 1024  # memory limit for reading a file, in MiB
    keep: pathlib.Path | None = None  # folder for the files that fail
    module: str = "benchmarks.robustness.readers"  # module with READERS


@dataclasses.dataclass(frozen=True)
class Found:
    """The outcome of reading one mutated file."""

    reader: str
    index: int
    outcome: str
    about: str  # the error message, or where reading failed
    mutation: str = ""
    seconds: float = 0
    mib: float = 0


def fuzz(jobs: Sequence[tuple[str, int]], options: Options, processes: int) -> list[Found]:
    """Reads mutated files.

    Args:
      jobs: the mutated files, each as the name of its reader and a number that seeds the mutation.
      options: seed and limits.
      processes: number of child processes that read in parallel.

    Returns:
      The outcomes, grouped by child process.

    Raises:
      SystemExit: a reader refuses its valid files.
    """
    with concurrent.futures.ThreadPoolExecutor(processes) as pool:
        parts = pool.map(lambda i: [*_supervise(jobs[i::processes], options)], range(processes))
        return [found for part in parts for found in part]


def _supervise(jobs: Sequence[tuple[str, int]], options: Options) -> Iterator[Found]:
    """Reads the jobs in one child process, which is replaced after a crash or a hang."""
    context: Any = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        process: Any = None
        connection: Any = None
        left, ready = list(jobs)[::-1], set()
        while left:
            name, index = left.pop()
            if process is None:
                connection, child_end = context.Pipe()
                process = context.Process(target=_work, args=(child_end, options, scratch))
                process.start()
                child_end.close()
                ready.clear()
            connection.send((name, index))
            try:
                if name not in ready:
                    if wrong := _receive(connection, START_SECONDS):
                        raise SystemExit(f"{name}: the valid files are not read:\n{wrong}")
                    ready.add(name)
                found = _receive(connection, options.seconds)
            except (EOFError, ConnectionError, TimeoutError) as error:
                hung = isinstance(error, TimeoutError)
                process.kill() if hung else None
                process.join()
                about = f"over {options.seconds:g} s" if hung else f"exit code {process.exitcode}"
                found = Found(name, index, "hang" if hung else "crash", about)
                process = None
            if found.outcome in FAILURES and options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                for last in pathlib.Path(scratch).glob("last-*"):
                    shutil.copy(last, options.keep / f"{name}-{index}-{last.name[5:]}")
            yield found
        if process is not None:
            process.kill()
            process.join()


def _receive(connection: Any, seconds: float) -> Any:
    if not connection.poll(seconds):
        raise TimeoutError
    return connection.recv()


def _work(connection: Any, options: Options, scratch: str) -> None:
    """Sends a `Found` for each job and, before a reader's first, "" if its valid files are read."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    readers = importlib.import_module(options.module).READERS
    benches: dict[str, Bench] = {}
    while True:
        name, index = connection.recv()
        if name not in benches:
            folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=scratch))
            try:
                benches[name] = Bench(name, readers[name], folder, options)
            except Exception:
                connection.send(traceback.format_exc())
                raise
            connection.send("")
        connection.send(benches[name].read(index))


class Bench:
    """The valid files of a reader, in their own folder, and the results of reading them."""

    def __init__(self, name: str, reader: Any, scratch: pathlib.Path, options: Options):
        self.name, self.reader, self.options = name, reader, options
        self.scratch, self.folder = scratch, scratch / "files"
        self.folder.mkdir()
        reader.make(self.folder)
        paths = sorted(path for path in self.folder.glob(reader.targets) if path.is_file())
        self.contents = {path: path.read_bytes() for path in paths}
        self.expected = {path: reader.read(path, self.folder) for path in paths}
        for path, content in self.contents.items():
            path.write_bytes(content)

    def read(self, index: int) -> Found:
        """Mutates a file, reads it, and restores the original."""
        rng = random.Random(f"{self.options.seed} {self.name} {index}")
        path, other = rng.choices([*self.contents], k=2)
        content, sealed = self.contents[path], True
        names = []
        for _ in range(rng.choice((1, 1, 1, 2))):
            if sealed := not (self.reader.repaired and rng.randrange(2)) and sealed:
                mutation = rng.choice(self.reader.mutations)
            else:
                mutation = rng.choice(self.reader.repaired)
            names.append(mutation.__name__)
            try:
                content = mutation(content, self.contents[other], rng)
            except Exception:  # the previous mutation broke the format
                content = mutate.flip(content, b"", rng)
        for last in self.scratch.parent.glob("last-*"):
            last.unlink()
        (self.scratch.parent / f"last-{path.name}").write_bytes(content)
        path.write_bytes(content)
        _start_measuring(self.options.mib)
        began, before = time.perf_counter(), process_memory_mib("VmRSS")
        try:
            result = self.reader.read(path, self.folder)
            about = self._judge(path, content, result, sealed)
            outcome = "misread" if about else "read"
        except UserError as error:
            outcome, about = "refused", str(error)
            if not about.strip() or len(about.splitlines()) > 1 or len(about) > LONGEST:
                outcome = "message"
        except Exception as error:
            outcome, about = "exception", f"{error!r:.200} {_place(error)}"
        seconds, mib = time.perf_counter() - began, process_memory_mib("VmHWM") - before
        if mib > self.options.mib:
            outcome, about = "memory", f"{mib:.0f} MiB; {about:.100}"
        path.write_bytes(self.contents[path])
        return Found(self.name, index, outcome, about, "+".join(names), seconds, mib)

    def _judge(self, path: pathlib.Path, content: bytes, result: Any, sealed: bool) -> str:
        if content in self.contents.values():
            return ""
        trial = Trial(self.contents[path], content, result, self.expected[path], sealed)
        return self.reader.judge(trial)


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{pathlib.Path(f.filename).name}:{f.lineno}" for f in frames[:-4:-1])


def _start_measuring(mib: int) -> None:
    """Resets the peak memory, and limits the address space to protect the machine."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    room = (process_memory_mib("VmSize") + 4 * mib) * MIB
    resource.setrlimit(resource.RLIMIT_AS, (int(room), resource.getrlimit(resource.RLIMIT_AS)[1]))


def table(found: Sequence[Found]) -> str:
    """Tabulates the number of files by reader and outcome, the longest time and the peak memory."""
    heads = ["reader", "files", *OUTCOMES, "longest, s", "most, MiB"]
    lines = [f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for name in [*dict.fromkeys(x.reader for x in found), "all"]:
        rows = [x for x in found if name in (x.reader, "all")]
        counts = Counter(x.outcome for x in rows)
        cells = [len(rows), *(counts[outcome] for outcome in OUTCOMES)]
        cells += [f"{max(x.seconds for x in rows):.2f}", f"{max(x.mib for x in rows):.0f}"]
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Fuzzes the chosen readers and prints a table and the failures; returns 1 if any failed."""
    parser = command_parser("python -m benchmarks.robustness.fuzz", __doc__)
    group = parser.add_argument_group("files")
    group.add_argument(
        "--files", type=int, default=10_000, help="number of mutated files, over all readers"
    )
    group.add_argument("--seed", type=int, default=0, help="seeds the mutations")
    group.add_argument("--readers", help="readers to test, as NAME,NAME; default: all")
    group.add_argument("--first", type=int, default=0, help="number of each reader's first file")
    group = parser.add_argument_group("limits")
    group.add_argument("--seconds", type=float, default=10, help="time limit for a file")
    group.add_argument("--mib", type=int, default=1024, help="memory limit for a file, MiB")
    group.add_argument("--processes", type=int, default=1, help="number of child processes")
    group = parser.add_argument_group("output")
    group.add_argument(
        "--keep", type=pathlib.Path, help="folder in which to keep the files that fail"
    )
    group.add_argument("--out", type=pathlib.Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    known = [*importlib.import_module(Options.module).READERS]
    names = options.readers.split(",") if options.readers else known
    if unknown := set(names) - {*known}:
        parser.error(
            f"--readers: {', '.join(sorted(unknown))}: unknown; choose from {', '.join(known)}"
        )
    each = -(-options.files // len(names))
    jobs = [(name, options.first + i) for name in names for i in range(each)]
    fuzz_options = Options(options.seed, options.seconds, options.mib, options.keep)
    found = sorted(
        fuzz(jobs, fuzz_options, options.processes), key=lambda x: (names.index(x.reader), x.index)
    )
    print(table(found))
    failures = [x for x in found if x.outcome in FAILURES]
    for x in failures:
        print(
            f"{x.outcome}: --seed={options.seed} --readers={x.reader} --first={x.index}: {x.about}"
        )
    if options.out:
        kept = [dataclasses.asdict(x) for x in failures]
        counts = {n: Counter(x.outcome for x in found if x.reader == n) for n in names}
        options.out.write_text(json.dumps({"counts": counts, "failures": kept}, indent=1) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
