import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_jax.data.resize import resize, resize_smooth

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


def test_its_own_size_changes_nothing():
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
