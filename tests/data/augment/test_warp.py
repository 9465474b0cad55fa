"""Tests of warps and of the resampling of examples."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_data import coded
from scipy import ndimage

from unet_jax.data.augment import warp
from unet_jax.data.augment.warp import Warp, cut, rotate, shear

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)
DTYPES = st.sampled_from([np.uint8, np.uint16])
TOLERANCE = 1 / 16  # pixels; older versions of cv2 round source positions to 1/32


def smooth_example(height: int, width: int, channels: int = 1, top: int = 255) -> dict:
    """Returns a smooth image, a label in blocks and a weight."""
    rows, columns = np.indices((height, width)) / 7
    waves = [np.sin(rows + k) * np.cos(columns - k) for k in range(channels)]
    image = np.rint((0.5 + 0.4 * np.stack(waves, axis=-1)) * top)
    label = (rows.astype(int) + 2 * columns.astype(int)) % 3
    return {
        "image": image.astype(np.uint8 if top == 255 else np.uint16),
        "label": label.astype(np.uint8),
        "index": np.int32(3),
        "weight": (1 + rows + columns).astype(np.float32),
    }


def source_positions(given: Warp, corner, size: int) -> np.ndarray:
    """Returns source rows and columns from the formula, pixel by pixel: [2, size, size]."""
    middle = (size - 1) / 2
    result = np.zeros((2, size, size))
    for i, j in np.ndindex(size, size):
        x = np.array([i - middle, j - middle])
        if given.displacement is not None:
            x = x + given.displacement[:, i, j]
        result[:, i, j] = given.matrix @ x + np.array(corner) + middle + given.shift
    return result


def convolved(image: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Interpolates the mirrored image by cubic convolution (Keys 1981, a = -0.75)."""

    def kernel(x: np.ndarray) -> np.ndarray:
        x, a = np.abs(x), -0.75
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        return np.where(x <= 1, near, np.where(x < 2, a * (x**3 - 5 * x**2 + 8 * x - 4), 0))

    def mirrored(index: np.ndarray, length: int) -> np.ndarray:
        return np.take([*range(length), *reversed(range(length))], index % (2 * length))

    total = np.zeros((*at.shape[1:], image.shape[-1]))
    first = np.floor(at).astype(int)
    for i, j in itertools.product(range(-1, 3), repeat=2):
        row, column = first[0] + i, first[1] + j
        values = image[mirrored(row, image.shape[0]), mirrored(column, image.shape[1])]
        total += (kernel(at[0] - row) * kernel(at[1] - column))[..., None] * values
    return total


def a_warp(seed: int, size: int, spread: float = 3.0) -> Warp:
    rng = np.random.default_rng(seed)
    field = rng.normal(0, spread, (2, size, size)).astype(np.float32) if seed % 2 else None
    matrix = rotate(rng.uniform(-180, 180)) @ shear(*rng.uniform(-0.3, 0.3, 2))
    return Warp(matrix * rng.uniform(0.6, 1.5), rng.uniform(-9, 9, 2), field)


def beyond(at: np.ndarray, shape) -> tuple[np.ndarray, np.ndarray]:
    """Returns masks of the pixels outside the image and of those too near its edge to decide."""
    far = np.max([np.maximum(-0.5 - a, a - (n - 0.5)) for a, n in zip(at, shape, strict=True)], 0)
    return far > 0, np.abs(far) < 1e-3


@PROPERTY
@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.integers(-9, 40), st.integers(-9, 40)),
    st.integers(1, 24),
    st.integers(0, 999),
    st.sampled_from([(1, 255), (3, 255), (1, 65535), (6, 255)]),
)
def test_resampling_equals_an_independent_computation(shape, corner, size, seed, kind):
    example, given = smooth_example(*shape, *kind), a_warp(seed, size)
    top = kind[1]
    result = cut(example, given, corner, size)
    at = source_positions(given, corner, size)
    outside, near_edge = beyond(at, shape)
    assert result["image"].shape == (size, size, kind[0])
    assert result["image"].min() >= 0 and result["image"].max() <= top
    expected = convolved(example["image"], at).clip(0, top)
    assert np.abs(result["image"] - expected).max() < 0.01 * top
    # SciPy's B-splines agree except near the kinks that mirroring makes.
    inner = np.all([(a > 3) & (a < n - 4) for a, n in zip(at, shape, strict=True)], axis=0)
    for k, channel in enumerate(np.moveaxis(example["image"].astype(float), -1, 0)):
        spline = ndimage.map_coordinates(channel, at[:, inner], order=3, mode="reflect")
        np.testing.assert_allclose(result["image"][inner, k], spline, atol=0.02 * top)
    clear = ~(outside | near_edge) & (np.abs(at - np.floor(at) - 0.5).min(0) > TOLERANCE)
    nearest = np.rint(at).astype(int).clip(0, np.array(shape)[:, None, None] - 1)
    np.testing.assert_array_equal(result["label"][clear], example["label"][tuple(nearest)][clear])
    np.testing.assert_array_equal(result["label"][~near_edge] == 255, outside[~near_edge])
    assert result["label"].dtype == np.uint8 and set(result["label"].flat) <= {0, 1, 2, 255}
    weights = ndimage.map_coordinates(example["weight"], at, order=1, mode="nearest")
    weights[outside] = 0
    assert result["weight"].dtype == np.float32
    np.testing.assert_allclose(result["weight"][~near_edge], weights[~near_edge], atol=0.02)
    assert result["index"] == 3


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("size", [8, 7])
def test_rotations_by_right_angles_are_rot90(turns, size):
    example = coded(size, size, weight=True)
    given = Warp(rotate(90 * turns))
    result = warp._resample(example, given, (0, 0), size, "ignored", 0)
    for key in ("image", "label", "weight"):
        np.testing.assert_allclose(result[key], np.rot90(example[key], turns), atol=1e-3)


def moved_to(start: tuple[int, int], given: Warp) -> tuple[int, int]:
    """Returns where a bright pixel of a 13x13 image moves to, relative to the centre."""
    label = np.zeros((13, 13), np.uint8)
    label[start[0] + 6, start[1] + 6] = 1
    result = cut({"image": label[..., None], "label": label}, given, (0, 0), 13)
    ((row, column),) = np.argwhere(result["label"] == 1).tolist()
    assert result["image"][row, column, 0] == result["image"].max()
    return row - 6, column - 6


def test_directions_of_transforms():
    right, below = (0, 5), (5, 0)
    assert moved_to(right, Warp()) == right
    assert moved_to(right, Warp(rotate(90))) == (-5, 0)  # counterclockwise: up
    assert moved_to(right, Warp(rotate(math.degrees(math.asin(3 / 5))))) == (-3, 4)
    assert moved_to(right, Warp(shear(0, 0.4))) == (-2, 5)  # two rows in five columns
    assert moved_to(below, Warp(shear(0.4, 0))) == (5, -2)
    assert moved_to(right, Warp(np.diag([1.0, 2.5]))) == (0, 2)
    assert moved_to(right, Warp(shift=np.array([1, 3]))) == (
        -1,
        2,
    )  # the source is further down and right
    assert moved_to(right, Warp(np.eye(2) / 2, np.array([1, 4]))) == (-2, 2)
    field = np.zeros((2, 13, 13), np.float32)
    field[:] = np.array([1, 2])[:, None, None]
    assert moved_to(right, Warp(displacement=field)) == (-1, 3)
    assert moved_to(right, Warp(rotate(90), np.array([1, 0]), field)) == (-6, -3)


def test_composed_warps_equal_their_sequence():
    """The order matters: a rotation does not commute with a mirror."""
    example, mirror, turn = coded(9, 9), Warp(np.diag([1.0, -1.0])), Warp(rotate(90))
    turned = np.rot90(example["label"])
    both = cut(example, turn.then(mirror), (0, 0), 9)["label"]
    np.testing.assert_array_equal(both, turned[:, ::-1])
    both = cut(example, mirror.then(turn), (0, 0), 9)["label"]
    np.testing.assert_array_equal(both, np.rot90(example["label"][:, ::-1]))
    fields = [np.full((2, 4, 4), v, np.float32) for v in (1, 2)]
    shifts = [np.array([3.0, 5.0]), np.array([10.0, 20.0])]
    one, other = (Warp(shift=s, displacement=f) for s, f in zip(shifts, fields, strict=True))
    joined = one.then(other)
    np.testing.assert_array_equal(joined.shift, [13, 25])
    np.testing.assert_array_equal(joined.displacement, fields[0] + fields[1])
    for pair in ((one, Warp()), (Warp(), one)):
        np.testing.assert_array_equal(pair[0].then(pair[1]).displacement, fields[0])


SIDES = (np.eye(2), np.eye(2)[::-1])
SYMMETRIES = [
    np.diag(signs) @ side for side in SIDES for signs in itertools.product((-1.0, 1.0), repeat=2)
]


@pytest.mark.parametrize("matrix", SYMMETRIES, ids=str)
@PROPERTY
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(0, 8), st.integers(0, 8)),
    st.integers(1, 9),
    DTYPES,
)
def test_slicing_equals_resampling(matrix, shape, corner, size, dtype):
    example, given = coded(*shape, dtype, weight=True), Warp(matrix)
    assert given.on_grid
    sliced = cut(example, given, corner, size)
    resampled = warp._resample(example, given, corner, size, "ignored", 0)
    assert sliced["image"].dtype == dtype
    assert sliced.keys() == example.keys()
    for key in ("label", "weight"):
        np.testing.assert_array_equal(sliced[key], resampled[key])
    np.testing.assert_array_equal(sliced["image"], np.rint(resampled["image"]))


@pytest.mark.parametrize(
    "given",
    [
        Warp(rotate(1e-3)),
        Warp(shear(0.01, 0)),
        Warp(np.eye(2) * 2),
        Warp(np.ones((2, 2))),
        Warp(np.diag([1.0, 0.5])),
        Warp(shift=np.array([0, 0.5])),
        Warp(shift=np.array([1.0, 0])),
        Warp(displacement=np.full((2, 3, 3), 0.1, np.float32)),
    ],
)
def test_warps_off_the_grid_are_not_sliced(given):
    assert not given.on_grid


def test_zero_displacements_are_on_the_grid():
    assert Warp(displacement=np.zeros((2, 3, 3), np.float32)).on_grid


@pytest.mark.parametrize(
    ("given", "moved"),
    [
        (Warp(), lambda x: x),
        (Warp(np.diag([-1.0, 1.0])), lambda x: x[::-1]),
        (Warp(rotate(90)), np.rot90),
    ],
)
def test_outside_can_be_black(given, moved):
    example = coded(6, 6, weight=True)
    result = cut(example, given, (2, 0), 6, "black")
    for key in ("image", "label", "weight"):
        expected = np.zeros_like(example[key])
        expected[:4] = example[key][2:]
        np.testing.assert_allclose(result[key], moved(expected), atol=1e-3)


def test_black_differs_from_ignored_only_outside_the_image():
    example, given = smooth_example(40, 40), Warp(rotate(20))
    ignored, black = (cut(example, given, (5, -6), 30, outside) for outside in warp.OUTSIDES)
    outside = ignored["label"] == 255
    assert 20 < outside.sum() < 400
    np.testing.assert_array_equal(black["label"][~outside], ignored["label"][~outside])
    assert (black["label"][outside] == 0).all()
    deep = ndimage.binary_erosion(outside, np.ones((5, 5)), border_value=1)
    inner = ndimage.binary_erosion(~outside, np.ones((5, 5)), border_value=1)
    assert (black["image"][deep] == 0).all() and deep.any()
    assert (ignored["image"][deep] > 0).all()
    np.testing.assert_array_equal(black["image"][inner], ignored["image"][inner])


def test_a_rotated_window_shows_the_surrounding_image():
    example = smooth_example(80, 80)
    result = cut(example, Warp(rotate(45)), (25, 25), 30)
    assert not (result["label"] == 255).any()
    # The window's corner shows the pixel straight above the window's centre.
    far = 14.5 * math.sqrt(2)
    row = ndimage.map_coordinates(example["image"][..., 0].astype(float), [[39.5], [39.5 + far]])
    np.testing.assert_allclose(result["image"][0, 29, 0], row[0], atol=3)
    assert source_positions(Warp(rotate(45)), (25, 25), 30)[:, 0, 29] == pytest.approx(
        [39.5, 39.5 + far]
    )


@pytest.mark.parametrize("shape", [(40_000, 12), (12, 40_000)])
def test_images_beyond_the_limit_of_cv2(shape):
    """cv2 gets only the part that is read; positions far from the origin stay precise."""
    example = smooth_example(*shape)
    corner = tuple(n - 10 for n in shape)
    part = {k: v[-120:, -120:] if np.ndim(v) else v for k, v in example.items()}
    inner = tuple(min(n, 120) - 10 for n in shape)
    given = Warp(rotate(30), np.array([0.3, -0.2]))
    result, expected = cut(example, given, corner, 9), cut(part, given, inner, 9)
    for key in ("image", "label", "weight"):
        np.testing.assert_allclose(result[key], expected[key], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("centre", "length", "expected"),
    [
        (500, 100_000, slice(487, 514)),
        (5, 100_000, slice(0, 19)),
        (-40, 100_000, slice(26, 53)),
        (99_995, 100_000, slice(99_982, 100_000)),
        (0, 1, slice(0, 1)),
    ],
)
def test_the_slice_that_is_read_is_small(centre, length, expected):
    sources = np.linspace(-10, 10, 21, dtype=np.float32)
    inside, part, beyond = warp._within(sources, centre, length)
    assert part == expected
    at = sources + centre
    np.testing.assert_array_equal(beyond, (at < 0) | (at > length - 1))
    walk = np.r_[np.arange(length), np.arange(length)[::-1]]
    np.testing.assert_array_equal(inside + part.start, walk[at.astype(int) % len(walk)])


def test_cubic_overshoot_is_clipped_to_the_range():
    image = np.zeros((20, 20, 1), np.uint16)
    image[:, 10:] = 65535
    example = {"image": image, "label": np.zeros((20, 20), np.uint8)}
    result = cut(example, Warp(shift=np.array([0, 0.5])), (2, 2), 16)
    assert result["image"].dtype == np.float32
    assert result["image"].min() == 0 and result["image"].max() == 65535
    assert "weight" not in result
