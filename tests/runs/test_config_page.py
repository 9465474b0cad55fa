"""docs/config-fields.md has all config fields as they are defined, and its commands parse."""

import re

from launched import examples, parse_here

from configs import base
from unet_jax.runs import config_page
from unet_jax.runs.config_page import read_comments
from unet_jax.runs.options import all_options

SOURCE = """
# Comment of the code.
FIELDS = {
    "seed": Field(0, "[0, 9]"),  # seeds all
    # Range of # values
    # and more.
    "data.low": Field(1),
    "data.high": Field(2),
    # Of all of the section.
    #
    # shift: share
    "augment.shift": Field("#"),
}
# Another.
"""


def test_the_page_is_up_to_date():
    """Otherwise run `python -m unet_jax.runs.config_page`."""
    assert config_page.PAGE.read_text() == config_page.page()


def test_the_page_has_every_field_once_with_its_meaning():
    rows = re.findall(r"^\| (`.*?) \| (.*?) \| (.*?) \| (\S.*?) \|$", config_page.page(), re.M)
    named = [name.strip("`") for row in rows for name in row[0].split("<br>")]
    assert len(named) - len(set(named)) == 1  # data.train_list, of two data sets
    assert set(named) == base.FIELDS.keys() | all_options().keys()
    assert all(len(meaning) > 5 and meaning.endswith(".") for *_, meaning in rows)
    assert len(config_page.page().splitlines()) <= 300


def test_the_commands_of_the_page_parse():
    used = examples(config_page.page(), "python launch.py")
    assert len(used) == 2
    for arguments in used:
        parse_here(*arguments)


def test_comments_are_above_a_field_or_at_the_end_of_its_line():
    assert read_comments(SOURCE) == {
        "seed": "seeds all",
        "data.low": "Range of # values and more.",
        "data.high": "",
        "augment.": "Of all of the section.",
        "augment.shift": "shift: share",
    }
