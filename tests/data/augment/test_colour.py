"""Tests of photometric transforms, against other libraries and hand-computed values."""

import colorsys

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy import ndimage

from unet_jax.core.errors import UserError
from unet_jax.data.augment import colour


def an_image(channels: int = 3, seed: int = 0, side: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).random((side, side, channels), np.float32)


def test_brightness_is_added_and_contrast_is_about_the_mean():
    image = np.array([[[0.2], [0.4]], [[0.6], [0.8]]], np.float32)
    np.testing.assert_allclose(colour.brighten(image, -0.3)[..., 0], [[-0.1, 0.1], [0.3, 0.5]])
    np.testing.assert_allclose(colour.contrast(image, 0.5)[..., 0], [[0.35, 0.45], [0.55, 0.65]])
    colours = colour.contrast(an_image(), 2.0)
    assert colours.mean() == pytest.approx(an_image().mean(), abs=1e-5)
    np.testing.assert_allclose(np.ptp(colours), 2 * np.ptp(an_image()), rtol=1e-5)


def test_gamma_is_an_exponent_and_clips_negative_values():
    image = np.array([[[0.25], [-0.5], [1.0]]], np.float32)
    np.testing.assert_allclose(colour.gamma(image, 0.5)[0, :, 0], [0.5, 0, 1])
    np.testing.assert_allclose(colour.gamma(image, 2.0)[0, :, 0], [0.0625, 0, 1])


@pytest.mark.parametrize("turn", [-0.4, -0.1, 0.0, 0.1, 0.5])
def test_hue_equals_the_standard_library(turn):
    image = an_image(side=6)
    result = colour.hue(image, turn)
    for place in np.ndindex(6, 6):
        h, s, v = colorsys.rgb_to_hsv(*image[place].tolist())
        expected = colorsys.hsv_to_rgb((h + turn) % 1, s, v)
        np.testing.assert_allclose(result[place], expected, atol=1e-5)


def test_a_hue_shift_of_a_third_turns_red_into_green():
    red = np.array([[[0.9, 0.1, 0.1]]], np.float32)
    np.testing.assert_allclose(colour.hue(red, 1 / 3)[0, 0], [0.1, 0.9, 0.1], atol=1e-6)
    np.testing.assert_allclose(colour.hue(red, -1 / 3)[0, 0], [0.1, 0.1, 0.9], atol=1e-6)
    grey = np.full((2, 2, 3), 0.3, np.float32)
    np.testing.assert_allclose(colour.hue(grey, 0.2), grey, atol=1e-6)


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
def test_saturation_equals_pil(factor):
    image = np.rint(an_image() * 255).astype(np.uint8)
    expected = np.asarray(ImageEnhance.Color(Image.fromarray(image)).enhance(factor), int)
    found = colour.apply(image, [lambda x: colour.saturation(x, factor)], np.dtype(np.uint8))
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("change", [colour.hue, colour.saturation])
def test_colour_transforms_need_rgb(change, channels):
    with pytest.raises(UserError, match=rf"{change.__name__} is for RGB.* {channels} channels?;"):
        change(an_image(channels), 0.1)


@pytest.mark.parametrize("channels", [1, 3, 6])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.0])
def test_blur_is_gaussian(channels, sigma):
    image = an_image(channels)
    expected = ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="reflect", truncate=6)
    np.testing.assert_allclose(colour.blur(image, sigma), expected, atol=2e-3)
    assert colour.blur(image, 0.0) is image


def test_noise_is_gaussian_and_determined_by_its_seed():
    image = np.full((200, 200, 2), 0.5, np.float32)
    noisy = colour.noise(image, 0.1, 7)
    assert noisy.dtype == np.float32
    assert noisy.std() == pytest.approx(0.1, rel=0.02) and noisy.mean() == pytest.approx(
        0.5, abs=0.002
    )
    assert abs(np.corrcoef(noisy[..., 0].ravel(), noisy[..., 1].ravel())[0, 1]) < 0.02
    np.testing.assert_array_equal(noisy, colour.noise(image, 0.1, 7))
    assert (noisy != colour.noise(image, 0.1, 8)).mean() > 0.9


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_values_are_clipped_and_rounded_once_at_the_end(dtype):
    top = np.iinfo(dtype).max
    image = np.array([[[0], [1], [top // 2], [top - 1], [top]]], dtype)
    back_and_forth = [lambda x: x + 2, lambda x: x * 0.25, lambda x: x * 4, lambda x: x - 2]
    found = colour.apply(image, back_and_forth, np.dtype(dtype))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, image)
    found = colour.apply(image, [lambda x: x + 2], np.dtype(dtype))
    assert (found == top).all()
    assert (colour.apply(image, [lambda x: x - 2], np.dtype(dtype)) == 0).all()
    # Values are rounded, not truncated.
    found = colour.apply(image[:, 1:2], [lambda x: x + 0.45 / top], np.dtype(dtype))
    assert found.item() == 1
    assert colour.apply(
        np.float32([[[1.7], [-3], [1e6]]]), [], np.dtype(dtype)
    ).ravel().tolist() == [2, 0, top]


def test_an_image_without_changes_is_not_copied():
    image = np.zeros((3, 3, 1), np.uint8)
    assert colour.apply(image, [], image.dtype) is image
