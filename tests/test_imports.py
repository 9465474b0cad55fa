"""The packages depend on one another in one direction, and few of them on JAX."""

import ast
import functools
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Each package may import those before it; packages of one row do not import one another.
LAYERS = (
    ("core",),
    ("metrics", "data", "distributed"),
    ("learning", "models"),
    ("runs",),
    ("reporting",),
    ("inference",),
    ("evaluation",),
    ("training",),
    ("interchange",),
)
LEVEL = {package: level for level, row in enumerate(LAYERS) for package in row}
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}


def modules() -> dict[str, pathlib.Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted((ROOT / "unet_jax").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def package(name: str) -> str:
    """unet_jax.data.files.tiff -> data; unet_jax.sweep, a command, has none."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LEVEL else ""


@functools.cache
def imports(name: str, everywhere: bool = True) -> frozenset[str]:
    """What a module imports: names of this project's modules, and of others' top packages.

    `everywhere` has the imports inside functions too; without, only those of importing the module.
    """
    tree = ast.parse(MODULES[name].read_text())
    nodes = ast.walk(tree) if everywhere else tree.body
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            inner = [f"{module}.{alias.name}" for alias in node.names]
            targets = [target if target in MODULES else module for target in inner]
        else:
            continue
        for target in targets:
            while target.startswith("unet_jax.") and target not in MODULES:
                target = target.rpartition(".")[0]
            found.add(target if target.startswith("unet_jax") else target.partition(".")[0])
    return frozenset(found)


def loaded(name: str) -> set[str]:
    """All that importing a module imports, the packages that it lies in included."""
    seen, rest = set(), [name]
    while rest:
        module = rest.pop()
        if module in seen:
            continue
        seen.add(module)
        if module in MODULES:
            parents = [module.rsplit(".", i)[0] for i in range(1, module.count(".") + 1)]
            rest += [*imports(module, everywhere=False), *parents]
    return seen


def test_every_package_has_a_place():
    folders = {path.name for path in (ROOT / "unet_jax").iterdir() if path.is_dir()}
    assert folders - {"__pycache__"} == set(LEVEL)


@pytest.mark.parametrize("name", [name for name in MODULES if package(name)])
def test_imports_point_downwards(name):
    own = package(name)
    for target in imports(name):
        other = package(target)
        allowed = not other or other == own or LEVEL[other] < LEVEL[own]
        assert allowed, f"{name} imports {target}"
        assert target not in ("launch", "benchmarks", "tests"), f"{name} imports {target}"


def test_no_module_imports_itself_through_others():
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name in done:
            return
        for target in imports(name, everywhere=False) & MODULES.keys():
            visit(target, (*way, name))
        done.add(name)

    for name in MODULES:
        visit(name, ())


@pytest.mark.parametrize("name", [n for n in MODULES if package(n) in ("data", "reporting")])
def test_data_and_reports_load_no_jax(name):
    assert not loaded(name) & JAX


def test_one_package_alone_uses_pmap():
    for name, path in MODULES.items():
        if package(name) != "distributed":
            names = {getattr(node, "attr", None) for node in ast.walk(ast.parse(path.read_text()))}
            assert "pmap" not in names, name
