"""The options that follow the colon of `--config`, and the recipe that `best` stands for."""

import importlib
import re

import pytest
from hypothesis import given, strategies

from configs import base, drive, ph2

CONFIGS = ["isbi", "drive", "ph2", "voc"]


@pytest.mark.parametrize("name", CONFIGS)
def test_best_stands_for_a_recipe_whose_time_and_score_the_docstring_has(name):
    module = importlib.import_module(f"configs.{name}")
    best, recipe = module.get_config("best"), module.get_config(module.BEST)
    assert best.to_dict() == recipe.to_dict()
    shown = rf"`best` is `{module.BEST}`.*?minutes.*?95 %\s+intervals? .*?three\s+seeds"
    assert re.search(shown, re.sub(r"\s+", " ", module.__doc__))


def test_options_beside_best_change_the_recipe():
    best, other = drive.get_config("best"), drive.get_config("best,dice")
    assert (best.loss.name, other.loss.name) == ("bce+dice", "dice")
    assert other.name == f"{best.name}-dice"
    assert not ph2.get_config("best").model.deep_supervision
    assert ph2.get_config("best,deep").model.deep_supervision


@given(strategies.lists(strategies.sampled_from(["best", "a", "b", "c", ""])))
def test_options_keep_their_order_and_best_is_replaced(options):
    names = base.split_options(",".join(options), "b,c")
    assert len(set(names)) == len(names)
    assert set(names) == set(options) - {"best", ""} | ({"b", "c"} if "best" in options else set())
    if "best" not in options:
        assert names == sorted(names, key=options.index)
