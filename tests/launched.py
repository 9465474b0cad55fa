"""The launcher as its users meet it: a subprocess, its exit code, what it prints and leaves."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Iterable

from unet_jax.runs.log import read_history

ROOT = pathlib.Path(__file__).parents[1]


def last_of_each(arguments: Iterable[object]) -> list[str]:
    """Of an override that is repeated the last one: tests change what a list of them has."""
    by_flag = {}
    for argument in map(str, arguments):
        flag = argument.partition("=")[0]
        by_flag[flag if flag.startswith("--config.") else argument] = argument
    return [*by_flag.values()]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "launch.py", *last_of_each(arguments)]


def start(*arguments: object, **options) -> subprocess.Popen:
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | options
    return subprocess.Popen(command(*arguments), cwd=ROOT, **settings)


def launch(*arguments: object) -> tuple[int, str]:
    process = start(*arguments)
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


def numbers(workdir: pathlib.Path) -> dict:
    return json.loads((workdir / "report.json").read_text())


def without_clock(lines: list[dict]) -> list[dict]:
    clock = ("time", "images_per_second")
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


def history(workdir: pathlib.Path) -> list[dict]:
    """What the run logged, without readings of a clock."""
    return without_clock(read_history(workdir))
