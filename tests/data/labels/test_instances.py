"""Masks that number objects: their classes, their ids, and the border between objects."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_files import refused, save
from made_masks import scanned

from configs import folder as folder_config
from unet_jax.core.errors import UserError
from unet_jax.data import open_dataset
from unet_jax.data.labels.found import Found
from unet_jax.data.labels.instances import Labels, labels_of
from unet_jax.data.labels.names import parse_values
from unet_jax.data.labels.values import Rules, recognise

NUMBERED = Rules(parse_values(["0:background", "*:cell"]))
IDS = np.array([[0, 7, 7, 7, 300], [0, 7, 7, 7, 300], [0, 7, 7, 7, 300], [9, 0, 0, 300, 300]])


def labels(*pixels_of, rules: Rules = NUMBERED, border: int = 0, ignore=(), **kinds) -> Labels:
    found = Found.of(scanned(*pixels_of, **kinds), ignore)
    return labels_of(found, recognise(found, rules), border)


def test_all_values_without_a_name_number_the_objects():
    found = pickle.loads(pickle.dumps(labels((0, 7, 300), (0, 9, 255))))
    assert found.classes == ("background", "cell") and found.border == 0
    np.testing.assert_array_equal(found.to_label(IDS), IDS > 0)
    ids = found.to_instances(IDS)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, np.select([IDS == 7, IDS == 9, IDS == 300], [1, 2, 4]))


def test_ignored_pixels_are_of_no_object():
    found = labels((0, 7, 9, 300), ignore=(300,))
    np.testing.assert_array_equal(found.to_label(IDS)[3], [1, 0, 0, 255, 255])
    np.testing.assert_array_equal(found.to_instances(IDS)[3], [2, 0, 0, 0, 0])


def test_other_classes_can_stand_beside_numbered_objects():
    rules = Rules(parse_values(["0:background", "9:dirt", "*:cell"]))
    found = labels((0, 7, 9, 300), rules=rules)
    assert found.classes == ("background", "dirt", "cell")
    np.testing.assert_array_equal(found.to_label(IDS)[3], [1, 0, 0, 2, 2])
    np.testing.assert_array_equal(found.to_instances(IDS)[3], [0, 0, 0, 2, 2])
    with pytest.raises(UserError, match=r"data\.object_border=1: needs two classes"):
        labels((0, 7, 9, 300), rules=rules, border=1)


def test_a_border_separates_objects_that_touch():
    found = labels((0, 7, 9, 300), border=1)
    assert found.classes == ("background", "cell", "border") and found.border == 2
    # The edge of the image is no border; an object that would be border only stays as it is.
    expected = [[0, 2, 1, 2, 1], [0, 2, 1, 2, 1], [0, 2, 2, 2, 1], [1, 0, 0, 1, 1]]
    expected = np.array(expected)
    expected[:, 4], expected[3, 3] = 1, 1  # no pixel of 300 is without a neighbour of another value
    np.testing.assert_array_equal(found.to_label(IDS), expected)
    np.testing.assert_array_equal(found.to_instances(IDS) > 0, found.to_label(IDS) > 0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_the_interiors_of_two_objects_never_touch(seed, width):
    rng = np.random.default_rng(seed)
    ids = np.kron(rng.integers(0, 5, (4, 5)), np.ones((6, 6), int))[: rng.integers(9, 24)]
    label = labels((0, 1, 2, 3, 4), border=width).to_label(ids)
    np.testing.assert_array_equal(label > 0, ids > 0)
    for number in np.unique(ids[label == 1]).tolist():
        rows, columns = np.nonzero((label == 1) & (ids == number))
        if not (label[ids == number] == 2).any():
            continue
        for row, column in zip(rows, columns, strict=True):
            near = np.s_[
                max(row - width, 0) : row + width + 1, max(column - width, 0) : column + width + 1
            ]
            assert (ids[near] == number).all()


def test_what_does_not_number_objects_is_refused_or_said():
    binary = Rules(nonzero=True)
    for pixels_of in [(0, 255)], [(0, 1), (0, 1)]:
        assert labels(*pixels_of, rules=binary).to_instances is None
    few = labels((0, 1, 2), (0, 1, 2), rules=binary)
    assert few.to_instances is None
    found = Found.of(scanned((0, 1, 2)))
    assert "'* object' in" in recognise(found, binary).remark
    with pytest.raises(UserError, match=r"data\.object_border=2: .* do not number objects"):
        labels((0, 255), rules=Rules(), border=2)
    with pytest.raises(UserError, match="'\\*' says that the masks number objects"):
        labels((0, 0xFF0000), colours=True)
    with pytest.raises(UserError, match="values that JPEG changed"):
        labels((0, 3, 255), lossy=True)
    for entries in ["*:a", "*:b", "0:c"], ["0:a", "1:b", "*:ignored"]:
        with pytest.raises(UserError, match="'\\*' needs one name"):
            parse_values(entries)


def test_numbers_are_recognised_where_any_value_is_the_foreground():
    masks = [range(1 + n) for n in (3, 9, 12)]
    found = labels(*masks, rules=Rules(nonzero=True))
    assert found.classes == ("background", "foreground")
    np.testing.assert_array_equal(found.to_instances(np.array([[0, 3, 12]])), [[0, 3, 12]])


@pytest.fixture
def cells(tmp_path):
    """Ten images of two cells that touch, numbered differently in each mask."""
    for i in range(10):
        ids = np.zeros((12, 12), np.uint16)
        ids[2:10, 1:6], ids[2:10, 6:11] = 10 * i + 1, 10 * i + 300
        save(tmp_path / f"images/{i}.png", (ids > 0).astype(np.uint8) * 200)
        save(tmp_path / f"masks/{i}.png", ids)
    return tmp_path


@pytest.mark.parametrize("border", [0, 1])
@pytest.mark.parametrize("statement", ["file", "field", "nonzero"])
def test_a_folder_knows_the_objects_of_its_masks(cells, border, statement):
    data = folder_config.get_config().data
    data.root = str(cells)
    data.object_border = border
    if statement == "file":
        (cells / "classes.txt").write_text("0 background\n* cell\n")
    elif statement == "field":
        data.mask_values = ("0:background", "*:cell")
    else:
        data.binary = "nonzero"
    dataset = open_dataset(data)
    split = dataset.splits["test"]
    ids, label = split.instances(0), split[0]["label"]
    assert len(np.unique(ids)) == 3 and ids[5, 5] != ids[5, 6]
    np.testing.assert_array_equal(ids > 0, label > 0)
    assert dataset.border == (2 if border else 0)
    assert [label[5, x] for x in range(12)] == (
        [0, 2, 1, 1, 1, 2, 2, 1, 1, 1, 2, 0] if border else [0, *[1] * 10, 0]
    )
    assert any("(data.object_border)" in note for note in dataset.notes) == (border > 0)


def test_a_folder_without_numbers_knows_no_objects(cells):
    for path in (cells / "masks").iterdir():
        save(path, np.uint8([[0, 255]]).repeat(12, 0).repeat(6, 1))
    data = folder_config.get_config().data
    data.root = str(cells)
    assert open_dataset(data).splits["test"].instances is None
    data.object_border = 1
    refused(open_dataset, data, "do not number objects", "classes.txt")
