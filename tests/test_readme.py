"""What the README says of the code is true."""

import pathlib
import re

import numpy as np
import pytest
from PIL import Image
from test_imports import LAYERS

from configs import folder
from unet_jax.data import dataset
from unet_jax.data.files import pairs

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_table_of_experiments_names_every_config():
    named = set(re.findall(r"\(configs/([a-z0-9_]+)\.py\)", README))
    there = {path.stem for path in (ROOT / "configs").glob("*.py")} - {"__init__"}
    assert named == there


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_architecture_names_every_package_in_the_order_of_imports():
    table = (ROOT / "docs" / "architecture.md").read_text().split("| --- | --- |\n")[1]
    rows = [line for line in table.splitlines() if line.startswith("| [")]
    named = [tuple(re.findall(r"\[(\w+)\]\(", row)) for row in rows]
    assert [set(row) for row in named] == [set(row) for row in LAYERS]


def test_every_promise_names_tests_that_exist():
    table = README.split("## Never lose a run\n")[1].split("\n## ")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 20
    for promise, shown in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", shown)
        assert named or "TODO" in shown, promise
        for path, name in named:
            assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE), name


def test_a_data_set_in_ten_lines(tmp_path):
    code = re.search(r"```python\n(def open_mine.*?)```", README, re.DOTALL)[1]
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
