"""Joins the source of a network and of all that it uses into a file that needs PyTorch only."""

import ast
import collections
import functools
import importlib
import pathlib
import re
import sys
from typing import NamedTuple

PROJECT = "unet_jax"


class Definition(NamedTuple):
    """A statement that binds a name at the top level of a module."""

    statement: ast.stmt
    source: str  # with its decorators


class Name(NamedTuple):
    """A name at the top level of a module."""

    module: str
    name: str


def standalone(loader: str, network: Name) -> str:
    """Returns the source of a loader with its network, which does not import this project.

    Args:
      loader: name of the loader's module. Its network is what it imports from this project.
      network: the class that takes the place of that network.

    Returns:
      The source of a Python file: the loader's docstring, imports, the classes and functions that
      the network uses, and the loader.
    """
    statements = ast.parse(_source(loader)).body
    (replaced,) = (
        alias.asname or alias.name
        for statement in statements
        if isinstance(statement, ast.ImportFrom) and _is_ours(statement.module)
        for alias in statement.names
    )
    imports: set[tuple[str, str, str]] = set()  # module, name or "", name in the file or ""
    found: dict[Name, str] = {}
    _collect(network, imports, found)
    own = []
    for statement in statements[1:]:  # the first is the docstring
        if isinstance(statement, ast.Import | ast.ImportFrom):
            imports |= {entry for entry in _imported(statement) if not _is_ours(entry[0])}
        else:
            own.append(_segment(loader, statement))
    docstring = _segment(loader, statements[0])
    body = re.sub(rf"\b{replaced}\b", network.name, "\n\n\n".join(own))
    return "\n\n\n".join([f"{docstring}\n\n{_lines(imports)}", *found.values(), body]) + "\n"


def _collect(name: Name, imports: set[tuple[str, str, str]], found: dict[Name, str]) -> None:
    """Adds a definition after all that it uses, and the imports of other packages."""
    if name in found:
        return
    definition = _definitions(name.module)[name.name]
    if isinstance(definition.statement, ast.Import | ast.ImportFrom):
        for module, original, alias in _imported(definition.statement):
            if name.name == (alias or original or module.partition(".")[0]):
                if _is_ours(module):
                    _collect(Name(module, original), imports, found)
                else:
                    imports.add((module, original, alias))
        return
    for node in ast.walk(definition.statement):
        if isinstance(node, ast.Name) and node.id in _definitions(name.module):
            used = Name(name.module, node.id)
            if used != name:
                _collect(used, imports, found)
    found[name] = definition.source


@functools.cache
def _source(module: str) -> str:
    return pathlib.Path(importlib.import_module(module).__file__ or "").read_text()


@functools.cache
def _definitions(module: str) -> dict[str, Definition]:
    """Returns the statements at the top level of a module by the names that they bind."""
    found = {}
    for statement in ast.parse(_source(module)).body:
        names = []
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            names = [statement.name]
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            names = [
                alias or original or imported.partition(".")[0]
                for imported, original, alias in _imported(statement)
            ]
        elif isinstance(statement, ast.Assign):
            names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
        found |= dict.fromkeys(names, Definition(statement, _segment(module, statement)))
    return found


def _segment(module: str, statement: ast.stmt) -> str:
    decorators = getattr(statement, "decorator_list", [])
    first = min([statement.lineno, *(decorator.lineno for decorator in decorators)])
    return "\n".join(_source(module).splitlines()[first - 1 : statement.end_lineno])


def _imported(statement: ast.Import | ast.ImportFrom) -> list[tuple[str, str, str]]:
    if isinstance(statement, ast.Import):
        return [(alias.name, "", alias.asname or "") for alias in statement.names]
    return [(statement.module or "", alias.name, alias.asname or "") for alias in statement.names]


def _is_ours(module: str | None) -> bool:
    return (module or "").partition(".")[0] == PROJECT


def _lines(imports: set[tuple[str, str, str]]) -> str:
    """Returns the import statements: those of the standard library, then the others."""
    whole, parts = [], collections.defaultdict(list)
    for module, name, alias in sorted(imports):
        suffix = f" as {alias}" if alias else ""
        if name:
            parts[module].append(f"{name}{suffix}")
        else:
            whole.append((module, f"import {module}{suffix}"))
    lines = whole + [(m, f"from {m} import {', '.join(names)}") for m, names in parts.items()]
    standard, others = [], []
    for module, line in lines:
        is_standard = module.partition(".")[0] in sys.stdlib_module_names
        (standard if is_standard else others).append(line)
    return "\n".join(standard) + "\n\n" + "\n".join(others)
