import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_data import coded

from unet_jax.data.resize import (
    pad,
    resize,
    resize_from_bands,
    resize_in_bands,
    resize_smooth,
)

SIDE = st.integers(1, 40)


def example(image, label):
    return {"image": image, "label": label, "index": np.asarray(3, np.int32)}


@settings(deadline=None)
@given(SIDE, SIDE, SIDE, SIDE, st.sampled_from([np.uint8, np.uint16]), st.sampled_from([1, 3]))
def test_shapes_types_ranges_and_label_values(
    height, width, new_height, new_width, dtype, channels
):
    rng = np.random.default_rng(0)
    top = np.iinfo(dtype).max
    image = rng.integers(0, top, (height, width, channels), dtype, endpoint=True)
    label = rng.choice(np.array([0, 1, 255], np.uint8), (height, width))
    resized = resize(example(image, label), new_height, new_width)
    assert resized["image"].shape == (new_height, new_width, channels)
    assert resized["image"].dtype == dtype
    assert resized["image"].min() >= image.min()
    assert resized["image"].max() <= image.max()
    assert resized["label"].dtype == np.uint8
    assert set(np.unique(resized["label"])) <= set(np.unique(label))
    assert resized["index"] == 3


def test_resizing_to_the_same_size_changes_nothing():
    image = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    same = resize(example(image, image[..., 0]), 3, 4)
    np.testing.assert_array_equal(same["image"], image)
    np.testing.assert_array_equal(resize_smooth(image, 3, 4), image)


def test_image_and_label_stay_aligned():
    """A square in the middle of both keeps its place at half and at double the size."""
    label = np.zeros((16, 24), np.uint8)
    label[4:12, 6:18] = 1
    for height, width in ((8, 12), (32, 48)):
        resized = resize(example(label[..., None] * 200, label), height, width)
        np.testing.assert_array_equal(resized["image"][..., 0] > 100, resized["label"] == 1)
        assert resized["label"].mean() == pytest.approx(label.mean())


def test_shrinking_averages_all_pixels():
    stripes = np.tile(np.array([0, 200], np.uint8), (8, 16))[..., None]
    shrunk = resize_smooth(stripes, 2, 4)
    np.testing.assert_allclose(shrunk[:, 1:-1], 100, atol=10)


def test_sixteen_bits_keep_their_precision():
    image = np.full((4, 4, 1), 40_000, np.uint16)
    assert (resize(example(image, image[..., 0].astype(np.uint8)), 7, 9)["image"] == 40_000).all()


def test_weights_are_resized_smoothly():
    weight = np.repeat(np.array([1, 3, 5, 7], np.float32), 2)[None].repeat(6, axis=0)
    given = example(np.zeros((6, 8, 1), np.uint8), np.zeros((6, 8), np.uint8))
    smaller = resize({**given, "weight": weight}, 3, 4)["weight"]
    assert smaller.dtype == np.float32 and smaller.shape == (3, 4)
    np.testing.assert_array_equal(smaller, resize_smooth(weight[..., None], 3, 4)[..., 0])
    assert (np.diff(smaller) > 1).all() and smaller[0, 0] == pytest.approx(1.25, abs=0.1)
    assert "weight" not in resize(given, 3, 4)


def test_pad_by_hand():
    image = np.array([[[1], [2], [3]]], np.uint8)
    given = {"image": image, "label": np.array([[0, 1, 0]], np.uint8), "index": np.int32(3)}
    result = pad({**given, "weight": np.array([[4, 5, 6]], np.float32)}, 2, 5)
    np.testing.assert_array_equal(result["image"][..., 0], [[1, 2, 3, 3, 2]] * 2)
    np.testing.assert_array_equal(result["label"], [[0, 1, 0, 255, 255], [255] * 5])
    np.testing.assert_array_equal(result["weight"], [[4, 5, 6, 0, 0], [0] * 5])
    assert result["weight"].dtype == np.float32
    assert set(pad(given, 2, 5)) == set(given)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 25), st.integers(0, 25))
def test_pad_mirrors_the_image_and_ignores_the_label_there(height, width, below, beside):
    given = coded(height, width, np.uint16)
    result = pad(given, height + below, width + beside)
    assert result["image"].shape == (height + below, width + beside, 3)
    assert result["image"].dtype == np.uint16 and result["label"].dtype == np.uint8
    assert result["index"] == 17
    np.testing.assert_array_equal(result["label"][:height, :width], given["label"])
    assert np.all(result["label"][height:] == 255)
    assert np.all(result["label"][:, width:] == 255)
    # Mirrored at the last row, which comes twice, and again at the first, to any length.
    for axis, length in enumerate((height, width)):
        walk = [*range(length), *reversed(range(length))]
        place = np.indices(result["label"].shape)[axis]
        expected = np.take(walk, place % len(walk))
        np.testing.assert_array_equal(result["image"][..., 1 + axis], expected)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(SIDE, SIDE, SIDE, SIDE, st.sampled_from([1, 3]), st.lists(st.integers(1, 20), min_size=1))
def test_resizing_in_bands_equals_the_whole_image_up_to_rounding(
    height, width, new_height, new_width, channels, cuts
):
    image = np.random.default_rng(0).integers(0, 2**16, (height, width, channels), np.uint16)
    expected = resize_smooth(image, new_height, new_width)
    places = [place for place in np.cumsum(cuts) if place < height]
    bands = iter(np.split(image, places))
    found = resize_from_bands(bands, (height, width), new_height, new_width)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=0.02)
    probabilities = image / np.float32(2**16)
    expected = resize_smooth(probabilities, new_height, new_width)
    bands = list(resize_in_bands(probabilities, new_height, new_width, cuts[0]))
    assert all(len(band) == cuts[0] for band in bands[:-1])
    np.testing.assert_allclose(np.concatenate(bands), expected, rtol=1e-5, atol=1e-6)
