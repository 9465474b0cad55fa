"""Tests of RandAugment: number, magnitude, and each operation against Pillow's."""

import functools
from collections import Counter

import numpy as np
import pytest
from made_data import coded
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage

from configs import base
from unet_jax.data.augment import colour, randaugment
from unet_jax.data.augment.randaugment import OPERATIONS, draw
from unet_jax.data.augment.transforms import build
from unet_jax.data.augment.warp import Warp
from unet_jax.data.fit import Fit

UINT8 = np.dtype(np.uint8)
RANGES = base.get_config().augment.to_dict()
# The operations of the paper.
NAMES = (
    "identity autocontrast equalize rotation solarize color posterize contrast brightness "
    "sharpness shear_x shear_y translate_x translate_y"
).split()


def an_image(channels: int = 3, side: int = 200) -> np.ndarray:
    """Returns a uint8 image with values from 20 to 230 and smooth gradients."""
    noise = np.random.default_rng(0).random((side, side, channels))
    smooth = ndimage.gaussian_filter(noise, (1, 1, 0))
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    return np.rint(20 + 210 * smooth).astype(np.uint8)


def as_pillow(name: str, image: np.ndarray) -> np.ndarray:
    """Applies the operation at full strength with Pillow, which the paper's code uses."""
    picture = Image.fromarray(image)
    operations = {
        "autocontrast": ImageOps.autocontrast,
        "equalize": ImageOps.equalize,
        "solarize": lambda x: ImageOps.solarize(x, 0),
        "posterize": lambda x: ImageOps.posterize(x, 4),
        "color": lambda x: ImageEnhance.Color(x).enhance(1.9),
        "contrast": lambda x: ImageEnhance.Contrast(x).enhance(1.9),
        "brightness": lambda x: ImageEnhance.Brightness(x).enhance(1.9),
        "sharpness": lambda x: ImageEnhance.Sharpness(x).enhance(1.9),
    }
    return np.asarray(operations[name](picture))


def test_the_operations_are_the_paper_s():
    assert sorted(OPERATIONS) == sorted(NAMES)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("autocontrast", 1),
        ("equalize", 3),  # Pillow uses whole pixels per level
        ("solarize", 0),
        ("posterize", 0),
        ("color", 1),
        ("contrast", 3),  # Pillow uses the mean of the grey image
        ("brightness", 1),
        ("sharpness", 1),
    ],
)
def test_operations_equal_pillow(name, tolerance):
    image = an_image()
    found = colour.apply(image, [OPERATIONS[name](1.0, 40)], UINT8).astype(int)
    expected = as_pillow(name, image).astype(int)
    inner = (slice(1, -1),) * 2  # Pillow does not sharpen the outermost pixels
    assert np.abs(found - expected)[inner].max() <= tolerance
    assert np.abs(expected - image.astype(int)).max() > 10


def test_geometric_operations_at_full_strength():
    assert OPERATIONS["identity"](1.0, 50).on_grid
    turn = OPERATIONS["rotation"](1.0, 50).matrix
    assert np.degrees(np.arctan2(turn[0, 1], turn[0, 0])) == pytest.approx(30)
    np.testing.assert_allclose(OPERATIONS["shear_x"](1.0, 50).matrix, [[1, 0], [0.3, 1]])
    np.testing.assert_allclose(OPERATIONS["shear_y"](-1.0, 50).matrix, [[1, -0.3], [0, 1]])
    np.testing.assert_allclose(OPERATIONS["translate_x"](1.0, 50).shift, [0, 22.5])
    np.testing.assert_allclose(OPERATIONS["translate_y"](-0.5, 50).shift, [-11.25, 0])


def test_operations_at_intermediate_strengths():
    image = an_image()
    weaker = colour.apply(image, [OPERATIONS["brightness"](-0.5, 40)], UINT8)
    np.testing.assert_allclose(weaker, image * 0.55, atol=0.51)
    half = colour.apply(image, [OPERATIONS["solarize"](-0.5, 40)], UINT8)
    np.testing.assert_array_equal(half, ImageOps.solarize(Image.fromarray(image), 128))
    for strength, bits in (
        (0.0, 8),
        (0.1, 8),
        (-0.25, 7),
        (0.5, 6),
        (-0.75, 5),
        (0.9, 4),
        (1.0, 4),
    ):
        found = colour.apply(image, [OPERATIONS["posterize"](strength, 40)], UINT8)
        np.testing.assert_array_equal(found, ImageOps.posterize(Image.fromarray(image), bits))


@pytest.mark.parametrize("name", sorted({*NAMES} - {"autocontrast", "equalize"}))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_magnitude_of_zero_changes_nothing(name, dtype):
    top = np.iinfo(dtype).max
    image = np.random.default_rng(0).integers(0, top, (20, 20, 3), dtype, endpoint=True)
    image[0, 0] = top
    for part in (OPERATIONS[name](0.0, 20), OPERATIONS[name](-0.0, 20)):
        if isinstance(part, Warp):
            assert part.on_grid
            np.testing.assert_array_equal(part.matrix, np.eye(2))
        else:
            np.testing.assert_array_equal(colour.apply(image, [part], np.dtype(dtype)), image)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_color_does_not_change_images_that_are_not_rgb(channels):
    image = an_image(channels)
    result = colour.apply(image, [OPERATIONS["color"](1.0, 40)], UINT8)
    assert (result == image).all() == (channels != 3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0, 77, 255])
def test_constant_images(name, value):
    image = np.full((9, 9, 1), value, np.uint8)
    part = OPERATIONS[name](0.5, 9)
    if not isinstance(part, Warp):
        result = colour.apply(image, [part], UINT8)
        assert len(np.unique(result)) == 1
        if name in ("autocontrast", "equalize"):
            np.testing.assert_array_equal(result, image)


def test_values_are_clipped_before_levels_are_counted():
    image = np.array([[[-0.5], [0.0], [0.5], [1.0], [3.0], [2.0]]], np.float32)
    assert randaugment.solarize(image, 0.25).ravel().tolist() == [0, 0, 0.5, 0, 0, 0]
    assert randaugment.autocontrast(image).ravel().tolist() == [0, 0, 0.5, 1, 1, 1]
    # Two of the three values below the highest one are below 1/2.
    np.testing.assert_allclose(randaugment.equalize(image).ravel(), [0, 0, 2 / 3, 1, 1, 1])
    assert randaugment.posterize(image, 4).ravel() == pytest.approx(
        [0, 0, 128 / 255, 240 / 255, 240 / 255, 240 / 255]
    )


def kind(part) -> str:
    """Returns the name of a drawn operation, or of a group that cannot be told apart."""
    if isinstance(part, Warp):
        moved = np.argmax(np.abs(part.shift)) if part.shift.any() else None
        if moved is not None:
            return ("translate_y", "translate_x")[moved]
        a, (b, c) = part.matrix[0, 0], (part.matrix[0, 1], part.matrix[1, 0])
        if b and c:
            return "rotation"
        return "shear_y" if b else "shear_x" if c else "identity" if a == 1 else "other"
    function = part.func if isinstance(part, functools.partial) else part
    named = {"saturation": "color", "scale_values": "brightness"}
    return named.get(function.__name__, function.__name__)


def test_operations_and_signs_are_equally_likely():
    rng = np.random.default_rng(0)
    drawn = [part for _ in range(1400) for part in draw(2, 6.0, 100, rng)]
    counts = Counter(map(kind, drawn))
    assert set(counts) == {*NAMES}
    assert all(150 < count < 250 for count in counts.values())
    slopes = [part.matrix[1, 0] for part in drawn if kind(part) == "shear_x"]
    assert set(np.round(np.abs(slopes), 9)) == {0.18}
    assert 0.4 < np.mean(np.sign(slopes) > 0) < 0.6
    factors = {round(p.keywords["factor"], 9) for p in drawn if kind(p) == "contrast"}
    assert factors == {0.46, 1.54}


@pytest.mark.parametrize("number", [0, 1, 2, 5])
def test_number_operations_are_drawn_with_replacement(number):
    rng = np.random.default_rng(1)
    drawn = [draw(number, 9.0, 10, rng) for _ in range(200)]
    assert {len(parts) for parts in drawn} == {number}
    repeated = sum(len(set(map(kind, parts))) < number for parts in drawn)
    assert (repeated > 0) == (number > 1)


def test_number_and_magnitude_come_from_the_config():
    example = coded(30, 30)
    rng = np.random.default_rng
    none = build(("randaugment",), RANGES | {"randaugment_number": 0}, fit=Fit("crop", 24))
    plain = build((), RANGES, fit=Fit("crop", 24))
    for seed in range(5):
        one, other = none(example, rng(seed)), plain(example, rng(seed))
        np.testing.assert_array_equal(one["image"], other["image"])
    # Labels move only with operations that move pixels.
    label = np.repeat(np.repeat(np.arange(4, dtype=np.uint8), 10)[None], 40, axis=0)
    image = label[..., None] * 60
    for magnitude, most in ((9.0, 1.0), (0.0, 0.0)):
        changed = []
        augment = build(
            ("randaugment",), RANGES | {"randaugment_magnitude": magnitude}, fit=Fit("crop", 40)
        )
        for seed in range(40):
            result = augment({"image": image, "label": label}, rng(seed))
            changed.append((result["label"] != label).any())
        assert np.mean(changed) <= most and any(changed) == (magnitude > 0)
