"""What the network receives of stored values: the same on the host, on the device and exported."""

import functools
import weakref

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from configs import base, folder
from unet_jax import models
from unet_jax.core.errors import UserError
from unet_jax.core.intensities import INPUT_RANGES, Intensities
from unet_jax.data import intensities
from unet_jax.data.augment import colour, warp
from unet_jax.data.dataset import Dataset, Split
from unet_jax.data.intensities import check_type, resolved, statistics
from unet_jax.runs.experiment import resolve_without_data

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)
TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32")


def pick(images, index):
    return images[index], np.zeros(images[index].shape[:2], np.uint8)


def split_of(images) -> Split:
    return Split(
        names=tuple(f"image-{i}" for i in range(len(images))),
        sizes=tuple(image.shape[:2] for image in images),
        read=functools.partial(pick, images),
    )


def dataset_of(images) -> Dataset:
    split = split_of(images)
    return Dataset(
        splits={"train": split, "validation": split, "test": split},
        classes=("background", "blob"),
        channels=images[0].shape[-1],
        sha256={"train": str([image.tobytes() for image in images])},
    )


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def fields(images, **changes):
    data = base.get_config().data
    data.update(changes)
    found, notes = resolved(data, dataset_of(images))
    data.update(found)
    return data, notes


@st.composite
def stored(draw, types=TYPES):
    dtype = np.dtype(draw(st.sampled_from(types)))
    elements = st.floats(-1e6, 1e6, width=32) if dtype.kind == "f" else None
    shape = draw(st.sampled_from([(1, 1, 1), (2, 6, 1), (5, 3, 3), (6, 2, 4)]))  # each is compiled
    return draw(st.lists(arrays.arrays(dtype, shape, elements=elements), min_size=1, max_size=3))


@PROPERTY
@given(stored(), st.sampled_from(["percentile", "zscore"]), st.sampled_from(["symmetric", "unit"]))
def test_any_values_reach_the_network_within_its_range(images, method, input_range):
    found = statistics(split_of(images), images[0].shape[-1])
    limits, _ = intensities._with_width(
        found["percentiles" if method == "percentile" else "range"], found["range"]
    )
    std = tuple(x or 1.0 for x in found["std"]) if method == "zscore" else ()
    mapping = Intensities(input_range, limits, tuple(found["mean"]) if std else (), std)
    for image in images:
        received = mapping.network_input(image)
        assert received.dtype == np.float32
        assert np.isfinite(received).all()
        scaled = models.scale(jnp.asarray(image), mapping)
        np.testing.assert_allclose(scaled, received, rtol=1e-4, atol=1e-4 * abs(received).max())
        if method == "percentile":
            low, high = INPUT_RANGES[input_range]
            assert low <= received.min() <= received.max() <= high


def test_only_the_sampled_pixels_of_an_image_stay_in_memory(monkeypatch):
    monkeypatch.setattr(intensities, "SAMPLE", 100)
    decoded = []

    def read(index):
        image = np.full((50, 50, 1), index, np.float32)
        decoded.append(weakref.ref(image))
        # The first image, the one before, and this one.
        assert sum(ref() is not None for ref in decoded) <= 3
        return image, np.zeros((50, 50), np.uint8)

    split = Split(tuple("abcdef"), ((50, 50),) * 6, read)
    assert statistics(split, 1)["range"] == [0, 5]


@PROPERTY
@given(stored())
def test_statistics_are_those_of_all_pixels(images):
    channels = images[0].shape[-1]
    pixels = np.concatenate([image.reshape(-1, channels) for image in images])
    found = statistics(split_of(images), channels)
    wide = pixels.astype(np.float64)
    expected = np.percentile(wide, intensities.PERCENTILES, axis=0).T.ravel()
    np.testing.assert_allclose(found["percentiles"], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found["range"], np.stack([wide.min(0), wide.max(0)], 1).ravel())
    np.testing.assert_allclose(found["mean"], wide.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found["std"], wide.std(0), rtol=1e-5, atol=1e-5)


@PROPERTY
@given(stored(("uint8", "uint16")), st.sampled_from(["symmetric", "unit"]))
def test_without_limits_the_range_of_the_type_is_mapped(images, input_range):
    top = np.iinfo(images[0].dtype).max
    low, high = INPUT_RANGES[input_range]
    expected = images[0].astype(np.float64) / top * (high - low) + low
    mapping = Intensities(input_range)
    np.testing.assert_allclose(mapping.network_input(images[0]), expected, atol=1e-6)
    np.testing.assert_allclose(models.scale(jnp.asarray(images[0]), mapping), expected, atol=1e-6)


def ramp(dtype, low, high):
    return [np.linspace(low, high, 20 * 20).reshape(20, 20, 1).astype(dtype) for _ in range(2)]


def test_auto_takes_the_range_of_8_bits_and_percentiles_of_anything_else():
    assert fields(ramp(np.uint8, 0, 255), normalize="auto")[0].normalize == "range"
    for dtype in ("uint16", "int16", "float32"):
        data, (note,) = fields(ramp(dtype, 120, 420), normalize="auto")
        assert (data.normalize, data.dtype) == ("percentile", dtype)
        np.testing.assert_allclose(data.limits, (121.5, 418.5), atol=1)
        assert f"{dtype} images" in note and "data.normalize=percentile" in note
        received = Intensities.of(data).network_input(ramp(dtype, 120, 420)[0])
        np.testing.assert_allclose((received.min(), received.max()), (-1, 1))


def test_zscore_gives_mean_0_and_standard_deviation_1():
    images = ramp(np.uint16, 120, 420)
    data, _ = fields(images, normalize="zscore")
    received = Intensities.of(data).network_input(np.stack(images))
    np.testing.assert_allclose((received.mean(), received.std()), (0, 1), atol=1e-5)
    assert data.limits == (120, 420)  # to which brightness and contrast refer


def test_stated_numbers_are_kept_and_nothing_is_read_for_them(monkeypatch):
    monkeypatch.setattr(intensities, "statistics", None)
    images = ramp(np.uint16, 0, 4095)
    assert fields(images, normalize="limits", limits=(0.0, 4095.0))[0].limits == (0, 4095)
    assert fields(images, normalize="percentile", limits=(5.0, 9.0))[0].limits == (5, 9)
    stated = {"mean": (7.0,), "std": (2.0,), "limits": (0.0, 9.0)}
    assert fields(images, normalize="zscore", **stated)[0].mean == (7,)


def test_the_second_start_reads_no_image_for_its_percentiles(monkeypatch):
    first, _ = fields(ramp(np.uint16, 120, 420), normalize="percentile")
    monkeypatch.setattr(intensities, "statistics", None)
    again, _ = fields(ramp(np.uint16, 120, 420), normalize="percentile")
    assert again.limits == first.limits


def test_channels_have_limits_of_their_own():
    pairs = ramp("i2", -9, 9), ramp("i2", 0, 900)
    images = [np.concatenate([a, b], -1) for a, b in zip(*pairs, strict=True)]
    data, _ = fields(images, normalize="percentile")
    assert len(data.limits) == 4
    received = Intensities.of(data).network_input(images[0])
    np.testing.assert_allclose(received.reshape(-1, 2).max(0), 1)
    np.testing.assert_allclose(received.reshape(-1, 2).min(0), -1)


@pytest.mark.parametrize(("spots", "limits"), [(1, (0, 500)), (0, (0, 1))])
def test_a_channel_that_is_almost_constant_gets_its_whole_range(spots, limits):
    image = np.zeros((40, 40, 1), np.uint16)
    image[0, :spots] = 500
    data, notes = fields([image], normalize="percentile")
    assert data.limits == limits
    assert "channel 1 of 1: more than 99 %" in notes[1]
    assert np.isfinite(Intensities.of(data).network_input(image)).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"normalize": "range"}, ("data.normalize=range", "float32", "percentile")),
        ({"normalize": "limits"}, ("data.limits=(low, high)",)),
        ({"normalize": "limits", "limits": (2.0, 2.0)}, ("each low", "below")),
        ({"normalize": "limits", "limits": (1.0, 2.0, 3.0)}, ("3 numbers", "1 channel,", "2 or 2")),
        ({"normalize": "percentile", "mean": (1.0,)}, ("data.mean", "no effect")),
        ({"normalize": "zscore", "mean": (1.0,)}, ("data.mean and data.std", "both")),
        ({"normalize": "percentile", "dtype": "uint16"}, ("data.dtype=uint16", "float32")),
    ],
)
def test_fields_that_do_not_fit_are_refused_in_one_line(changes, words):
    with pytest.raises(UserError) as error:
        fields(ramp(np.float32, 0, 1), **changes)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_images_of_another_type_are_refused(tmp_path):
    check_type(tmp_path, np.dtype(np.uint16), {"uint16"})
    check_type(tmp_path, np.dtype(np.uint16), {""})
    for dtype, recorded in ((np.uint8, "uint16"), (np.float32, ""), (np.int16, "")):
        with pytest.raises(UserError, match="convert the image"):
            check_type(tmp_path, np.dtype(dtype), {recorded})


@PROPERTY
@given(stored(("uint16", "int16", "float32")))
def test_photometric_transforms_refer_to_the_limits(images):
    image = np.clip(images[0], 100, 300)
    mapping = Intensities(limits=(100.0, 300.0))
    brighter = functools.partial(colour.brighten, amount=0.25)
    found = colour.apply(image, [brighter], image.dtype, mapping)
    assert found.dtype == image.dtype
    expected = np.minimum(image.astype(np.float64) + 50, 300)
    np.testing.assert_allclose(found, expected, atol=0.5 if image.dtype.kind != "f" else 1e-3)


def test_pixels_from_outside_are_black_in_stored_values():
    example = {"image": np.full((8, 8, 2), 300, np.int16), "label": np.ones((8, 8), np.uint8)}
    black, _ = Intensities(limits=(-20.0, 400.0, 7.0, 400.0)).ends(np.dtype(np.int16))
    moved = warp.Warp(shift=np.array([4.0, 0.0]))
    cut = warp.cut(example, moved, (0, 0), 8, "black", black)
    assert cut["image"][-1, 0].tolist() == [-20, 7]
    assert cut["label"][-1, 0] == 0


def test_commands_without_a_data_set_take_the_range_of_the_type():
    data = resolve_without_data(folder.get_config(), platform="cpu").data
    assert folder.get_config().data.normalize == "auto"
    assert Intensities.of(data) == Intensities()
