"""Random transforms: image and label stay together, pixel for pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_jax.data.augment import TRANSFORMS, crop, flip, mirror, pad, quarter_turn

PROPERTY = settings(max_examples=40, deadline=None, derandomize=True)
SIDES, SEEDS = st.integers(1, 9), st.integers(0, 10_000)
DTYPES = st.sampled_from([np.uint8, np.uint16])


def coded(height: int, width: int, dtype=np.uint8, seed: int = 0) -> dict:
    """An image whose channels are its label, its rows and its columns; nobody may write to it."""
    label = np.random.default_rng(seed).choice([0, 1, 2, 255], (height, width)).astype(np.uint8)
    rows, columns = np.indices((height, width))
    image = np.stack([label, rows, columns], axis=-1).astype(dtype)
    image.flags.writeable = label.flags.writeable = False
    return {"image": image, "label": label, "index": np.int32(17)}


def places(example: dict) -> np.ndarray:
    """Row and column that each pixel comes from, [H, W, 2]."""
    return example["image"][..., 1:].astype(int)


def assert_aligned(example: dict, dtype=np.uint8) -> None:
    image, label = example["image"], example["label"]
    assert set(example) == {"image", "label", "index"}
    assert example["index"] == 17
    assert image.dtype == dtype
    assert label.dtype == np.uint8
    assert image.shape == (*label.shape, 3)
    np.testing.assert_array_equal(image[..., 0], label)


def test_the_names_that_configs_use():
    assert TRANSFORMS["flip"] is flip
    assert TRANSFORMS["mirror"] is mirror
    assert TRANSFORMS["quarter_turn"] is quarter_turn


def test_a_mirrored_image_is_never_upside_down():
    example = coded(4, 6)
    seen = {mirror(example, np.random.default_rng(seed))["image"].tobytes() for seed in range(20)}
    assert seen == {example["image"].tobytes(), example["image"][:, ::-1].tobytes()}


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
@PROPERTY
@given(side=SIDES, dtype=DTYPES, seed=SEEDS)
def test_transforms_keep_image_and_label_together(name, side, dtype, seed):
    example = coded(side, side, dtype, seed)
    image, label = example["image"].copy(), example["label"].copy()
    result = TRANSFORMS[name](example, np.random.default_rng(seed))
    assert_aligned(result, dtype)
    assert result["label"].shape == (side, side)
    np.testing.assert_array_equal(example["image"], image)
    np.testing.assert_array_equal(example["label"], label)


@pytest.mark.parametrize("name", ["flip", "mirror", "quarter_turn"])
@PROPERTY
@given(height=SIDES, width=SIDES, seed=SEEDS)
def test_symmetries_move_every_pixel_once(name, height, width, seed):
    result = TRANSFORMS[name](coded(height, width, seed=seed), np.random.default_rng(seed))
    assert_aligned(result)
    shapes = [(height, width)] if name == "flip" else [(height, width), (width, height)]
    assert result["label"].shape in shapes
    assert sorted(map(tuple, places(result).reshape(-1, 2).tolist())) == list(
        np.ndindex(height, width)
    )


def outcomes(transforms, example: dict, draws: int = 400) -> dict[bytes, int]:
    """How often each result came, over generators of different seeds."""
    counts: dict[bytes, int] = {}
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        result = example
        for transform in transforms:
            result = transform(result, rng)
        key = places(result).tobytes()
        counts[key] = counts.get(key, 0) + 1
    return counts


@pytest.mark.parametrize(
    ("transforms", "expected"),
    [((flip,), 4), ((quarter_turn,), 4), ((flip, quarter_turn), 8)],
    ids=["flip", "quarter_turn", "both"],
)
def test_all_symmetries_of_the_square_are_reached_equally(transforms, expected):
    counts = outcomes(transforms, coded(3, 3))
    assert len(counts) == expected
    share = 400 / expected
    assert all(0.5 * share < count < 1.5 * share for count in counts.values())


@PROPERTY
@given(height=SIDES, width=SIDES, size=SIDES, dtype=DTYPES, seed=SEEDS)
def test_crop_is_a_window_of_the_padded_image(height, width, size, dtype, seed):
    example = coded(height, width, dtype, seed)
    image, label = example["image"].copy(), example["label"].copy()
    result = crop(example, np.random.default_rng(seed), size)
    assert result["label"].shape == (size, size)
    assert result["image"].shape == (size, size, 3)
    assert result["image"].dtype == dtype and result["label"].dtype == np.uint8
    assert result["index"] == 17
    if min(height, width) >= size:
        assert_aligned(result, dtype)
        rows, columns = np.moveaxis(places(result), -1, 0)
        np.testing.assert_array_equal(rows - rows[0, 0], np.indices((size, size))[0])
        np.testing.assert_array_equal(columns - columns[0, 0], np.indices((size, size))[1])
    else:
        # A side that the image fills partly starts at 0: there is no window beyond it.
        inside = np.ones((size, size), bool)
        inside[height:], inside[:, width:] = False, False
        assert np.all(result["label"][~inside] == 255)
        np.testing.assert_array_equal(result["image"][inside][:, 0], result["label"][inside])
    np.testing.assert_array_equal(example["image"], image)
    np.testing.assert_array_equal(example["label"], label)


def test_every_window_is_reached():
    example = coded(5, 4)
    seen = {tuple(places(crop(example, np.random.default_rng(s), 3))[0, 0]) for s in range(200)}
    assert seen == set(np.ndindex(3, 2))


def test_windows_of_an_image_that_is_too_low_still_move_sideways():
    example = coded(2, 6)
    seen = {tuple(places(crop(example, np.random.default_rng(s), 4))[0, 0]) for s in range(100)}
    assert seen == {(0, 0), (0, 1), (0, 2)}


def test_a_crop_of_the_whole_image_is_the_image():
    example = coded(4, 4)
    result = crop(example, np.random.default_rng(0), 4)
    np.testing.assert_array_equal(result["image"], example["image"])


@PROPERTY
@given(height=SIDES, width=SIDES, more=st.tuples(st.integers(0, 25), st.integers(0, 25)))
def test_pad_mirrors_the_image_and_ignores_the_label_there(height, width, more):
    example = coded(height, width, np.uint16)
    image, label = example["image"].copy(), example["label"].copy()
    result = pad(example, height + more[0], width + more[1])
    assert result["image"].shape == (height + more[0], width + more[1], 3)
    assert result["image"].dtype == np.uint16 and result["label"].dtype == np.uint8
    assert result["index"] == 17
    np.testing.assert_array_equal(result["image"][:height, :width], image)
    np.testing.assert_array_equal(result["label"][:height, :width], label)
    assert np.all(result["label"][height:] == 255)
    assert np.all(result["label"][:, width:] == 255)
    # Mirrored at the last row, which comes twice, and again at the first, to any length.
    for axis, length in enumerate((height, width)):
        walk = [*range(length), *reversed(range(length))]
        place = np.indices(result["label"].shape)[axis]
        np.testing.assert_array_equal(places(result)[..., axis], np.take(walk, place % len(walk)))
    np.testing.assert_array_equal(example["image"], image)
    np.testing.assert_array_equal(example["label"], label)


def test_pad_by_hand():
    image = np.array([[[1], [2], [3]]], np.uint8)
    example = {"image": image, "label": np.array([[0, 1, 0]], np.uint8)}
    result = pad(example, 2, 5)
    np.testing.assert_array_equal(result["image"][..., 0], [[1, 2, 3, 3, 2]] * 2)
    np.testing.assert_array_equal(result["label"], [[0, 1, 0, 255, 255], [255] * 5])


@pytest.mark.parametrize(
    "transform",
    [*TRANSFORMS.values(), lambda example, rng: crop(example, rng, 3)],
    ids=[*TRANSFORMS, "crop"],
)
def test_the_generator_s_seed_decides(transform):
    example = coded(7, 7)
    results = [
        [places(transform(example, np.random.default_rng(seed))).tobytes() for seed in range(20)]
        for _ in range(2)
    ]
    assert results[0] == results[1]
    assert len(set(results[0])) > 1
