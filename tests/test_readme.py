"""What the README and the pages of docs/ say of the code is true."""

import importlib
import pathlib
import re

import numpy as np
import pytest
from PIL import Image
from test_imports import LAYERS

from configs import folder
from unet_jax.core.errors import UserError
from unet_jax.data import dataset
from unet_jax.data.files import pairs

ROOT = pathlib.Path(__file__).parents[1]
DATASETS = ROOT / "docs" / "datasets.md"


@pytest.mark.parametrize("page", [ROOT / "README.md", DATASETS], ids=lambda page: page.name)
def test_the_tables_of_experiments_name_every_config(page):
    named = set(re.findall(r"configs/([a-z0-9_]+)\.py\)", page.read_text()))
    there = {path.stem for path in (ROOT / "configs").glob("*.py")} - {"__init__", "base"}
    assert named - {"base"} == there


def test_the_options_of_the_experiments_exist():
    rows = re.findall(r"^\| \[`(\w+)\.py`\].*\| ?([^|]*?) ?\|$", DATASETS.read_text(), re.MULTILINE)
    assert len(rows) == 7
    for name, options in rows:
        module = importlib.import_module(f"configs.{name}")
        for option in re.findall("`([a-z_]+)`", options):
            try:
                module.get_config(option)
            except UserError as error:  # some options need another one
                assert "no such" not in str(error)
        if options:
            with pytest.raises(UserError, match=r"no such (option|variant)"):
                module.get_config("nonsense")


@pytest.mark.parametrize("name", sorted({p.stem for p in DATASETS.parents[1].glob("configs/*.py")}))
def test_the_table_names_every_option(name):
    try:
        importlib.import_module(f"configs.{name}").get_config("nonsense")
    except UserError as error:
        known = re.findall(r"[a-z_0-9]+", re.split("there (?:are|is)|give", str(error))[1])
        (row,) = re.findall(rf"^\| \[`{name}\.py`\].*", DATASETS.read_text(), re.MULTILINE)
        words = {"or", "one", "of", "and", "if", "wanted", "for", "two", "cores"}
        assert set(known) - words <= set(re.findall("`([a-z_0-9]+)`", row))
    except (TypeError, AttributeError):
        assert name in ("base", "demo", "__init__")


def test_the_architecture_names_every_package_in_the_order_of_imports():
    table = (ROOT / "docs" / "architecture.md").read_text().split("| --- | --- |\n")[1]
    rows = [line for line in table.splitlines() if line.startswith("| [")]
    named = [tuple(re.findall(r"\[(\w+)\]\(", row)) for row in rows]
    assert [set(row) for row in named] == [set(row) for row in LAYERS]


def test_every_promise_names_tests_that_exist():
    table = (ROOT / "docs" / "reliability.md").read_text()
    heads = ("| promise |", "| exit code |", "| --- |", "| ---: |")
    rows = [line for line in table.split("\n## ", 1)[1].splitlines() if line.startswith("| ")]
    rows = [line.split(" | ") for line in rows if not line.startswith(heads)]
    assert len(rows) >= 56
    for promise, shown in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", shown)
        assert named, promise
        for path, name in named:
            assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE), name


def test_a_data_set_in_ten_lines(tmp_path):
    code = re.search(r"```python\n(def open_mine.*?)```", DATASETS.read_text(), re.DOTALL)[1]
    assert len(code.splitlines()) <= 10
    names = vars(pairs) | vars(dataset) | {"ConfigDict": object}
    exec(code, names)
    rng = np.random.default_rng(0)
    for kind, top in (("images", 256), ("masks", 2)):
        (tmp_path / kind).mkdir()
        for i in range(10):
            pixels = rng.integers(0, top, (8, 9), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / f"{i}.png")
    data = folder.get_config().data
    data.root = str(tmp_path)
    opened = names["open_mine"](data)
    assert [len(split) for split in opened.splits.values()] == [7, 2, 1]
    assert opened.splits["train"][0]["label"].max() == 1
