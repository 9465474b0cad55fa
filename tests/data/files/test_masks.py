"""Masks: the stored value counts, whatever the type, and however a viewer would show it."""

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from made_files import noise, refused, save
from PIL import Image

from unet_jax.data.files.masks import read_mask, scan_mask

PROPERTY = settings(max_examples=80, deadline=None, derandomize=True)
TYPES = "bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 float32 float64".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("masks")


def stored(dtype: str, shape, seed: int) -> np.ndarray:
    """Whole numbers from a range that suits the type."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.startswith("float"):
        limit = 2000 if dtype == "float16" else 2**24
        return rng.integers(-limit, limit, shape).astype(dtype)
    limits = np.iinfo(dtype)
    high = min(limits.max, 2**62)
    narrow = rng.integers(0, 2)  # both masks of a few small ids and of any values
    return rng.integers(0 if narrow else limits.min, 5 if narrow else high, shape).astype(dtype)


@PROPERTY
@given(
    dtype=st.sampled_from(TYPES),
    photometric=st.sampled_from(["minisblack", "miniswhite"]),
    byteorder=st.sampled_from("<>"),
    compression=st.sampled_from([None, "lzw", "zlib", "packbits", "zstd"]),
    layout=st.sampled_from([{}, {"tile": (16, 16)}, {"rowsperstrip": 3}, {"bigtiff": True}]),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 10_000),
)
def test_the_stored_value_of_a_tiff_counts(
    folder, dtype, photometric, byteorder, compression, layout, size, seed
):
    values = stored(dtype, size, seed)
    if dtype == "bool" and "tile" in layout:
        layout = {}
    path = folder / "grey.tif"
    options = {"byteorder": byteorder, "compression": compression, **layout}
    tifffile.imwrite(path, values, photometric=photometric, **options)
    expected = values * 255 if dtype == "bool" else values.astype(np.int64)
    read, found = read_mask(path), scan_mask(path)
    np.testing.assert_array_equal(read, expected)
    assert read.dtype == (np.uint8 if 0 <= expected.min() <= expected.max() <= 255 else np.int64)
    unique, counts = np.unique(expected, return_counts=True)
    assert (found.values, found.counts) == (tuple(unique.tolist()), tuple(counts.tolist()))
    assert found.size == size
    assert found.white_is_zero == (photometric == "miniswhite")
    assert not found.lossy


@PROPERTY
@given(
    planar=st.sampled_from(["contig", "separate"]),
    byteorder=st.sampled_from("<>"),
    compression=st.sampled_from([None, "lzw", "zlib", "packbits"]),
    alpha=st.booleans(),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 10_000),
)
def test_the_stored_colours_of_a_tiff_count(
    folder, planar, byteorder, compression, alpha, size, seed
):
    colours = noise((30, 3), seed=seed)[noise(size, below=30, seed=seed)]
    pixels = np.dstack([colours, np.full(size, 255, np.uint8)]) if alpha else colours
    path = folder / "colours.tif"
    tifffile.imwrite(
        path,
        pixels if planar == "contig" else np.moveaxis(pixels, -1, 0),
        photometric="rgb",
        planarconfig=planar,
        byteorder=byteorder,
        compression=compression,
        extrasamples=["unassalpha"] if alpha else [],
    )
    np.testing.assert_array_equal(read_mask(path), colours)
    assert scan_mask(path).colours


@PROPERTY
@given(size=st.tuples(st.integers(1, 40), st.integers(1, 40)), seed=st.integers(0, 10_000))
def test_the_stored_indices_of_a_palette_count(folder, size, seed):
    ids, colours = noise(size, seed=seed, below=9), noise((256, 3), seed=seed)
    path = folder / "palette.tif"
    colormap = colours.T.astype(np.uint16) << 8
    tifffile.imwrite(path, ids, photometric="palette", colormap=colormap)
    np.testing.assert_array_equal(read_mask(path), ids)
    found = scan_mask(path)
    assert found.palette == tuple(int(bytes(colours[i]).hex(), 16) for i in found.values)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_values_of_a_few_bits_are_the_stored_ones(folder, bits):
    values = noise((5, 8), below=2**bits)
    path = folder / "bits.tif"
    tifffile.imwrite(path, values > 0 if bits == 1 else values, bitspersample=bits)
    expected = values * 255 if bits == 1 else values
    np.testing.assert_array_equal(read_mask(path), expected)


def test_values_of_a_16_bit_png_are_the_stored_ones(folder):
    values = noise((5, 8), np.uint16)
    (folder / "deep.png").write_bytes(imagecodecs.png_encode(values))
    np.testing.assert_array_equal(read_mask(folder / "deep.png"), values)
    assert scan_mask(folder / "deep.png").values == tuple(np.unique(values).tolist())


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf, -np.inf, 1e300])
def test_numbers_that_are_not_whole_are_refused(folder, value):
    values = np.zeros((4, 5))
    values[1, 2] = value
    tifffile.imwrite(folder / "soft.tif", values)
    refused(read_mask, folder / "soft.tif", f"{value:.6g}", "whole number", "probabilities")


def test_numbers_beyond_any_class_are_refused(folder):
    tifffile.imwrite(folder / "big.tif", np.full((4, 5), 2**64 - 1, np.uint64))
    refused(read_mask, folder / "big.tif", str(2**64 - 1))
    tifffile.imwrite(folder / "many.tif", np.arange(300 * 300, dtype=np.int32).reshape(300, 300))
    refused(scan_mask, folder / "many.tif", "90000 different values", "from 0 to 89999")


@pytest.mark.parametrize("compression", ["lzw", "packbits", "zlib"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_strip_with_missing_pixels_is_refused(folder, compression, dtype):
    path = folder / "strip.tif"
    tifffile.imwrite(path, noise((30, 20)).astype(dtype), compression=compression)
    with tifffile.TiffFile(path, mode="r+") as file:
        counts = file.pages.first.tags["StripByteCounts"]
        counts.overwrite(counts.value[0] - 20)
    refused(read_mask, path, "cannot be read as TIFF")


def test_other_kinds_of_tiff_are_refused(folder):
    path = folder / "kind.tif"
    tifffile.imwrite(path, noise((4, 5, 3)), photometric="cielab")
    refused(read_mask, path, "CIELAB", "PNG")
    tifffile.imwrite(path, noise((4, 5, 5)), photometric="minisblack", planarconfig="contig")
    refused(read_mask, path, "5 channels")
    tifffile.imwrite(path, noise((2, 4, 5)), photometric="minisblack", imagej=True)
    refused(read_mask, path, "2 channels (C)", "one mask per file")
    tifffile.imwrite(path, noise((2, 4, 5)), photometric="minisblack", metadata={"axes": "ZYX"})
    refused(read_mask, path, "several images", "2 slices (Z)")
    colormap = noise((3, 2**16), np.uint16)
    tifffile.imwrite(path, noise((4, 5), np.uint16), photometric="palette", colormap=colormap)
    refused(read_mask, path, "16 bits per pixel")
    tifffile.imwrite(path, noise((4, 5, 2)), photometric="minisblack", planarconfig="contig")
    refused(read_mask, path, "transparent")
    tifffile.imwrite(path, noise((4, 5, 3), np.uint16), photometric="rgb")
    refused(read_mask, path, "8 bits per channel")


def test_a_tiff_beyond_the_limit_of_pixels_is_refused(folder, monkeypatch):
    path = save(folder / "large.tif", noise((10, 10)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 99)
    refused(read_mask, path, "99 pixels")


def test_jpeg_within_a_tiff_is_lossy(folder):
    path = folder / "jpeg.tif"
    tifffile.imwrite(path, noise((32, 32), below=2) * 255, compression="jpeg")
    assert scan_mask(path).lossy
