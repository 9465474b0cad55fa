"""Areas against brute force: the centre of each pixel, in exact arithmetic."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_jax.data.annotations.areas import fill_ellipse, fill_rings, place
from unet_jax.data.annotations.outlines import find_regions

SIZE = (6, 8)
# Eighths of a pixel, so that centres often lie exactly on an edge or at a corner.
coordinates = st.integers(-20, 84).map(lambda eighths: eighths / 8)
rings = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=7)


def painted(patch, size=SIZE) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    patch.paint(mask, 1)
    return mask


def crossings(ring, row: int, column: int) -> int:
    """The number of edges on the left of a pixel's centre, or through it."""
    x, y, count = 8 * column + 4, 8 * row + 4, 0  # whole numbers of eighths
    corners = [(int(8 * corner[0]), int(8 * corner[1])) for corner in ring]
    for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
        (x0, y0), (x1, y1) = sorted((start, end), key=lambda corner: corner[1])
        if y0 <= y < y1 and (y - y0) * (x1 - x0) <= (x - x0) * (y1 - y0):
            count += 1
    return count


@settings(max_examples=100, deadline=None)
@given(polygon=st.lists(rings, min_size=1, max_size=3))
def test_a_polygon_has_the_pixels_whose_centres_are_inside(polygon):
    expected = [
        [sum(crossings(ring, i, j) for ring in polygon) % 2 for j in range(SIZE[1])]
        for i in range(SIZE[0])
    ]
    patch = fill_rings([np.array(ring) for ring in polygon], SIZE)
    np.testing.assert_array_equal(painted(patch), expected)


@settings(max_examples=50, deadline=None)
@given(corners=st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=8))
def test_triangles_with_common_edges_neither_overlap_nor_leave_a_gap(corners):
    """A fan of triangles around a corner has the pixels of its outline, if it is convex."""
    centre = np.mean(corners, axis=0)
    corners.sort(key=lambda corner: math.atan2(*(corner - centre)))
    fan = [np.array([corners[0], *corners[i : i + 2]]) for i in range(1, len(corners) - 1)]
    total = sum(painted(fill_rings([triangle], SIZE)).astype(int) for triangle in fan)
    np.testing.assert_array_equal(total % 2, painted(fill_rings([np.array(corners)], SIZE)))


def test_integers_are_the_corners_of_pixels():
    square = np.array([(2.0, 1), (5, 1), (5, 4), (2, 4)])
    expected = np.zeros(SIZE, np.uint8)
    expected[1:4, 2:5] = 1
    np.testing.assert_array_equal(painted(fill_rings([square], SIZE)), expected)
    np.testing.assert_array_equal(painted(fill_rings([square - 0.49], SIZE)), expected)
    moved = painted(fill_rings([square - 0.51], SIZE))
    np.testing.assert_array_equal(moved[:-1, :-1], expected[1:, 1:])


def test_an_area_may_extend_beyond_the_image():
    wide = np.array([(-1e8, -5.0), (1e8, -5), (1e8, 2), (-1e8, 2)])
    patch = fill_rings([wide], SIZE)
    assert patch.clipped
    assert painted(patch).sum() == 2 * SIZE[1]
    outside = fill_rings([wide - 100], SIZE)
    assert outside.clipped
    assert not outside.inside.any()
    assert not fill_rings([np.array([(0.0, 0), (8, 0), (8, 6), (0, 6)])], SIZE).clipped


@settings(max_examples=50, deadline=None)
@given(
    centre=st.tuples(coordinates, coordinates),
    radii=st.tuples(st.floats(0.01, 9), st.floats(0.01, 9)),
    degrees=st.integers(0, 360),
)
def test_an_ellipse_has_the_pixels_whose_centres_are_inside(centre, radii, degrees):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    turned = ((x - centre[0]) + 1j * (y - centre[1])) * np.exp(-1j * np.radians(degrees))
    distance = np.hypot(turned.real / radii[0], turned.imag / radii[1])
    mask = painted(fill_ellipse(centre, radii, degrees, SIZE))
    decided = np.abs(distance - 1) > 1e-6  # not exactly on the edge
    np.testing.assert_array_equal(mask[decided], (distance < 1)[decided])


@pytest.mark.parametrize(("top", "left"), [(-2, 3), (4, -1), (0, 0), (20, 20), (-9, -9)])
def test_a_mask_is_cut_off_at_the_edge_of_the_image(top, left):
    inside = np.arange(12).reshape(3, 4) % 3 > 0
    whole = np.zeros((60, 60), np.uint8)
    whole[20 + top : 23 + top, 20 + left : 24 + left] = inside
    patch = place(top, left, inside, SIZE)
    expected = whole[20 : 20 + SIZE[0], 20 : 20 + SIZE[1]]
    np.testing.assert_array_equal(painted(patch), expected)
    assert patch.clipped == (expected.sum() < inside.sum())


masks = st.tuples(st.integers(1, 7), st.integers(1, 7)).flatmap(
    lambda size: st.lists(
        st.integers(0, 2), min_size=size[0] * size[1], max_size=size[0] * size[1]
    ).map(lambda values: np.array(values, np.uint8).reshape(size))
)


@settings(max_examples=200, deadline=None)
@given(mask=masks)
def test_the_outlines_of_a_mask_give_the_mask(mask):
    filled = np.zeros_like(mask)
    for region in find_regions(mask):
        patch = fill_rings([np.array(ring, float) for ring in region.rings], mask.shape)
        assert not patch.clipped
        assert not painted(patch, mask.shape)[filled > 0].any()  # regions do not overlap
        patch.paint(filled, region.value)
        for ring in region.rings:
            assert len(set(ring)) == len(ring) >= 4  # no ring touches itself
    np.testing.assert_array_equal(filled, mask)


def test_an_outer_ring_and_a_hole_have_opposite_directions():
    mask = np.ones((5, 6), np.uint8)
    mask[1:3, 2:4] = 0
    (region,) = find_regions(mask)
    areas = [
        sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1], strict=True))
        for ring in region.rings
    ]
    assert areas == [2 * 30, -2 * 4]
    diagonal = np.eye(2, dtype=np.uint8)
    assert [region.rings for region in find_regions(diagonal)] == [
        [[(0, 0), (1, 0), (1, 1), (0, 1)]],
        [[(1, 1), (2, 1), (2, 2), (1, 2)]],
    ]
