"""Predictions in tiles and bands that equal the prediction of the whole image."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_files import noise
from made_runs import small_config
from tiled import Held, in_tiles, random_predictor

from unet_jax.inference import cut as cut_module
from unet_jax.inference.cut import Cut
from unet_jax.inference.predictor import Predictor
from unet_jax.models.unet import margin


@functools.cache
def predictor_of(**fields) -> Predictor:
    return random_predictor(small_config(**fields))


def whole(predictor: Predictor, image: np.ndarray) -> np.ndarray:
    return in_tiles(predictor, image, max(image.shape))


@pytest.mark.parametrize(
    ("depth", "norm", "upsample"),
    [
        (1, "batch", "transpose"),
        pytest.param(2, "none", "nearest", marks=pytest.mark.slow),
        pytest.param(3, "batch", "transpose", marks=pytest.mark.slow),
    ],
)
@settings(max_examples=2, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(20, 90)),
    side=st.integers(1, 40),
    seed=st.integers(0, 9),
)
def test_tiles_of_an_unpadded_network_are_the_whole_image(depth, norm, upsample, size, side, seed):
    predictor = predictor_of(
        model__padding="valid", model__depth=depth, model__norm=norm, model__upsample=upsample
    )
    image = noise((*size, 1), seed=seed)
    expected = whole(predictor, image)
    assert expected.std() > 1e-3
    np.testing.assert_allclose(in_tiles(predictor, image, side), expected, atol=1e-4)


def test_tiles_of_a_padded_network_are_the_whole_image_where_they_see_enough():
    """Nothing but rounding differs where no tile counts nearer to its end than its margin."""
    predictor = predictor_of(model__padding="same")
    image = noise((200, 136, 1))
    expected = whole(predictor, image)
    found = in_tiles(predictor, image, 112, overlap=56)  # 3/8 of 56 pixels are the margin, and 1
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("size", [(200, 136), (203, 97)])
def test_tiles_of_a_padded_network_are_the_whole_image_but_for_traces(size):
    """On multiples of 2^depth; else the last tile mirrors what the whole image has as zeros."""
    predictor = predictor_of(model__padding="same")
    image = noise((*size, 1))
    expected = whole(predictor, image)
    difference = np.abs(in_tiles(predictor, image, 80) - expected)
    inside = tuple(slice(0, n if n % 4 == 0 else n - margin(2)) for n in size)
    assert np.median(difference[inside]) < 1e-6
    assert np.quantile(difference[inside], 0.99) < 0.05
    assert np.abs(in_tiles(predictor, image, 80, overlap=0) - expected)[inside].max() > 0.5


def test_the_overlap_is_what_the_network_sees_as_far_as_the_tile_allows():
    config, same = small_config(), predictor_of(model__padding="same")
    valid = predictor_of(model__padding="valid")
    for side, expected in ((1024, 40), (80, 40), (79, 36), (50, 24), (7, 0)):
        assert Cut(config, same, side, []).overlap == expected
        assert Cut(config, valid, side, []).overlap == 0


@pytest.mark.parametrize(
    ("padding", "size"),
    [
        ("same", (203, 97)),
        pytest.param("valid", (60, 300), marks=pytest.mark.slow),
        pytest.param("same", (60, 300), marks=pytest.mark.slow),
        pytest.param("valid", (203, 97), marks=pytest.mark.slow),
    ],
)
def test_lower_tiles_of_a_wide_image_give_the_same(monkeypatch, padding, size):
    predictor = predictor_of(model__padding=padding)
    image = noise((*size, 1))
    expected = in_tiles(predictor, image, 160)
    cut = Cut(small_config(), predictor, 160, [size])
    before = cut._axes(size)[0].side
    around = 2 * cut.margin
    monkeypatch.setattr(cut_module, "BAND_BYTES", (80 + around) * size[1] * 16)
    after = cut._axes(size)[0]
    assert after.side <= 80
    assert after.side < before or size[0] == 60
    assert after.side > after.overlap
    assert after.side % predictor.multiple == 0
    difference = np.abs(in_tiles(predictor, image, 160) - expected)
    if padding == "valid":
        assert difference.max() < 1e-4
    else:  # as tiles of any side
        inside = difference[: size[0] // 4 * 4 - margin(2), : size[1] // 4 * 4 - margin(2)]
        assert np.median(inside) < 1e-6
        assert np.quantile(inside, 0.99) < 0.05


@settings(max_examples=10, deadline=None, derandomize=True)
@given(size=st.tuples(st.integers(1, 90), st.integers(1, 90)), rows=st.integers(1, 40))
def test_an_image_that_is_resized_in_bands_is_the_whole_one(size, rows):
    predictor, image = predictor_of(model__padding="same"), noise((*size, 1), np.uint16)
    cut = Cut(small_config(data__fit="resize"), predictor, 64, [size])
    ((expected, _),) = cut.tiles(Held(image))
    values = np.random.default_rng(0).random((16, 16, 1), np.float32)
    (smooth,) = cut.join(size, iter([values]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cut_module, "BAND_BYTES", size[1] * 16 * rows)
        ((found, _),) = cut.tiles(Held(image))
        bands = list(cut.join(size, iter([values])))
    assert len(bands) > 1 or size[0] <= rows
    assert found.dtype == expected.dtype
    assert np.abs(found.astype(int) - expected).max() <= 1  # where rounding decides
    np.testing.assert_allclose(np.concatenate(bands), smooth, atol=1e-6)


def test_images_within_one_tile_are_not_cut():
    predictor = predictor_of(model__padding="same")
    cut = Cut(small_config(), predictor, 64, [(64, 5), (65, 5)])
    image = noise((64, 5, 1))
    ((seen, surrounded),) = cut.tiles(Held(image))
    np.testing.assert_array_equal(seen, image)
    assert not surrounded
    assert len(list(cut.tiles(Held(noise((65, 5, 1)))))) == 2
    resized = Cut(small_config(data__fit="resize"), predictor, 8, [(65, 5)])
    ((seen, _),) = resized.tiles(Held(noise((65, 5, 1))))
    assert seen.shape == (16, 16, 1)
