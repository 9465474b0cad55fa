"""What the values of masks mean is recognised, stated by the user, or refused in a line."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_files import refused
from made_masks import scanned

from unet_jax.core.errors import UserError
from unet_jax.data.labels.found import Found, Meaning, describe, to_label
from unet_jax.data.labels.names import ClassNames, parse_values
from unet_jax.data.labels.values import BINARY, Rules, recognise

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)


def meaning(*pixels_of, ignore=(), rules=None, **kinds) -> Meaning:
    return recognise(Found.of(scanned(*pixels_of, **kinds), ignore), rules or Rules())


def plain(*names) -> Rules:
    return Rules(ClassNames(names, source="classes.txt"))


def error(call) -> str:
    with pytest.raises(UserError) as raised:
        call()
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("pixels_of", "classes", "ids"),
    [
        ([(0, 11, 200)], ("class-0", "class-11", "class-200"), {0: 0, 11: 1, 200: 2}),
        ([(1, 2, 3)], ("class-1", "class-2", "class-3"), {1: 0, 2: 1, 3: 2}),
        ([(1, 2, 3, 255)], ("class-1", "class-2", "class-3"), {1: 0, 2: 1, 3: 2, 255: 255}),
        ([(0, 128), (0, 255)], ("class-0", "class-128", "class-255"), {0: 0, 128: 1, 255: 2}),
        ([(0, 65535)], BINARY, {0: 0, 65535: 1}),
        ([(0, 100), (0,)], BINARY, {0: 0, 100: 1}),
        ([(1, 2)], BINARY, {1: 0, 2: 1}),
        ([{0: 9900, 1: 10, 255: 50}], BINARY, {0: 0, 1: 1, 255: 255}),
        ([(*range(41), 255)], tuple(f"class-{i}" for i in range(41)), None),
        ([{i: 1 + 10**6 * (i in (0, 255)) for i in (*range(41), 255)}], None, {40: 40, 255: 255}),
    ],
)
def test_values_are_recognised(pixels_of, classes, ids):
    found = meaning(*pixels_of)
    assert classes is None or found.classes == classes
    assert ids is None or {v: found.ids[v] for v in ids} == ids


def test_smooth_edges_are_separated_in_the_middle():
    pixels = {0: 5000, 3: 50, 60: 10, 127: 10, 128: 10, 190: 10, 250: 10, 254: 10, 255: 5000}
    found = meaning(pixels)
    assert found.classes == BINARY
    assert found.ids == {value: int(value >= 128) for value in pixels}
    assert "0.40% of the pixels" in found.remark
    assert meaning({0: 900, 2: 9, 253: 9, 255: 900}, lossy=True).ids[253] == 1
    pixels[100] = 500
    assert "--config.data.threshold=128" in error(lambda: meaning(pixels))
    assert "threshold=128" in error(lambda: meaning({0: 900, 9: 90, 99: 90, 255: 9}, lossy=True))
    assert "JPEG" in error(lambda: meaning((0, 1, 2), lossy=True))


@pytest.mark.parametrize(
    "pixels_of",
    [
        [(0, 301, 302)],
        [(0, 301), (0, 302), (0, 17, 405)],
        [range(1 + n) for n in (3, 9, 12)],  # each image counts its objects
        [(0, *range(20 * i, 20 * i + 9)) for i in range(1, 4)],
        [range(1000)],
        [{*range(n)} - {n // 2} for n in (10, 14, 17, 20, 25)],  # an object of each was deleted
        [{*range(n)} - {7 * (n == 12)} for n in (9, 10, 11, 12, 13, 14, 15)],
    ],
)
def test_numbers_of_objects_are_offered_as_the_foreground(pixels_of):
    assert "--config.data.binary=nonzero" in error(lambda: meaning(*pixels_of))
    found = meaning(*pixels_of, rules=Rules(nonzero=True))
    assert found.classes == BINARY
    assert all(i == (value != 0) for value, i in found.ids.items())


@pytest.mark.parametrize("ignore", [(), (11,)])
@pytest.mark.parametrize("seed", range(20))
def test_classes_of_which_images_lack_some_are_no_objects(seed, ignore):
    often = np.array([99, 100, 98, 100, 95, 95, 90, 50, 98, 90, 40, 100]) / 100  # CamVid, roughly
    present = np.random.default_rng(seed).random((30, 12)) < often
    present[0] = True
    found = meaning(*(np.flatnonzero(row).tolist() for row in present), ignore=ignore)
    assert len(found.classes) == 12 - len(ignore)


def test_negative_values_are_refused_unless_they_are_ignored():
    assert "data.ignore=(-1,)" in error(lambda: meaning((-1, 0, 1)))
    assert meaning((-1, 0, 1), ignore=(-1,)).ids == {-1: 255, 0: 0, 1: 1}


def test_255_among_few_ids_with_gaps_is_asked_for():
    assert "data.ignore=(255,)" in error(lambda: meaning((0, 11, 255)))
    assert meaning((0, 11, 255), ignore=(255,)).ids == {0: 0, 11: 1, 255: 255}
    assert meaning((0, 11, 255), rules=plain("a", "b", "c")).ids == {0: 0, 11: 1, 255: 2}


@PROPERTY
@given(
    ids=st.dictionaries(st.integers(-(2**40), 2**40), st.integers(0, 4), min_size=2, max_size=40),
    ignore=st.sets(st.integers(-5, 5)),
    seed=st.integers(0, 999),
)
def test_stated_values_get_their_classes_and_ignored_ones_none(ids, ignore, seed):
    ids |= {0: 0, 7: 1} | dict.fromkeys(ignore, 2)
    entries = [f"{value}:{'abcde'[i]}" for value, i in ids.items()]
    rules = Rules(parse_values(entries))
    found = Found.of(scanned(ids.keys()), [*ignore])
    found_meaning = recognise(found, rules)
    mask = np.random.default_rng(seed).choice(np.array([*ids]), (7, 9))
    label = pickle.loads(pickle.dumps(to_label(found, found_meaning)))(mask)
    assert label.dtype == np.uint8
    for value, i in zip(mask.flat, label.flat, strict=True):
        expected = None if value in ignore else "abcde"[ids[int(value)]]
        assert (None if i == 255 else found_meaning.classes[i]) == expected


def test_a_value_without_a_name_is_refused():
    rules = Rules(parse_values(("0:background", "17:cell", "9:ignored")))
    assert meaning((0, 9, 17), rules=rules).ids == {0: 0, 17: 1, 9: 255}
    message = error(lambda: meaning((0, 17), (0, 3), rules=rules))
    for part in ("/data/masks/1.png", "3 (100 pixels", "data.mask_values"):
        assert part in message


def test_colours_are_named_in_colour_grey_and_palette_masks():
    rules = Rules(parse_values(("#000000:background", "#ff0000:nerve", "#e0e0c0:ignored")))
    colours = (0, 0xFF0000, 0xE0E0C0)
    assert meaning(colours, colours=True, rules=rules).ids == dict(
        zip(colours, (0, 1, 255), strict=True)
    )
    assert meaning((0, 1, 2), palette=colours, rules=rules).ids == {0: 0, 1: 1, 2: 255}
    white = Rules(parse_values(("#000000:no", "#ffffff:yes")))
    assert meaning((0, 255), rules=white).ids == {0: 0, 255: 1}
    assert meaning((0, 0xFFFFFF), colours=True, rules=white).ids == {0: 0, 255: 1}


def test_names_without_values_must_fit():
    assert meaning((0, 11, 200), rules=plain("a", "b", "c")).classes == ("a", "b", "c")
    message = error(lambda: meaning((0, 255), rules=plain("bg", "cell", "void")))
    for part in ("classes.txt", "3 classes", "2 values (0, 255)", "'0 bg' and '255 cell'"):
        assert part in message
    message = error(lambda: meaning((5, 0xFF0000), colours=True, rules=plain("a", "b")))
    assert "'#000005 NAME', '#ff0000 NAME'" in message


def test_255_is_ignored_beside_named_ids_and_a_class_among_greys():
    assert meaning((1, 2, 3, 255), rules=plain(*"abc")).ids == {1: 0, 2: 1, 3: 2, 255: 255}
    assert meaning((0, 1, 2, 255), rules=plain(*"abc")).ids == {0: 0, 1: 1, 2: 2, 255: 255}
    assert meaning((0, 128, 255), rules=plain(*"abc")).ids == {0: 0, 128: 1, 255: 2}
    assert "values 128; classes.txt names 2" in error(
        lambda: meaning((0, 128, 255), rules=plain(*"ab"))
    )


def test_statements_that_do_not_suit_the_masks_are_refused():
    assert "threshold=128" in error(
        lambda: meaning((0, 3, 255), lossy=True, rules=Rules(nonzero=True))
    )
    assert meaning((0, 255), lossy=True, rules=Rules(nonzero=True)).ids == {0: 0, 255: 1}
    colours = (0, 0xFF0000)
    assert "'ignored'" in error(lambda: meaning(colours, colours=True, ignore=(128,)))
    assert "RGB" in error(lambda: meaning(colours, colours=True, rules=Rules(threshold=9.0)))
    nonzero = meaning(colours, colours=True, rules=Rules(nonzero=True))
    assert nonzero.ids == {0: 0, 0xFF0000: 1}


def test_only_one_statement_is_accepted():
    refused(lambda n: Rules(parse_values(n), True), ("0:a", "1:b"), "data.mask_values", "binary")
    assert "two classes" in error(
        lambda: meaning((0, 9), rules=Rules(plain("a", "b", "c").names, nonzero=True))
    )


def test_what_was_understood_is_a_table():
    found = Found.of(scanned({0: 900, 128: 50}, {0: 30, 255: 20}))
    summary, *rows = describe(found, recognise(found, Rules()))
    assert summary == "values 0, 128, 255 in the masks: 3 classes"
    assert rows == [
        "mask value 0   = class-0    93.00% of the pixels",
        "mask value 128 = class-128   5.00% of the pixels",
        "mask value 255 = class-255   2.00% of the pixels",
    ]
