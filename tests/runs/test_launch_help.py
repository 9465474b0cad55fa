"""The help page of the launcher: its flags by subject, and examples that parse."""

import re

from absl import flags
from launched import examples, launch, parse_here, run_here

import launch as launcher
from unet_jax.core.command_help import WIDTH
from unet_jax.runs import launch_help

PAGE = run_here("--help")[1]
OWN = {flag.name for flag in flags.FLAGS.get_flags_for_module("launch")}


def test_the_help_of_the_launcher_is_what_it_prints():
    for flag in ("--help", "-h"):
        code, output = launch(flag) if flag == "--help" else run_here("--mode=eval", flag)
        assert not code and output == PAGE
    assert PAGE.startswith("usage: python launch.py") and "--helpfull" in PAGE
    assert max(map(len, PAGE.splitlines())) <= WIDTH


def test_the_help_of_the_launcher_has_each_flag_in_one_line():
    listed = re.findall(r"^  --(\w+)(?:=(\S+))?  +(.+)$", PAGE, re.MULTILINE)
    assert sorted(name for name, *_ in listed) == sorted(OWN)
    for name, value, text in listed:
        assert bool(value) != isinstance(flags.FLAGS[name], flags.BooleanFlag), name
        choices = getattr(flags.FLAGS[name].parser, "enum_values", ())
        assert all(choice in f"{value} {text}" for choice in choices), name
        group = next(group for group in launch_help.GROUPS if name in group.flags)
        modes = launcher.USES.get(name, ())
        suffix = f" ({', '.join(modes)})" if modes and modes != group.modes else ""
        assert text.endswith(f".{suffix}") or text.endswith(f"){suffix}."), name


def test_the_examples_of_the_launcher_parse_and_show_every_flag():
    shown = set()
    for arguments in examples(PAGE, "python launch.py"):
        if "--mode=MODE" not in arguments:  # the usage
            values = parse_here(*arguments)
            shown |= {name for name in OWN if values[name].present}
    assert shown == OWN
