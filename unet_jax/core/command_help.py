"""The help of commands: the docstring of their module, which has examples, and one line a flag."""

import argparse
from typing import Any

WIDTH = 100  # columns of a help page
FIELDS = "docs/config-fields.md"  # documents the config fields


def command_parser(name: str, docstring: str | None) -> argparse.ArgumentParser:
    """Returns the parser of a command.

    Args:
      name: what starts the command, such as `python -m unet_jax.sweep`.
      docstring: that of its module, which explains the command and has an example.
    """
    return argparse.ArgumentParser(
        name, description=docstring, formatter_class=Formatter, allow_abbrev=False
    )


def describe_config(parser: argparse.ArgumentParser, config: bool = True) -> None:
    """Adds the flags that `commandline.load_config` parses to the help.

    Args:
      parser: the parser of a command, which passes its unknown arguments to `load_config`.
      config: whether `--config` is one of these.
    """
    path = "--config=configs/NAME.py[:VARIANT]  the experiment\n" if config else ""
    fields = f"--config.FIELD=VALUE                changes one of its fields; see {FIELDS}"
    parser.add_argument_group("experiment", path + fields)


class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of docstrings, and adds the default of a flag to its help."""

    def __init__(self, prog: str, **_: Any):
        super().__init__(prog, max_help_position=34, width=WIDTH)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        unset = action.default in (None, False) or isinstance(action.default, list)
        return action.help if unset else super()._get_help_string(action)
