"""The help of every command: it fits the screen, lists each flag once, and its examples parse."""

import argparse
import importlib
import inspect
import re
import sys

import pytest
from absl import flags
from launched import ROOT, examples, in_the_repository

import launch
from unet_jax.core.command_help import WIDTH
from unet_jax.interchange.registry import EXPORTERS
from unet_jax.runs.commandline import load_config


def commands() -> list[str]:
    """Every module that is a command."""
    found = []
    for path in (*ROOT.glob("unet_jax/**/*.py"), *ROOT.glob("benchmarks/**/*.py")):
        if '\nif __name__ == "__main__":\n' in path.read_text():
            found.append(".".join(path.relative_to(ROOT).with_suffix("").parts))
    return sorted(name.removesuffix(".__main__") for name in found)


OTHERS = {
    "unet_jax.reporting.report",  # unet_jax.report
    "benchmarks.peers.nnunet_recipe",  # as below, in the environment of nnU-Net
    "benchmarks.peers.smp_loop",  # in that of smp
    "benchmarks.accelerator.child",  # its arguments are those of the benchmark that starts it
    "unet_jax.interchange.stablehlo_loader",  # a file of exported networks
    "unet_jax.interchange.torch_twin.loader",
}
SUBCOMMANDS = {"unet_jax.prepare labels", "unet_jax.prepare voc"}
COMMANDS = sorted({*commands(), *SUBCOMMANDS} - OTHERS)


class Parsed(Exception):
    """Ends a command after its command line is parsed."""


@pytest.fixture
def parsers(monkeypatch):
    """The parsers that commands use, which end instead of returning."""
    found, depth = [], []

    def stopping(parse):
        def parse_and_stop(self, *arguments, **others):
            depth.append(self)
            found.append(self)
            try:
                parsed = parse(self, *arguments, **others)
            finally:
                depth.pop()
            if not depth:
                raise Parsed
            return parsed

        return parse_and_stop

    for name in ("parse_args", "parse_known_args"):
        monkeypatch.setattr(
            argparse.ArgumentParser, name, stopping(getattr(argparse.ArgumentParser, name))
        )
    return found


def run_command(name: str, arguments: list[str], monkeypatch) -> None:
    module, *first = name.split()
    loaded = importlib.import_module(module)
    if hasattr(loaded, "__path__"):
        loaded = importlib.import_module(f"{module}.__main__")
    monkeypatch.setattr(sys, "argv", [module, *first, *arguments])
    takes = inspect.signature(loaded.main).parameters
    loaded.main(*([[*first, *arguments]] if takes else []))


def check_command(name: str, parsers, monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        run_command(name, ["--help"], monkeypatch)
    assert not end.value.code
    page, parser = capsys.readouterr().out, parsers[-1]
    assert max(map(len, page.splitlines())) <= WIDTH
    listed = re.findall(r"^  (?:-h, )?(--[\w-]+)(?: \S.*?)?  +\S", page, re.MULTILINE)
    own = {option for option in parser._option_string_actions if option.startswith("--")}
    assert sorted(listed) == sorted(own)
    used = examples(page, parser.prog)
    assert used
    for arguments in used:
        with pytest.raises(Parsed):
            run_command(name, arguments, monkeypatch)
        overrides = [x for x in arguments if x.startswith("--config.")]
        for config in (x for x in arguments if x.startswith("--config=")):
            with in_the_repository():
                load_config([config, *overrides])


@pytest.mark.parametrize("name", [x for x in COMMANDS if x.startswith("unet_jax")])
def test_the_help_of_a_command(name, parsers, monkeypatch, capsys):
    check_command(name, parsers, monkeypatch, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", [x for x in COMMANDS if x.startswith("benchmarks")])
def test_the_help_of_a_benchmark(name, parsers, monkeypatch, capsys):
    check_command(name, parsers, monkeypatch, capsys)


def test_every_command_is_found():
    assert len(COMMANDS) > 25
    for name in OTHERS:
        assert importlib.util.find_spec(name)


def test_every_command_uses_the_same_layout():
    """A parser of its own would have another width, and a docstring without its lines."""
    for path in (*ROOT.glob("unet_jax/**/*.py"), *ROOT.glob("benchmarks/**/*.py")):
        made = "argparse.ArgumentParser(" in path.read_text()
        # Peers' environments need not have this project's packages.
        assert not made or path.name in ("command_help.py", "exchange.py"), path


def test_the_help_names_every_export_format():
    values = flags.FlagValues()
    launch.define_flags(values, ["launch.py"])
    flag = values["format"]
    assert set(re.findall(r"\w+", flag.help)) == set(EXPORTERS) - {flag.default}
