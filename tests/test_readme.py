"""What the README says of the code is true."""

import pathlib
import re

import numpy as np
from PIL import Image

from configs import folder
from unet_jax.data import dataset
from unet_jax.data.files import pairs

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_file_tree_names_every_module_and_no_other():
    tree = README.split("```\nlaunch.py ")[1].split("```")[0]
    named = set(re.findall(r"[a-z0-9_]+\.py", tree))
    package = {path.name for path in (ROOT / "unet_jax").rglob("*.py")} - {"__init__.py"}
    benchmarks = {path.name for path in (ROOT / "benchmarks").glob("*.py")} - {"__init__.py"}
    assert package <= named
    assert benchmarks <= named
    assert named - package - benchmarks <= {"base.py", "test_launch.py"}


def test_the_table_of_experiments_names_every_config():
    named = set(re.findall(r"\(configs/([a-z0-9_]+)\.py\)", README))
    there = {path.stem for path in (ROOT / "configs").glob("*.py")} - {"__init__"}
    assert named == there


def test_links_to_files_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


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
