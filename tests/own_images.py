"""The commands of docs/your-own-images.md and its reference, and what the pages say they print."""

import dataclasses
import pathlib
import re
import shlex

DOCS = pathlib.Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "your-own-images.md").read_text()
LAYOUTS = (DOCS / "data-layouts.md").read_text()
BLOCK = r"```{}\n(.*?)```"
LAYOUT = re.compile(
    r"<!-- layout: (\w+) -->\n" + BLOCK.format("sh") + r"\n+" + BLOCK.format("text"), re.DOTALL
)
FILE = re.compile(r"<!-- file: (\S+) -->\n" + BLOCK.format("text"), re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Shown:
    """What the page shows of a layout."""

    commands: list[list[str]]  # the arguments after `python`
    notes: list[str]  # lines that the start prints


def shown_layouts() -> dict[str, Shown]:
    """What docs/data-layouts.md shows of each layout, by name."""
    return {
        name: Shown(commands_of(block), [line for line in notes.splitlines() if line != "..."])
        for name, block, notes in LAYOUT.findall(LAYOUTS)
    }


def shown_files() -> dict[str, str]:
    """The files that the page has users write, by path."""
    return dict(FILE.findall(LAYOUTS))


def shortest_way() -> list[list[str]]:
    """The commands of the page's first section: the arguments after `python`."""
    section = PAGE.split("\n## The shortest way\n")[1].split("\n## ")[0]
    return commands_of("".join(re.findall(BLOCK.format("sh"), section, re.DOTALL)))


def commands_of(block: str) -> list[list[str]]:
    """Splits a block of commands into arguments, which a plan does not change.

    What `:auto` chooses depends on the machine, so that the commands are run without it.
    """
    lines = [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]
    assert all(line[0] == "python" for line in lines)
    return [[x.replace("folder.py:auto", "folder.py") for x in line[1:]] for line in lines]
