"""TIFF images: what is stored is what is read, whatever the layout, as a whole and in bands."""

import contextlib

import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_files import refused

from unet_jax.core.errors import UserError
from unet_jax.data.files import pages
from unet_jax.data.files.images import read_image, scan_image
from unet_jax.data.files.index import stamp_of
from unet_jax.data.files.layout import find_layout
from unet_jax.data.files.orientation import upright
from unet_jax.data.files.pages import open_pages, scan_pages

PROPERTY = settings(max_examples=120, deadline=None, derandomize=True)
TYPES = "uint8 int8 uint16 int16 uint32 int32 float16 float32 float64".split()
SIDES = st.integers(1, 40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stored")


def values(dtype: str, shape, seed: int = 0) -> np.ndarray:
    """Values of the whole type; floating-point numbers of many magnitudes."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.startswith("float"):
        return (rng.normal(size=shape) * 10 ** rng.uniform(-3, 3, shape)).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def expected_of(stored: np.ndarray) -> np.ndarray:
    return stored.astype(np.float32) if stored.dtype.kind == "f" else stored


def write_tags(path, stored, channels, photometric, planar, orientation, **options):
    """Writes one page [H, W, channels] that has an orientation."""
    pixels = stored if channels > 1 else stored[..., 0]
    if channels > 1:
        options |= {"planarconfig": planar}
        extra = channels - (3 if photometric == "rgb" else 1)
        options |= {"extrasamples": ["unspecified"] * extra} if extra else {}
        pixels = pixels if planar == "contig" else np.moveaxis(pixels, -1, 0)
    tags = [(274, 3, 1, orientation, True)]
    tifffile.imwrite(path, pixels, photometric=photometric, extratags=tags, **options)


def in_bands(path, channels: int, streamed: bool) -> np.ndarray:
    """The image of a file as prediction reads it, in bands; `streamed` as one beyond the limit."""
    ((height, width),) = scan_pages(path)
    with contextlib.ExitStack() as stack:
        if streamed:
            file = stack.enter_context(pages._opened(path))
            layout = find_layout(file)
            images = pages._stream(path, pages._frames(path, file, layout), layout, channels)
        else:
            images = stack.enter_context(open_pages(path, channels))
        (page,) = images
        assert page.size == (height, width)
        return np.concatenate([page.rows(i, min(i + 7, height)) for i in range(0, height, 7)])


@PROPERTY
@given(
    dtype=st.sampled_from(TYPES),
    channels=st.integers(1, 6),
    photometric=st.sampled_from(["minisblack", "miniswhite", "rgb"]),
    planar=st.sampled_from(["contig", "separate"]),
    compression=st.sampled_from([None, "zlib", "lzw"]),
    byteorder=st.sampled_from("<>"),
    layout=st.sampled_from([{}, {"tile": (16, 32)}, {"rowsperstrip": 3}]),
    predictor=st.booleans(),
    orientation=st.sampled_from([1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    size=st.tuples(SIDES, SIDES),
    seed=st.integers(0, 9999),
)
@example("uint8", 4, "rgb", "separate", "lzw", "<", {"tile": (16, 32)}, True, 1, (40, 33), 0)
def test_every_pixel_is_the_stored_one(
    folder, dtype, channels, photometric, planar, compression, byteorder, layout, predictor,
    orientation, size, seed,
):  # fmt: skip
    if photometric == "rgb" and channels < 3:
        photometric = "minisblack"
    stored, path = values(dtype, (*size, channels), seed), folder / "x.tif"
    options = {"byteorder": byteorder, "compression": compression, **layout}
    options |= {"predictor": True} if predictor and compression else {}
    write_tags(path, stored, channels, photometric, planar, orientation, **options)
    expected = upright(expected_of(stored), orientation if orientation <= 8 else 1)
    found = scan_image(path)
    assert found.size == expected.shape[:2]
    assert (found.channels, found.dtype) == (channels, expected.dtype.name)
    assert found.orientation == (orientation if orientation <= 8 else 1)
    assert found.white_is_zero == (photometric == "miniswhite")
    for checked in (None, stamp_of(path)):
        read = read_image(path, channels, checked)
        assert read.dtype == expected.dtype
        np.testing.assert_array_equal(read, expected)
    np.testing.assert_array_equal(in_bands(path, channels, streamed=False), expected)
    np.testing.assert_array_equal(in_bands(path, channels, streamed=True), expected)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("bits", [1, 2, 4, 12])
def test_values_of_other_bits_are_the_stored_ones(folder, bits, photometric):
    stored = values("uint16" if bits > 8 else "uint8", (9, 21)) % 2**bits
    path = folder / "bits.tif"
    options = {"bitspersample": bits, "photometric": photometric}
    tifffile.imwrite(path, stored > 0 if bits == 1 else stored, **options)
    expected = stored * 255 if bits == 1 else stored
    np.testing.assert_array_equal(read_image(path, 1)[..., 0], expected)
    np.testing.assert_array_equal(in_bands(path, 1, streamed=True)[..., 0], expected)


def test_a_palette_is_its_colours(folder):
    ids, path = values("uint8", (9, 21)), folder / "palette.tif"
    colours = values("uint16", (3, 256))
    tifffile.imwrite(path, ids, photometric="palette", colormap=colours)
    expected = (colours >> 8).T[ids]
    np.testing.assert_array_equal(read_image(path, 3), expected)
    np.testing.assert_array_equal(in_bands(path, 3, streamed=True), expected)
    assert scan_image(path).channel_names == ("red", "green", "blue")


def test_jpeg_in_a_tiff_is_rgb(folder):
    path = folder / "jpeg.tif"
    blocks = np.kron(values("uint8", (2, 3, 3)), np.ones((16, 16, 1), np.uint8))
    tifffile.imwrite(path, blocks, photometric="rgb", compression="jpeg")
    with tifffile.TiffFile(path) as file:
        assert file.pages.first.photometric.name == "YCBCR"
        expected = file.asarray()
    np.testing.assert_array_equal(read_image(path, 3), expected)
    np.testing.assert_array_equal(in_bands(path, 3, streamed=True), expected)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_alpha_is_what_the_file_calls_alpha(folder, kind, dtype):
    stored, path = values(dtype, (9, 8, 5)), folder / "alpha.tif"
    full = 1 if dtype == "float32" else np.iinfo(dtype).max
    stored[..., 3] = full
    options = {"photometric": "rgb", "extrasamples": [kind, "unspecified"]}
    tifffile.imwrite(path, stored, **options)
    np.testing.assert_array_equal(read_image(path, 4), stored[..., [0, 1, 2, 4]])
    assert scan_image(path).channel_names == ("red", "green", "blue", "channel 4")
    np.testing.assert_array_equal(in_bands(path, 4, streamed=True), stored[..., [0, 1, 2, 4]])
    stored[8, 7, 3] = 0
    tifffile.imwrite(path, stored, **options)
    refused(scan_image, path, "partly transparent", "channel 4", "ExtraSamples=0")
    refused(lambda path: in_bands(path, 4, streamed=True), path, "partly transparent")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_numbers_that_are_not_finite_are_counted(folder, dtype):
    stored, path = values(dtype, (9, 8, 2)), folder / "nan.tif"
    stored[2, 3], stored[5, 1, 1] = np.nan, np.inf
    tifffile.imwrite(path, stored, photometric="minisblack", planarconfig="contig")
    refused(scan_image, path, "2 pixels are not a number or infinite")
    if dtype == "float64":
        tifffile.imwrite(path, np.full((3, 3), 1e300))
        refused(scan_image, path, "9 pixels")


@pytest.mark.parametrize("dtype", ["int64", "uint64", "complex64"])
def test_other_types_are_refused(folder, dtype):
    path = folder / "type.tif"
    tifffile.imwrite(path, np.zeros((3, 4), dtype))
    refused(scan_image, path, dtype, "16 or 32-bit integers")


@pytest.mark.parametrize("photometric", ["separated", "cielab"])
def test_other_colours_are_refused(folder, photometric):
    path = folder / "colours.tif"
    shape = (3, 4, 4 if photometric == "separated" else 3)
    tifffile.imwrite(path, np.zeros(shape, np.uint8), photometric=photometric)
    refused(scan_image, path, photometric.upper(), "expected grey, RGB or palette")


def test_a_turned_image_beyond_the_limit_is_refused(folder, monkeypatch):
    path = folder / "turned.tif"
    write_tags(path, values("uint8", (9, 8, 1)), 1, "minisblack", "contig", 6)
    monkeypatch.setattr(pages, "MAX_PIXELS", 50)
    with pytest.raises(UserError, match="orientation 6 of 9x8 pixels"):
        with open_pages(path, 1) as images:
            next(images)


def test_a_damaged_planar_configuration_is_refused(folder):
    path = folder / "planar.tif"
    tifffile.imwrite(path, values("uint8", (9, 8, 3)), photometric="rgb")
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["PlanarConfiguration"].overwrite(7)
    refused(scan_image, path, "cannot be read", "PlanarConfiguration")
    refused(lambda path: in_bands(path, 3, streamed=True), path, "cannot be read")
