"""Tiles cover an image, count as much as one, and put it together again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_jax.inference.tiling import Axis, blend, seen_pixels


@st.composite
def axes(draw, longest: int = 300) -> Axis:
    multiple = 2 ** draw(st.integers(0, 5))
    side = multiple * draw(st.integers(1, 12))
    overlap = multiple * draw(st.integers(0, side // multiple - 1))
    return Axis.plan(draw(st.integers(1, longest)), side, overlap, multiple), multiple, side


@settings(max_examples=100, deadline=None, derandomize=True)
@given(axes())
def test_tiles_cover_the_axis_on_the_grid_of_the_poolings(drawn):
    axis, multiple, side = drawn
    end = axis.length + -axis.length % multiple
    assert axis.side == min(side, end)
    assert axis.starts[0] == 0
    assert axis.starts[-1] + axis.side == end
    assert all(start % multiple == 0 for start in axis.starts)
    steps = np.diff(axis.starts)
    assert np.all(steps > 0)
    assert np.all(steps <= axis.side - axis.overlap)
    # One tile less would leave a gap or share too little.
    fewer = len(axis.starts) - 1
    assert not fewer or fewer * (axis.side - axis.overlap) + axis.overlap < end
    if len(steps):  # evenly spread
        assert steps.max() - steps.min() <= multiple


@settings(max_examples=100, deadline=None, derandomize=True)
@given(axes())
def test_the_weights_of_all_tiles_sum_to_one_at_every_pixel(drawn):
    axis, _, _ = drawn
    total = np.zeros(axis.starts[-1] + axis.side)
    for tile, start in enumerate(axis.starts):
        weights = axis.weights(tile)
        assert weights.dtype == np.float32
        assert np.all(weights >= 0)
        total[start : start + axis.side] += weights
    np.testing.assert_allclose(total, 1, rtol=1e-6)


def test_a_tile_gives_way_in_the_middle_quarter_of_the_overlap():
    axis = Axis.plan(160, 96, 32, 16)
    assert axis.starts == (0, 64)
    first, second = map(axis.weights, range(2))
    np.testing.assert_array_equal(first[:76], 1)  # of the overlap 64 ... 95, 3/8 are 12 pixels
    assert np.all(np.diff(first[75:85]) < 0)
    np.testing.assert_array_equal(first[84:], 0)
    np.testing.assert_array_equal(second, first[::-1])
    # A raised cosine: half way in the middle, and level at both ends.
    assert first[79] + first[80] == pytest.approx(1)
    falls = -np.diff(first[75:85])
    np.testing.assert_allclose(first[76:84], np.cos((np.arange(8) + 0.5) / 8 * np.pi / 2) ** 2)
    assert falls[0] < falls[4] / 2


def test_beyond_its_ends_an_image_is_mirrored_as_numpy_does():
    for length in (1, 2, 3, 5, 8):
        for before, after in ((0, 0), (3, 2), (20, 31)):
            seen = seen_pixels(-before, length + after, length)
            expected = np.pad(np.arange(length), (before, after), "reflect")
            np.testing.assert_array_equal(seen, expected)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(axes(120), axes(120), st.integers(1, 3), st.integers(0, 9))
def test_tiles_of_an_image_become_it_again_in_bands(rows, columns, classes, seed):
    rows, columns = rows[0], columns[0]
    rng = np.random.default_rng(seed)
    image = rng.random((rows.length, columns.length, classes), np.float32)
    padded = np.pad(image, ((0, rows.side), (0, columns.side), (0, 0)))
    tiles = [
        padded[top : top + rows.side, left : left + columns.side]
        for top in rows.starts
        for left in columns.starts
    ]
    bands = [band.copy() for band in blend(tiles, rows, columns)]
    assert all(band.dtype == np.float32 for band in bands)
    assert len(bands) == len(rows.starts)  # each as soon as its row of tiles is there
    np.testing.assert_allclose(np.concatenate(bands), image, atol=1e-6)


def test_a_band_is_complete_before_the_next_row_of_tiles_is_asked_for():
    axis = Axis.plan(160, 96, 32, 16)
    asked = []

    def tiles():
        for i in range(4):
            asked.append(i)
            yield np.full((96, 96, 1), i, np.float32)

    bands = blend(tiles(), axis, axis)
    assert len(next(bands)) == 64
    assert asked == [0, 1]
    last = next(bands)
    assert last.shape == (96, 160, 1)
    assert (last[-1, 0, 0], last[-1, -1, 0]) == (2, 3)
    assert (last[0, 0, 0], last[0, -1, 0]) == (0, 1)
