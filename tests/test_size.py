"""Files and functions stay short enough to read: at most 400 and 80 lines."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ("unet_jax", "configs", "benchmarks", "tests")
MAX_FILE, MAX_FUNCTION = 400, 80  # lines


def python_files() -> list[pathlib.Path]:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return sorted([*files, ROOT / "launch.py"])


def functions(source: str) -> list[tuple[str, int, int]]:
    """Returns name, first line and number of lines of each function, without its decorators."""
    return [
        (node.name, node.lineno, (node.end_lineno or 0) - node.lineno + 1)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_the_lines_of_functions_are_counted():
    source = (
        "@decorated\ndef outer():\n    def inner(): ...\n    return 1\n\nasync def last(): ...\n"
    )
    assert sorted(functions(source)) == [("inner", 3, 1), ("last", 6, 1), ("outer", 2, 3)]


def test_files_are_short():
    lengths = {path: len(path.read_text().splitlines()) for path in python_files()}
    assert len(lengths) > 100
    long = [f"{path.relative_to(ROOT)}: {n} lines" for path, n in lengths.items() if n > MAX_FILE]
    assert not long, f"split by subject, at most {MAX_FILE} lines: {long}"


def test_functions_are_short():
    long = [
        f"{path.relative_to(ROOT)}:{line}: {name} has {lines} lines"
        for path in python_files()
        for name, line, lines in functions(path.read_text())
        if lines > MAX_FUNCTION
    ]
    assert not long, f"split into functions of at most {MAX_FUNCTION} lines: {long}"
