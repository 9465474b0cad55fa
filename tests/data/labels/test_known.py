"""Masks of another folder get the classes of a run, or are refused with both lists."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_masks import scanned

from unet_jax import IGNORED
from unet_jax.core.errors import UserError
from unet_jax.data.labels.found import Found
from unet_jax.data.labels.known import KnownClasses, as_known
from unet_jax.data.labels.names import ClassNames, parse_values
from unet_jax.data.labels.values import BINARY, Rules

CELLS = ("membrane", "cell")
ROADS = ("sky", "road", "tree")
GAPS = ("class-0", "class-11", "class-200")
COLOURS = ("#000000", "#00ff00", "#ff0000")


def known(names, recorded=True) -> KnownClasses:
    return KnownClasses(tuple(names), recorded, "runs/x")


def ids(values, names, rules=None, recorded=True, **masks) -> dict[int, int]:
    found = Found.of(scanned(values, **masks))
    meaning = as_known(found, rules or Rules(), known(names, recorded))
    assert meaning.classes == tuple(names)
    return dict(meaning.ids)


@pytest.mark.parametrize(
    ("values", "names", "expected"),
    [
        ({0, 255}, CELLS, {0: 0, 255: 1}),
        ({0, 1}, CELLS, {0: 0, 1: 1}),
        ({0}, CELLS, {0: 0}),
        ({255}, CELLS, {255: 1}),
        ({0, 1, 255}, CELLS, {0: 0, 1: 1, 255: IGNORED}),
        ({0, 100}, BINARY, {0: 0, 100: 1}),
        ({0, 255}, COLOURS[:2], {0: 0, 255: 1}),
        ({0, 2}, ROADS, {0: 0, 2: 2}),
        ({1}, ROADS, {1: 1}),
        ({2, 255}, ROADS, {2: 2, 255: IGNORED}),
        ({0, 200}, GAPS, {0: 0, 200: 2}),
        ({11, 255}, GAPS, {11: 1, 255: IGNORED}),
    ],
)
def test_values_have_the_classes_of_the_run(values, names, expected):
    assert ids(values, names) == expected


def test_colours_have_the_classes_that_they_name():
    assert ids({0x000000, 0xFF0000}, COLOURS, colours=True) == {0: 0, 0xFF0000: 2}


def test_stated_names_are_matched_in_any_order():
    stated = Rules(parse_values(("0:tree", "7:sky", "9:road", "4:ignored")))
    assert ids({0, 7, 4}, ROADS, stated) == {0: 2, 7: 0, 4: IGNORED}
    listed = Rules(ClassNames(("tree", "sky", "road"), source="classes.txt"))
    assert ids({0, 1}, ROADS, listed) == {0: 2, 1: 0}
    assert ids({0, 301}, CELLS, Rules(nonzero=True)) == {0: 0, 301: 1}


def test_of_an_older_run_only_the_number_counts():
    older = ("class-0", "class-1", "class-2")
    found = Found.of(scanned({0, 11, 200}))
    meaning = as_known(found, Rules(), known(older, recorded=False))
    assert meaning.classes == GAPS
    assert meaning.ids == {0: 0, 11: 1, 200: 2}
    with pytest.raises(UserError, match=r"sky, road, but the run runs/x has 3 classes"):
        ids({0, 255}, older, Rules(parse_values(("0:sky", "255:road"))), recorded=False)


@pytest.mark.parametrize(
    ("values", "names", "rules", "parts"),
    [
        ({0, 255}, ROADS, Rules(), ["background, foreground", "sky, road, tree"]),
        (
            {0, 1, 2},
            CELLS,
            Rules(),
            ["class-1, class-2", "membrane, cell", "'0 membrane'"],
        ),
        ({0, 11, 200}, ROADS, Rules(), ["class-0, class-11, class-200", "classes.txt"]),
        ({0, 7}, GAPS, Rules(), ["7", "the classes of runs/x"]),
        ({0, 1}, CELLS, Rules(ClassNames(("skin", "mole"), source="c")), ["skin, mole", "cell"]),
    ],
)
def test_other_classes_are_refused_with_both_lists(values, names, rules, parts):
    with pytest.raises(UserError) as error:
        ids(values, names, rules)
    assert all(part in str(error.value) for part in parts)
    assert "\n" not in str(error.value)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(count=st.integers(3, 20), data=st.data())
def test_any_plain_ids_are_the_classes(count, data):
    values = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    names = tuple(f"name {i}" for i in range(count))
    assert ids(values, names) == {value: value for value in values}
