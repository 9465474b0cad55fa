"""Parsing of the command line: the flags of each mode, a config and its overrides.

Every error is reported in one line. Importing this module does not import jax, so that `--help`
and a mistyped flag are answered immediately.
"""

import ast
import os
import pathlib
import re
import traceback
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from configs import base
from unet_jax.core.config import flatten
from unet_jax.core.errors import UserError
from unet_jax.core.fields import KINDS, Field, add_defaults, expected, no_such_field, show

PLATFORMS = ("cpu", "gpu", "tpu")  # that JAX may compute on
CONFIGS = pathlib.Path(base.__file__).parent
_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]*)(=?)")
_TEXTS = re.compile(r"[(\[]?\s*(\w+(?:\s*,\s*\w+)*)\s*,?\s*[)\]]?")  # without quotes
_CONFIG = re.compile(r"--?config(?:=|$)")


def parse(
    values: flags.FlagValues, argv: Sequence[str], modes_of_runs: Collection[str] = ()
) -> None:
    """Parses the command line and loads its `--config`.

    Without `--config`, overrides change the config of the run in `--workdir`. `values.config` is
    then a dict of the overridden fields by dotted name.

    Args:
      values: the flags; they get the parsed values.
      argv: the command line, starting with the program's name.
      modes_of_runs: the values of `--mode` that may change the config of a run.

    Raises:
      UserError: a flag is unknown, repeated or has an invalid value, an argument is not a flag, the
        config cannot be loaded or lacks an overridden field, or there is no config to change.
    """
    arguments, path, known, changes_run = argv[1:], None, base.FIELDS, False
    try:
        arguments = values.read_flags_from_files(argv[1:], force_gnu=False)
        path = _config_path(arguments)
        changes_run = path is None and bool(_overrides(arguments))
        if changes_run:  # the fields of base.py define the types of the overrides
            path = str(CONFIGS / "base.py")
            arguments = [f"--config={path}", *arguments]
        known = _known_fields(values, arguments, path)
        _check_overrides(arguments, known)
        arguments = [_with_quoted_texts(argument, known) for argument in arguments]
        _add_options(values["config"], arguments, known)
        rest = values([argv[0], *arguments])[1:]
        if path is not None:
            getattr(values["config"].value, "lock", None)  # raises if loading has failed
    except UserError:
        raise
    except Exception as error:  # a config is code, and may raise anything
        raise UserError(_describe(error, arguments, path, known)) from error
    for name in values:
        flag = values[name]
        if flag.present > 1 and not isinstance(flag, flags.MultiFlag):
            raise UserError(f"--{name} is given {flag.present} times; give it once")
    if rest:
        raise UserError(
            f"{rest[0]!r}: not a flag; write every argument as --name=value, see --help"
        )
    if path is not None and not isinstance(values["config"].value, ConfigDict):
        raise UserError(f"--config={path}: get_config() must return a ConfigDict")
    if changes_run:
        _check_run(values, _overrides(arguments)[0][1], modes_of_runs)
        values["config"].value = config_flags.get_override_values(values["config"])


def check_mode(values: flags.FlagValues, uses: Mapping[str, Sequence[str]], mode: str) -> None:
    """Checks that the mode uses all flags that are given.

    Args:
      values: the parsed flags.
      uses: the modes that use a flag, by its name; every mode uses a flag that is missing here.
      mode: the value of `--mode`.

    Raises:
      UserError: a flag is given that the mode does not use.
    """
    for name, modes in uses.items():
        if values[name].present and mode not in modes:
            raise UserError(
                f"--{name}: --mode={mode} does not use it, only {', '.join(modes)}; leave it out"
            )


def require(values: flags.FlagValues, names: Sequence[str], mode: str) -> None:
    """Checks that the flags that a mode needs are given.

    Args:
      values: the parsed flags.
      names: the flags that the mode needs.
      mode: the value of `--mode`.

    Raises:
      UserError: one of the flags is missing.
    """
    if any(values[name].value is None for name in names):
        *others, last = (f"--{name}" for name in names)
        raise UserError(f"--mode={mode} needs {', '.join(others)} and {last}")


def load_config(arguments: Sequence[str]) -> ConfigDict:
    """Loads the config of a command that has no other absl flags.

    Args:
      arguments: `--config=configs/NAME.py[:VARIANT]` and `--config.FIELD=VALUE`, as for
        `launch.py`.

    Raises:
      UserError: as `parse`, or there is no `--config`.
    """
    values, command = flags.FlagValues(), ["", *arguments]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=command)
    parse(values, command)
    if values.config is None:
        raise UserError("no --config: give --config=configs/NAME.py[:VARIANT]")
    return values.config


def _overrides(arguments: Sequence[str]) -> list[re.Match[str]]:
    return [match for argument in arguments if (match := _OVERRIDE.match(argument))]


def _known_fields(
    values: flags.FlagValues, arguments: Sequence[str], path: str | None
) -> Mapping[str, Field]:
    """Returns the fields that can be overridden: those of base.py, and options.

    The config is loaded only if the command line has a field that is not in base.py. The registries
    of data sets, networks and losses, which import jax, are needed only if the config lacks it,
    too.
    """
    names = {match[1] for match in _overrides(arguments)}
    if path is None or names <= base.FIELDS.keys():
        return base.FIELDS
    config = values["config"].parser.parse(path)
    own = flatten(config) if isinstance(config, ConfigDict) else {}
    typed = {name: tuple(x) if isinstance(x, list) else x for name, x in own.items()}
    options = {name: Field(x) for name, x in typed.items() if type(x) in KINDS}
    known = base.FIELDS | {name: x for name, x in options.items() if name not in base.FIELDS}
    if names <= known.keys():
        return known
    from unet_jax.runs.options import all_options

    return known | {name: x for name, x in all_options().items() if name not in known}


def _add_options(flag: flags.Flag, arguments: Sequence[str], known: Mapping[str, Field]) -> None:
    """Adds the options that are overridden, with their defaults, to a config that lacks them."""
    names = {match[1] for match in _overrides(arguments)} - base.FIELDS.keys()
    if names:
        options = {name: field for name, field in known.items() if name in names}
        flag.parser = _ParserWithOptions(flag.parser, options)


class _ParserWithOptions(flags.ArgumentParser):
    """Loads a config as another parser does, and adds fields that it lacks."""

    def __init__(self, parser: flags.ArgumentParser, options: Mapping[str, Field]):
        self._parser, self._options = parser, options

    def parse(self, argument: str) -> Any:
        config = self._parser.parse(argument)
        return add_defaults(config, self._options) if isinstance(config, ConfigDict) else config

    def flag_type(self) -> str:
        return self._parser.flag_type()


def _check_overrides(arguments: Sequence[str], known: Mapping[str, Field]) -> None:
    """Raises `UserError` if a `--config.FIELD` is not a field, is no tuple or is repeated."""
    overrides = _overrides(arguments)
    for match in overrides:
        if match[1] not in known:
            raise UserError(f"--config.{match[1][:200]}: {no_such_field(match[1], known)}")
        if isinstance(known[match[1]].default, tuple) and match[2]:
            _check_tuple(match[1], known[match[1]], match.string[match.end() :])
    for name, times in Counter(match[1] for match in overrides).items():
        if times > 1:
            raise UserError(f"--config.{name} is given {times} times; give it once")


def _check_run(values: flags.FlagValues, field: str, modes: Collection[str]) -> None:
    """Raises `UserError` if there is no run whose config an override can change."""
    if "mode" not in values or values.mode not in modes:
        raise UserError(f"--config.{field}: there is no config to change; add --config=PATH")
    if not values.workdir:
        raise UserError(
            f"--config.{field}: there is no config to change; add --config=PATH, or --workdir=RUN "
            f"to change that of a run"
        )


def _with_quoted_texts(argument: str, known: Mapping[str, Field]) -> str:
    """Quotes the texts of a tuple: --config.eval.metrics=a,b becomes ...=('a', 'b')."""
    match = _OVERRIDE.match(argument)
    if not match or not match[2] or not isinstance(known[match[1]].default, tuple):
        return argument
    value = argument[match.end() :]
    texts = _TEXTS.fullmatch(value)
    try:
        ast.literal_eval(value)
    except ValueError:
        if texts:
            return f"{match[0]}{tuple(text.strip() for text in texts[1].split(','))}"
    except SyntaxError:
        pass  # a single text, such as a pattern, needs no quotes
    return argument


def _check_tuple(name: str, field: Field, value: str) -> None:
    """Raises `UserError` if Python cannot parse the value of a tuple field."""
    try:
        ast.literal_eval(value)
    except ValueError:
        return  # a single text needs no quotes
    except (MemoryError, RecursionError, SyntaxError) as error:
        raise UserError(
            f"--config.{name}={show(value)[1:-1]}: must be {expected(field)}"
        ) from error


def _config_path(arguments: Sequence[str]) -> str | None:
    """Returns the value of `--config`, or None; raises `UserError` if its file does not exist."""
    positions = [i for i, argument in enumerate(arguments) if _CONFIG.match(argument)]
    if len(positions) > 1:
        raise UserError(f"--config is given {len(positions)} times; give it once")
    if not positions:
        return None
    _, equals, path = arguments[positions[0]].partition("=")
    if not equals:
        path = next(iter(arguments[positions[0] + 1 :]), "")
    file = path.partition(":")[0]
    if not os.path.isfile(file):  # reading a device or a pipe might never end
        available = ", ".join(sorted(p.name for p in CONFIGS.glob("*.py") if p.stem != "__init__"))
        raise UserError(f"--config={path}: no such file; configs/ has {available}")
    return path


def _describe(
    error: Exception, arguments: Sequence[str], path: str | None, known: Mapping[str, Field]
) -> str:
    """Explains in one line why the command line was not parsed or the config not loaded."""
    if path is not None and (explanation := _describe_config(error, path)):
        return explanation
    message = " ".join(str(error).split())
    match = re.match(r"flag --config\.([^=]*)=", message)
    if match and (field := known.get(match[1])):
        given = [x.partition("=")[2] for x in arguments if x.startswith(f"--config.{match[1]}=")]
        value = show("".join(given))[1:-1]
        return f"--config.{match[1]}={value}: must be {expected(field)}"
    if isinstance(error, flags.Error):
        return message
    return f"--config={path}: {type(error).__name__}: {message}"


def _describe_config(error: BaseException, path: str) -> str | None:
    """Explains where and how the config's own code failed; None if other code failed."""
    file, _, variant = path.partition(":")
    chain = [error]
    while link := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(link)
    for link in chain:
        if isinstance(link, UserError):
            return str(link)
        if isinstance(link, SyntaxError) and os.path.basename(file) in str(link):
            return f"{file}, line {link.lineno}: SyntaxError: {link.msg}"
        frames = traceback.extract_tb(link.__traceback__)
        if own := [f for f in frames if os.path.abspath(f.filename) == os.path.abspath(file)]:
            message = " ".join(str(link).split())
            return f"{file}, line {own[-1].lineno}: {type(link).__name__}: {message}"
    if "get_config" in str(link) and isinstance(link, AttributeError):
        return f"{file}: has no function get_config(); see configs/demo.py"
    if "get_config" in str(link) and isinstance(link, TypeError):
        return f"--config={path}: {file} {'takes no' if variant else 'needs'} options after a colon"
    return None
