"""The pages of the documentation are short, and their links, commands and names are right."""

import argparse
import ast
import functools
import importlib
import itertools
import pathlib
import re

import pytest
from absl import flags
from launched import parse_here
from ml_collections import ConfigDict
from pages import CODE_SPAN, GUIDES, PAGES, README, ROOT, anchors, links, path_of, prose
from pages import python_commands as commands_of

import launch
from configs import base
from unet_jax.runs.experiment import check
from unet_jax.runs.options import all_options

MAX_README, MAX_PAGE = 200, 300  # lines
COMMANDS = [(page.name, command) for page in GUIDES for command in commands_of(page.read_text())]
EXAMPLES = {"data.mask_threshold", "loss.generalized_dice_power"}  # of docs/extending*.md


@pytest.mark.parametrize("page", PAGES, ids=path_of)
def test_pages_are_short(page):
    limit = MAX_README if page == README else MAX_PAGE
    lines = page.read_text().splitlines()
    assert len(lines) <= limit, f"split by subject, at most {limit} lines"
    assert lines[0].startswith("# "), "begins with its title"


@pytest.mark.parametrize("page", PAGES, ids=path_of)
def test_links_lead_to_files_and_headings(page):
    for target in links(page.read_text()):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text()), target


def test_the_readme_leads_to_every_page():
    seen, new = set(), {README}
    while new:
        seen |= new
        targets = {
            (page.parent / link.partition("#")[0]).resolve()
            for page in new
            for link in links(page.read_text())
        }
        new = {target for target in targets if target.suffix == ".md"} - seen
    assert {path_of(page) for page in PAGES if page not in seen} == set()


class Parsed(Exception):
    """The arguments of a command are right."""


@pytest.fixture
def only_parse(monkeypatch):
    """Ends every command once argparse has parsed its arguments."""
    parse_args = argparse.ArgumentParser.parse_args
    parse_known_args = argparse.ArgumentParser.parse_known_args
    depth = [0]  # subparsers are called by their parser

    def wrap(parse):
        def parse_and_stop(self, arguments=None, namespace=None):
            depth[0] += 1
            try:
                result = parse(self, arguments, namespace)
            finally:
                depth[0] -= 1
            if depth[0]:
                return result
            raise Parsed(result[1] if isinstance(result, tuple) else [])

        return parse_and_stop

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", wrap(parse_args))
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", wrap(parse_known_args))


def check_config(arguments: list[str]) -> None:
    """Checks the fields of a command that trains, or the flags of one that reads a run."""
    config = parse_here(*arguments).config
    planned = any(":auto" in word for word in arguments)  # has fields without a value
    if isinstance(config, ConfigDict) and not planned and config.model.name != "link_unet":
        check(config)


def benchmark_flags(module: str) -> set[str]:
    """The flags that a module of `benchmarks` or its package defines; imports nothing."""
    path = ROOT / module.replace(".", "/")
    files = [*path.glob("*.py")] if path.is_dir() else [path.with_suffix(".py")]
    calls = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    return {
        argument.value
        for node in calls
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument"
        for argument in node.args
        if isinstance(argument, ast.Constant)
    }


@pytest.mark.parametrize(
    "command",
    [pytest.param(command, id=f"{page}: {' '.join(command)[:60]}") for page, command in COMMANDS],
)
def test_commands_have_modules_flags_and_fields_that_exist(command, only_parse):
    if command[0] == "launch.py":
        check_config(command[1:])
    elif command[0] == "-m" and command[1].startswith("unet_jax."):
        with pytest.raises(Parsed) as parsed:
            importlib.import_module(command[1]).main(command[2:])
        overrides = [word for word in parsed.value.args[0] if word.startswith("--config.")]
        assert overrides == parsed.value.args[0]
        configs = [word for word in command if word.startswith("--config=")]
        for config in configs:
            check_config([config, *overrides])
    elif command[0] == "-m" and command[1].startswith("benchmarks."):
        flags = {word.partition("=")[0] for word in command[2:] if word.startswith("--")}
        fields = {flag for flag in flags if flag.startswith("--config")}
        assert flags - fields <= benchmark_flags(command[1])
        if fields:
            check_config([word for word in command if word.startswith("--config")])
    else:
        assert command[:2] == ["-m", "pytest"] or command[0] in ("-c", "exported/load.py"), command


def spans(page: pathlib.Path) -> list[str]:
    """The code spans of a page, and the flags of its commands."""
    words = itertools.chain(*commands_of(page.read_text()))
    return [*CODE_SPAN.findall(prose(page.read_text())), *(x for x in words if x.startswith("--"))]


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_fields_and_flags_that_pages_name_exist(page):
    fields = {**base.FIELDS, **all_options()}
    sections = "|".join(sorted({name.partition(".")[0] for name in fields if "." in name}))
    field = re.compile(rf"(?:(?:--)?config\.)?((?:{sections})\.[a-z_0-9]+)(?:=.*)?")
    found = [match[1] for span in spans(page) if (match := field.fullmatch(span))]
    missing = {name for name in found if name not in fields} - EXAMPLES
    assert not missing
    written = [span for span in spans(page) if span.startswith("--") and "--xla_" not in span]
    named = {name for span in written for name in re.findall(r"(?:^| )--([a-z_]{2,})\b", span)}
    assert named <= launch_flags() | other_flags()


@functools.cache
def launch_flags() -> set[str]:
    values = flags.FlagValues()
    launch.define_flags(values, ["launch.py"])
    return set(values)


@functools.cache
def other_flags() -> set[str]:
    """The flags of all other commands of the repository."""
    files = [path for folder in ("unet_jax", "benchmarks") for path in (ROOT / folder).rglob("*")]
    code = "".join(path.read_text() for path in files if path.suffix in (".py", ".sh"))
    return set(re.findall(r"[\"' ]--([a-z_]+)", code))


def test_the_code_has_each_error_message_of_the_page():
    folder = ROOT / "unet_jax"
    code = "".join(path.read_text() for path in sorted(folder.rglob("*.py")))
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # joins the parts of a message
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| ", page.split("\n## Error messages\n")[1], re.MULTILINE)
    assert len(rows) > 25
    assert [row for row in rows if row not in code] == []
