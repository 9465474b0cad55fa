"""The launcher as its users meet it: its exit code, what it prints and leaves.

`launch` and `start` run it in a process of its own; with `WITHOUT_PICTURES` as their `script` its
reports have none. `run_here` and `refused` run it in the test's process, which saves the seconds of
a start.
"""

import contextlib
import io
import json
import pathlib
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence

from absl import flags

import launch as launcher
from unet_jax.core.errors import EXIT_USER_ERROR
from unet_jax.runs.log import read_history

ROOT = pathlib.Path(__file__).parents[1]
LAUNCHER = "launch.py"
WITHOUT_PICTURES = "tests/launch_without_pictures.py"


def last_of_each(arguments: Iterable[object]) -> list[str]:
    """Of an override that is repeated the last one: tests change what a list of them has."""
    by_flag = {}
    for argument in map(str, arguments):
        flag = argument.partition("=")[0]
        by_flag[flag if flag.startswith("--config.") else argument] = argument
    return [*by_flag.values()]


def command(*arguments: object, script: str = LAUNCHER) -> list[str]:
    return [sys.executable, script, *last_of_each(arguments)]


def start(
    *arguments: object, script: str = LAUNCHER, before: Sequence[str] = (), **options
) -> subprocess.Popen:
    """Starts the launcher; `before` is a command that runs it, such as `taskset -c 0`."""
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | options
    return subprocess.Popen([*before, *command(*arguments, script=script)], cwd=ROOT, **settings)


def launch(*arguments: object, script: str = LAUNCHER) -> tuple[int, str]:
    process = start(*arguments, script=script)
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


@contextlib.contextmanager
def in_the_repository(folder: pathlib.Path = ROOT) -> Iterator[None]:
    """Runs a command in this process as in the repository, or in a folder with its `configs`."""
    sys.modules.pop("config_config", None)  # a second config would be loaded into the first's
    with contextlib.chdir(folder), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the load_module", DeprecationWarning)  # ml_collections
        yield


def parse_here(*arguments: object) -> flags.FlagValues:
    """Parses the launcher's command line, with its config; exits if it is wrong."""
    argv, values = command(*arguments)[1:], flags.FlagValues()
    with in_the_repository():
        launcher.define_flags(values, argv)
        launcher.parse_flags(argv, values)
    return values


def run_here(*arguments: object, folder: pathlib.Path = ROOT) -> tuple[int, str]:
    """Runs the launcher in this process, with flags of its own; returns what `launch` returns."""
    argv, values = command(*arguments)[1:], flags.FlagValues()
    launcher.define_flags(values, argv)
    output = io.StringIO()
    with (
        in_the_repository(folder),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        try:
            code = launcher.main(launcher.parse_flags(argv, values), values)
        except SystemExit as end:
            code = end.code
    return code, output.getvalue()


def refused(*arguments: object) -> str:
    """Runs the launcher in this process; returns the one line of its error."""
    code, output = run_here(*arguments)
    assert code == EXIT_USER_ERROR, output
    (line,) = output.strip().splitlines()
    assert line.startswith("error: ")
    return line


def examples(page: str, command: str) -> list[list[str]]:
    """The arguments of a command in each example of a page, which starts a line."""
    lines = re.sub(r"\\\n\s*", "", page).splitlines()
    found = [line.strip() for line in lines if f"{line.strip()} ".startswith(f"{command} ")]
    start = len(shlex.split(command))
    return [shlex.split(line, comments=True)[start:] for line in found]


def numbers(workdir: pathlib.Path) -> dict:
    return json.loads((workdir / "report.json").read_text())


def without_clock(lines: list[dict]) -> list[dict]:
    clock = ("time", "images_per_second")
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


def history(workdir: pathlib.Path) -> list[dict]:
    """What the run logged, without readings of a clock."""
    return without_clock(read_history(workdir))


def ignores(pid: int, signals: Iterable[int]) -> bool:
    """Whether a process ignores all of these signals."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    mask = int(status.split("SigIgn:")[1].split()[0], 16)
    return all(mask >> (number - 1) & 1 for number in signals)
