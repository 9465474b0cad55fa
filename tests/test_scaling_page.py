"""The numbers of docs/scaling.md are those that its command gives."""

import argparse
import dataclasses
import json
import pathlib
import re
import shlex

import pytest

from benchmarks.tpu import chips
from configs import isbi, voc

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "scaling.md").read_text()
CONFIGS = {"isbi": isbi.get_config(), "voc": voc.get_config()}


def commands(text: str) -> list[list[str]]:
    """Returns the words of the commands of a text."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def rows(text: str) -> list[list[str]]:
    """Returns the cells of the rows of the tables of a text, without their heads."""
    lines = [line.strip("| ") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split(" | ")] for line in lines]


def compiled() -> dict[str, dict]:
    """Returns what the page says of the compiled steps, as in the file of benchmarks.tpu."""
    table = rows(PAGE.split("## The compiled steps\n")[1].split("\n## ")[0])
    found = {}
    for column, name in enumerate(table[0][1:], 1):
        step: dict = {"topology": "v5e:2x4", "collectives": {}, "evaluate": {}}
        for row in table[2:]:
            *parents, key = row[0].strip("`").split(".")
            place = step[parents[0]] if parents else step
            place[key] = json.loads(row[column])
        found[name.strip("`")] = step
    return found


def cluster_of(command: list[str]) -> chips.Cluster:
    parser = argparse.ArgumentParser()
    chips.add_flags(parser)
    return chips.Cluster(**vars(parser.parse_args(command)))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_tables_are_those_that_the_command_prints(name):
    section = PAGE.split(f"\n## Example: `{name}.py`")[1].split("\n## ")[0]
    (command,) = commands(section)
    assert command[:4] == ["python", "-m", "benchmarks.tpu.chips", f"{name}.json"]
    step, cluster = compiled()[name], cluster_of(command[4:])
    columns = [chips.estimate(step, CONFIGS[name], cluster, n) for n in (8, 64, 256)]
    printed = rows(chips.format_columns(columns, (8, 64, 256)))
    assert rows(section) == printed


def test_the_defaults_are_those_of_the_page():
    table = rows(PAGE.split("## With your own numbers\n")[1].split("\n## ")[0])
    stated = {row[0].strip("`-"): float(row[1]) for row in table[2:]}
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(chips.Cluster)
        if field.default is not dataclasses.MISSING
    }
    assert stated == defaults
