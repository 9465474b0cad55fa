"""Tests of augmentation: image, label and weight stay aligned, pixel for pixel."""

import hashlib
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_data import coded

from configs import base
from unet_jax.core.errors import UserError
from unet_jax.data.augment.transforms import TRANSFORMS, build, cubic_basis
from unet_jax.data.augment.warp import Warp
from unet_jax.data.fit import Fit
from unet_jax.data.resize import pad, resize

PROPERTY = settings(max_examples=40, deadline=None, derandomize=True)
SIDES, SEEDS = st.integers(1, 9), st.integers(0, 10_000)
DTYPES = st.sampled_from([np.uint8, np.uint16])
RANGES = base.get_config().augment.to_dict()
ZERO = RANGES | {name: 0 for name, v in RANGES.items() if v != "ignored" and name != "elastic_grid"}
SYMMETRIES = ("flip", "mirror", "quarter_turn")
GEOMETRIC = ("rotation", "shift", "scale", "shear", "elastic")


def augmented(names, example: dict, seed: int, size: int, fit: str = "crop", **changes) -> dict:
    augment = build(names, RANGES | changes, fit=Fit(fit, size))
    return augment(example, np.random.default_rng(seed))


def sources(example: dict) -> np.ndarray:
    """Returns the source row and column of each pixel, [H, W, 2]."""
    return example["image"][..., 1:].astype(int)


def drawn(name: str, field: str, count: int = 2000, size: int = 10, **changes) -> np.ndarray:
    """Returns a field of `count` random transforms of one name."""
    rng, ranges = np.random.default_rng(0), RANGES | changes
    parts = [TRANSFORMS[name](ranges, size, rng) for _ in range(count)]
    return np.array(
        [getattr(p, field) if isinstance(p, Warp) else p.keywords[field] for p in parts]
    )


def assert_uniform(values: np.ndarray, low: float, high: float) -> None:
    """Checks the deciles and the ends of a uniform distribution."""
    assert low <= values.min() < low + 0.01 * (high - low)
    assert high >= values.max() > high - 0.01 * (high - low)
    shares = np.linspace(0.1, 0.9, 9)
    expected = low + (high - low) * shares
    np.testing.assert_allclose(np.quantile(values, shares), expected, atol=0.05 * (high - low))


# Computed before other transforms were added: later versions must give the same results.
DIGESTS = {
    ("crop", ()): "f25ecd74b1d08f9d",
    ("crop", ("mirror",)): "3b33366c5278f226",
    ("crop", ("flip",)): "cfb513723ad3b706",
    ("crop", ("quarter_turn",)): "5f44d681595c06aa",
    ("crop", ("flip", "quarter_turn")): "e691298ca31e13ca",
    ("crop", ("quarter_turn", "mirror", "flip", "quarter_turn")): "80bc0fb37c47c13b",
    ("resize", ()): "76113622fd61cf44",
    ("resize", ("mirror",)): "798b17cac99706b2",
    ("resize", ("flip",)): "f03c2d84eb93d2cf",
    ("resize", ("quarter_turn",)): "bd9182960257b443",
    ("resize", ("flip", "quarter_turn")): "c3288a6daf688a16",
    ("resize", ("quarter_turn", "mirror", "flip", "quarter_turn")): "f155fec2f6dd6bd8",
}
SIZES = [
    (40, 53, 3, np.uint8),
    (24, 24, 1, np.uint8),
    (9, 31, 1, np.uint16),
    (1, 1, 3, np.uint8),
    (30, 17, 5, np.uint16),
]


@pytest.mark.parametrize(("fit", "names"), DIGESTS, ids=str)
def test_flips_quarter_turns_and_crops_are_unchanged(fit, names):
    found = hashlib.sha256()
    for height, width, channels, dtype in SIZES:
        rng = np.random.default_rng([height, width, channels])
        shape, top = (height, width, channels), np.iinfo(dtype).max
        image = rng.integers(0, top + 1, shape, dtype=dtype)
        label = rng.choice(np.array([0, 1, 2, 255], np.uint8), (height, width))
        example = {"image": image, "label": label, "index": np.int32(5)}
        for seed in range(12):
            result = augmented(names, example, seed, 24, fit)
            for array in (result["image"], result["label"]):
                found.update(str((array.shape, array.dtype)).encode())
                found.update(np.ascontiguousarray(array).tobytes())
    assert found.hexdigest()[:16] == DIGESTS[fit, names]


def test_a_mirrored_image_is_never_upside_down():
    example = coded(6, 6)
    seen = {augmented(("mirror",), example, seed, 6)["image"].tobytes() for seed in range(20)}
    assert seen == {example["image"].tobytes(), example["image"][:, ::-1].tobytes()}


@pytest.mark.parametrize("name", SYMMETRIES)
@PROPERTY
@given(side=SIDES, dtype=DTYPES, seed=SEEDS)
def test_symmetries_permute_the_pixels(name, side, dtype, seed):
    example = coded(side, side, dtype, seed, weight=True)
    result = augmented((name,), example, seed, side)
    assert set(result) == {"image", "label", "weight", "index"} and result["index"] == 17
    assert result["image"].dtype == dtype and result["label"].dtype == np.uint8
    np.testing.assert_array_equal(result["image"][..., 0], result["label"])
    at = sources(result)
    np.testing.assert_array_equal(result["weight"], example["weight"][tuple(at.T)].T)
    assert sorted(map(tuple, at.reshape(-1, 2).tolist())) == list(np.ndindex(side, side))


@pytest.mark.parametrize(
    ("names", "expected"),
    [(("flip",), 4), (("quarter_turn",), 4), (("flip", "quarter_turn"), 8)],
)
def test_all_symmetries_of_the_square_are_equally_likely(names, expected):
    example, counts = coded(3, 3), {}
    for seed in range(400):
        key = sources(augmented(names, example, seed, 3)).tobytes()
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == expected
    share = 400 / expected
    assert all(0.5 * share < count < 1.5 * share for count in counts.values())


@PROPERTY
@given(height=SIDES, width=SIDES, size=SIDES, dtype=DTYPES, seed=SEEDS)
def test_without_transforms_the_result_is_a_window_of_the_padded_image(
    height, width, size, dtype, seed
):
    example = coded(height, width, dtype, seed, weight=True)
    result = augmented((), example, seed, size)
    assert result["image"].shape == (size, size, 3)
    assert result["image"].dtype == dtype and result["label"].dtype == np.uint8
    assert result["index"] == 17
    padded = pad(example, max(height, size), max(width, size))
    top, left = sources(result)[0, 0]
    for key in ("image", "label", "weight"):
        window = padded[key][top : top + size, left : left + size]
        np.testing.assert_array_equal(result[key], window)


def test_every_window_position_is_drawn():
    example = coded(5, 4)
    seen = {tuple(sources(augmented((), example, s, 3))[0, 0]) for s in range(200)}
    assert seen == set(np.ndindex(3, 2))


def test_windows_of_a_low_image_still_vary_horizontally():
    example = coded(2, 6)
    seen = {tuple(sources(augmented((), example, s, 4))[0, 0]) for s in range(100)}
    assert seen == {(0, 0), (0, 1), (0, 2)}


@pytest.mark.parametrize("fit", ["crop", "resize"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", sorted({*TRANSFORMS} - {*SYMMETRIES, "randaugment"}))
def test_a_strength_of_zero_changes_nothing(name, dtype, fit):
    rng = np.random.default_rng(1)
    image = rng.integers(0, np.iinfo(dtype).max, (40, 45, 3), dtype, endpoint=True)
    example = {"image": image, "label": image[..., 0].astype(np.uint8), "index": np.int32(0)}
    for seed in range(4):
        result = augmented((name, name), example, seed, 32, fit, **ZERO)
        plain = augmented((), example, seed, 32, fit)
        for key in plain:
            np.testing.assert_array_equal(result[key], plain[key])
            assert result[key].dtype == plain[key].dtype


def test_a_strength_of_zero_preserves_every_16_bit_value():
    """Every 16-bit value passes through all photometric transforms."""
    names = ("brightness", "contrast", "gamma", "hue", "saturation", "blur", "noise")
    rng = np.random.default_rng(0)
    image = rng.permuted(np.tile(np.arange(65536, dtype=np.uint16), (3, 1)), axis=1)
    image = image.T.reshape(256, 256, 3)
    example = {"image": image, "label": np.zeros((256, 256), np.uint8)}
    np.testing.assert_array_equal(augmented(names, example, 0, 256, **ZERO)["image"], image)


@PROPERTY
@given(
    st.tuples(st.integers(1, 50), st.integers(1, 50)),
    st.integers(1, 30),
    SEEDS,
    DTYPES,
    st.permutations(["flip", "quarter_turn", *GEOMETRIC]),
)
def test_label_and_weight_stay_aligned_with_the_image(shape, size, seed, dtype, names):
    """The image encodes each pixel's source, with subpixel precision."""
    rows, columns = np.indices(shape)
    label = ((rows * 7 + columns * 3) % 5).astype(np.uint8)
    image = np.stack([rows, columns], axis=-1).astype(dtype) * 5
    example = {"image": image, "label": label, "weight": (1 + rows).astype(np.float32)}
    before = {key: value.copy() for key, value in example.items()}
    result = augmented(names, example, seed, size, elastic_pixels=2.0)
    for key, value in before.items():
        np.testing.assert_array_equal(example[key], value)
        assert result[key].dtype == value.dtype and result[key].shape[:2] == (size, size)
    ignored = result["label"] == 255
    assert set(result["label"][~ignored]) <= set(label.flat)
    np.testing.assert_array_equal(result["weight"] == 0, ignored)
    at = result["image"] / 5
    near = np.rint(at).astype(int).clip(0, np.array(shape) - 1)
    # Excludes pixels halfway between two others, and those near the mirrored edge.
    sure = (np.abs(at - near) < 0.3).all(-1) & ~ignored
    sure &= ((at > 1.5) & (at < np.array(shape) - 2.5)).all(-1)
    np.testing.assert_array_equal(result["label"][sure], label[near[sure][:, 0], near[sure][:, 1]])
    np.testing.assert_allclose(result["weight"][sure], 1 + at[sure][:, 0], atol=0.3)


@pytest.mark.parametrize("fit", ["crop", "resize"])
def test_only_pixels_from_outside_are_ignored(fit):
    image = np.full((30, 30, 1), 9, np.uint8)
    example = {"image": image, "label": np.ones((30, 30), np.uint8)}
    share = []
    for seed in range(200):
        label = augmented(("shift",), example, seed, 30, fit, shift=0.3)["label"]
        outside = label == 255
        # The outside consists of whole rows at one end and whole columns at one side.
        rows, columns = outside.all(1), outside.all(0)
        np.testing.assert_array_equal(outside, rows[:, None] | columns[None])
        assert not (rows[0] and rows[-1]) and not (columns[0] and columns[-1])
        share += [rows.mean(), columns.mean()]
    assert max(share) == pytest.approx(0.3, abs=0.02)
    assert np.mean(share) == pytest.approx(0.15, abs=0.02)


def test_rotated_windows_show_the_surrounding_image():
    """Only rotated windows near the image's edge have pixels from outside the image."""
    example = {"image": np.zeros((100, 100, 1), np.uint8), "label": np.ones((100, 100), np.uint8)}
    seen = {}
    for size in (10, 90):
        results = [
            augmented(("rotation",), example, seed, size, rotation_degrees=180.0)["label"]
            for seed in range(50)
        ]
        seen[size] = np.mean([(label == 255).any() for label in results])
    assert seen[10] < 0.2 and seen[90] > 0.8


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_the_generator_s_seed_determines_the_result(name):
    example = coded(30, 30, weight=True)
    results = [
        [augmented((name,), example, seed, 24)["image"].tobytes() for seed in range(20)]
        for _ in range(2)
    ]
    assert results[0] == results[1]
    assert len(set(results[0])) > 10


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 40, 3), (31, 7, 3)])
@pytest.mark.parametrize("size", [1, 2, 33])
def test_odd_and_tiny_sizes(name, shape, size):
    image = np.random.default_rng(0).integers(0, 65535, shape, np.uint16)
    example = {"image": image, "label": np.ones(shape[:2], np.uint8), "index": np.int32(1)}
    for fit in ("crop", "resize"):
        result = augmented((name,), example, 3, size, fit)
        assert result["image"].shape == (size, size, 3) and result["image"].dtype == np.uint16
        assert set(result["label"].flat) <= {1, 255} and result["index"] == 1


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_any_number_of_channels(channels):
    image = np.random.default_rng(0).integers(0, 255, (30, 30, channels), np.uint8)
    example = {"image": image, "label": np.ones((30, 30), np.uint8)}
    names = tuple(name for name in TRANSFORMS if name not in ("hue", "saturation"))
    for seed in range(8):
        assert augmented(names, example, seed, 20)["image"].shape == (20, 20, channels)
    one = {"image": image[..., -1:], "label": example["label"]}
    several, alone = (augmented(GEOMETRIC, e, 0, 20)["image"] for e in (example, one))
    np.testing.assert_array_equal(several[..., -1:], alone)


@pytest.mark.parametrize("name", ["hue", "saturation"])
def test_colour_transforms_of_grey_images_are_refused(name):
    example = {"image": np.zeros((8, 8, 1), np.uint8), "label": np.zeros((8, 8), np.uint8)}
    with pytest.raises(UserError, match=rf"^data\.augment: {name} is for RGB .* 1 channel;"):
        augmented((name,), example, 0, 8)


def test_training_resizes_as_evaluation_does():
    example = coded(20, 31, np.uint16, weight=True)
    result, expected = augmented((), example, 0, 12, "resize"), resize(example, 12, 12)
    for key in ("image", "label", "weight"):
        np.testing.assert_array_equal(result[key], expected[key])


def test_an_augmentation_can_be_pickled():
    augment = build(tuple(TRANSFORMS), base.get_config().augment, fit=Fit("crop", 16))
    again = pickle.loads(pickle.dumps(augment))
    assert again == augment and type(again.ranges) is dict
    example = coded(20, 20)
    one, other = (a(example, np.random.default_rng(5)) for a in (augment, again))
    np.testing.assert_array_equal(one["image"], other["image"])


def test_strengths_are_drawn_uniformly():
    turned = drawn("rotation", "matrix", rotation_degrees=30.0)
    assert_uniform(np.degrees(np.arctan2(turned[:, 0, 1], turned[:, 0, 0])), -30, 30)
    shifts = drawn("shift", "shift", size=50, shift=0.2)
    for axis in shifts.T:
        assert_uniform(axis, -10, 10)
    assert abs(np.corrcoef(shifts.T)[0, 1]) < 0.1
    scales = drawn("scale", "matrix", scale=1.0)
    np.testing.assert_array_equal(scales[:, 0, 0], scales[:, 1, 1])
    assert not scales[:, 0, 1].any() and not scales[:, 1, 0].any()
    assert_uniform(np.log2(scales[:, 0, 0]), -1, 1)
    sheared = drawn("shear", "matrix", shear=0.4)
    assert (sheared[:, [0, 1], [0, 1]] == 1).all()
    assert_uniform(sheared[:, 0, 1], -0.4, 0.4)
    assert_uniform(sheared[:, 1, 0], -0.4, 0.4)
    assert abs(np.corrcoef(sheared[:, 0, 1], sheared[:, 1, 0])[0, 1]) < 0.1
    assert_uniform(drawn("brightness", "amount", brightness=0.3), -0.3, 0.3)
    assert_uniform(drawn("contrast", "factor", contrast=0.3), 0.7, 1.3)
    assert_uniform(np.log(drawn("gamma", "exponent", gamma=0.5)), -np.log(1.5), np.log(1.5))
    assert_uniform(drawn("hue", "turn", hue=0.3), -0.3, 0.3)
    assert_uniform(drawn("saturation", "factor", saturation=0.3), 0.7, 1.3)
    assert_uniform(drawn("blur", "sigma", blur=3.0), 0, 3)
    assert_uniform(drawn("noise", "sigma", noise=0.3), 0, 0.3)
    assert len(set(drawn("noise", "seed").tolist())) == 2000


def test_elastic_displacements_are_gaussian_at_the_grid_and_smooth_between():
    fields = drawn("elastic", "displacement", 500, size=31, elastic_pixels=7.0)
    assert fields.shape == (500, 2, 31, 31) and fields.dtype == np.float32
    middle = fields[:, :, 15, 15]
    np.testing.assert_allclose(middle.std(axis=0), 7, rtol=0.1)
    assert np.abs(middle.mean(axis=0)).max() < 1
    assert abs(np.corrcoef(middle.T)[0, 1]) < 0.15
    corners = fields[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert np.abs(np.corrcoef(corners.T) - np.eye(4)).max() < 0.2
    np.testing.assert_allclose(corners.std(axis=0), 7, rtol=0.15)
    # A spline through three points is a parabola: its third differences are 0.
    assert np.abs(np.diff(fields, 3, axis=-1)).max() < 1e-3
    assert np.abs(np.diff(fields, 2, axis=-1)).max() > 0.05


@pytest.mark.parametrize(("size", "points"), [(31, 3), (12, 2), (40, 5), (1, 3)])
def test_the_cubic_basis_reproduces_polynomials(size, points):
    """Polynomials given on the grid are reproduced at pixel centres."""
    basis = cubic_basis(size, points)
    assert basis.shape == (size, points) and basis.dtype == np.float32
    at, grid = (np.arange(size) + 0.5) / size, np.linspace(0, 1, points)
    for power in range(min(points, 4)):
        np.testing.assert_allclose(basis @ grid**power, at**power, atol=1e-6)


def test_geometric_transforms_apply_in_the_order_of_their_names():
    example = coded(40, 40)
    ranges = {"rotation_degrees": 90.0, "shear": 0.5}
    one, other = (
        augmented(n, example, 1, 16, **ranges)
        for n in (("mirror", "rotation", "shear"), ("shear", "rotation", "mirror"))
    )
    assert (one["image"] != other["image"]).any()
    # The transforms draw in order, and each matrix is multiplied from the right.
    rng = np.random.default_rng(1)
    corner = rng.integers(25), rng.integers(25)
    matrix = np.eye(2)
    for name in ("mirror", "rotation", "shear"):
        matrix = matrix @ TRANSFORMS[name](RANGES | ranges, 16, rng).matrix
    at = np.einsum("ij,jkl->ikl", matrix, np.indices((16, 16)) - 7.5)
    at += np.array(corner)[:, None, None] + 7.5
    inside = ((at > 3) & (at < 36)).all(0)
    found = np.moveaxis(sources(one), -1, 0)
    assert np.abs(found - at)[:, inside].max() < 0.6 and inside.sum() > 100


def test_photometric_transforms_apply_in_the_order_of_their_names():
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1) + 60
    example = {"image": image, "label": np.zeros((8, 8), np.uint8)}
    names = ("contrast", "gamma", "brightness")
    for order in (names, names[::-1]):
        found = augmented(order, example, 4, 8)["image"]
        rng = np.random.default_rng(4)
        rng.integers(1), rng.integers(1)  # the window's position
        expected = image / np.float32(255)
        for name in order:
            expected = TRANSFORMS[name](RANGES, 8, rng)(expected)
        np.testing.assert_allclose(found, expected * 255, atol=0.51)
        assert np.abs(found - image.astype(int)).max() > 5


def test_the_config_selects_the_fill_of_the_outside():
    example = {"image": np.full((9, 9, 1), 7, np.uint8), "label": np.ones((9, 9), np.uint8)}
    ignored, black = (
        augmented(("shift",), example, 1, 9, shift=1.0, outside=outside)
        for outside in ("ignored", "black")
    )
    outside = ignored["label"] == 255
    assert outside.any() and (ignored["image"] == 7).all()
    np.testing.assert_array_equal(black["label"], np.where(outside, 0, 1))
    np.testing.assert_array_equal(black["image"][..., 0], np.where(outside, 0, 7))
