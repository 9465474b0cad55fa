"""The options that follow the colon of `--config`, and the recipe that `best` stands for."""

import importlib
import pathlib
import re

import pytest
from hypothesis import given, strategies

from configs import base, drive, ph2
from unet_jax.core.errors import UserError
from unet_jax.runs.experiment import check

README = pathlib.Path(__file__).parents[2] / "README.md"
OPTIONS = strategies.lists(strategies.sampled_from(["a", "b", "c"]))


@pytest.mark.parametrize("name", ["isbi", "drive", "ph2", "voc"])
def test_the_docstring_of_best_has_the_time_and_the_score_of_the_readme(name):
    module = importlib.import_module(f"configs.{name}")
    assert module.get_config("best").to_dict() == module.get_config(module.BEST).to_dict()
    docstring = " ".join(module.__doc__.split("`best` is ")[1].split("\n\n")[0].split())
    (row,) = re.findall(rf"^.*\[`{name}\.py`\].*`:best` .*$", README.read_text(), re.MULTILINE)
    score = re.search(r"\*\*(0\.\d+)\*\*", row)[1]
    minutes = re.search(r"\| (\d+(?: to \d+)?) min", row)[1]
    lowest, highest = re.search(r"seeds,? (0\.\d+) – (0\.\d+)", row).groups()
    assert docstring.startswith(f"`{module.BEST}`")
    assert re.search(rf" {minutes} minutes", docstring)
    assert re.search(rf" {score} .*[ (]{lowest} to {highest} over three seeds", docstring)


def test_options_after_best_change_the_recipe():
    best, other = drive.get_config("best"), drive.get_config("best,dice")
    assert (best.loss.name, other.loss.name) == ("bce+dice", "dice")
    assert ph2.get_config("best,dice").loss.name == "dice"
    assert ph2.get_config("best,dice,bce").loss.name == "bce"
    for config in (best, other, ph2.get_config("best,dice")):
        check(config)


@pytest.mark.parametrize("name", ["isbi", "drive", "ph2", "voc"])
def test_best_must_come_first(name):
    module = importlib.import_module(f"configs.{name}")
    with pytest.raises(UserError, match="small,best: give best as the first option"):
        module.get_config("small,best")


@pytest.mark.parametrize("options", ["best,unet", "segnet,bce,unet2", "pretrained,segnet"])
def test_ph2_has_one_network(options):
    with pytest.raises(UserError, match=f"{options}: .* are two networks; give one"):
        ph2.get_config(options)


def test_ph2_without_options_is_its_default():
    assert ph2.get_config("").to_dict() == ph2.get_config().to_dict()


@given(OPTIONS)
def test_the_last_of_repeated_options_counts(options):
    names = base.split_options(",".join(options), "b,c")
    assert len(set(names)) == len(names)
    assert set(names) == set(options)
    last = {name: place for place, name in enumerate(options)}
    assert names == sorted(names, key=last.__getitem__)


@given(OPTIONS)
def test_best_is_replaced_by_its_recipe(options):
    best, recipe = ["best", *options], ["b", "c", *options]
    assert base.split_options(",".join(best), "b,c") == base.split_options(",".join(recipe), "")
