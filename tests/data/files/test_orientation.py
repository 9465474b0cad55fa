"""Images are read as viewers show them."""

import io

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_files import noise, refused, save
from PIL import Image, ImageOps

from benchmarks.robustness.mutate import png_chunk
from unet_jax.data.files.images import read_image, scan_image, scan_size
from unet_jax.data.files.index import stamp_of
from unet_jax.data.files.masks import read_mask, scan_mask
from unet_jax.data.files.pages import open_pages
from unet_jax.data.files.pairs import binary_label, make_dataset, scan_pairs

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("orientation")


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def shown(path) -> np.ndarray:
    """What viewers show, according to Pillow."""
    with Image.open(path) as image:
        image.load()
        return np.atleast_3d(np.asarray(ImageOps.exif_transpose(image)))


def check_all_readers(path, expected) -> None:
    channels = expected.shape[2]
    assert scan_size(path) == scan_image(path).size == expected.shape[:2]
    for checked in (None, stamp_of(path)):
        np.testing.assert_array_equal(read_image(path, channels, checked), expected)
    with open_pages(path, channels) as images:
        np.testing.assert_array_equal(next(images).rows(0, len(expected)), expected)


@PROPERTY
@given(
    ending=st.sampled_from(["jpg", "png"]),
    colour=st.booleans(),
    orientation=st.integers(0, 9),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
def test_exif_orientation_is_pillow_s(folder, ending, colour, orientation, size):
    pixels = noise((*size, 3) if colour else size)
    path = save(folder / f"x.{ending}", pixels, exif=turned(orientation))
    assert scan_image(path).orientation == (orientation if 1 <= orientation <= 8 else 1)
    check_all_readers(path, shown(path))
    if ending == "png":
        mask = read_mask(path)
        np.testing.assert_array_equal(np.atleast_3d(mask), shown(path))


@pytest.mark.parametrize("deep", [False, True])
def test_an_orientation_after_the_pixels_of_a_png(folder, deep):
    pixels, path = noise((6, 9, 3), np.uint16 if deep else np.uint8), folder / "late.png"
    content = imagecodecs.png_encode(pixels)
    chunk = png_chunk(b"eXIf", turned(6).tobytes()[6:])
    path.write_bytes(content[:-12] + chunk + content[-12:])
    check_all_readers(path, np.rot90(pixels, -1))


def test_an_orientation_in_xmp(folder):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><tiff:Orientation>3</tiff:Orientation></x:xmpmeta>'
    path = save(folder / "xmp.jpg", noise((6, 9, 3)), xmp=xmp)
    assert scan_image(path).orientation == 3
    check_all_readers(path, shown(path))


@pytest.mark.parametrize(
    "exif",
    [
        b"\x12\x01\x02\0\x04\0\0\0abc\0",  # a text of four bytes instead of a number
        b"\x12\x01\x03\0\x02\0\0\0\x06\0\x06\0",  # two numbers
    ],
)
def test_a_malformed_exif_orientation_counts_as_upright(folder, exif):
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + exif + bytes(4)
    path = save(folder / "malformed.jpg", noise((4, 6, 3)), exif=exif)
    assert scan_image(path).orientation == 1
    file = io.BytesIO(path.read_bytes().replace(b"II*\0\x08", b"XX*\0\x08"))
    path.write_bytes(file.getvalue())
    assert scan_image(path).orientation == 1


def pair(folder, size, orientation, mask_size, mask_orientation=1):
    image = save(folder / "a.jpg", noise((*size, 3)), exif=turned(orientation))
    stored = noise(mask_size, below=2) * 255
    options = {"exif": turned(mask_orientation)} if mask_orientation != 1 else {}
    return {"a": (image, save(folder / "mask/a.png", stored, **options))}, stored


def label_of(files):
    pairs = scan_pairs(files)
    parts = {"train": pairs, "validation": [], "test": pairs}
    dataset = make_dataset(parts, ("no", "yes"), binary_label)
    example = dataset.splits["train"][0]
    assert example["image"].shape[:2] == example["label"].shape == dataset.splits["train"].sizes[0]
    return example["label"] * 255, "\n".join(dataset.notes)


def test_a_mask_that_was_drawn_on_the_upright_image_stays(folder):
    files, stored = pair(folder, (8, 6), 6, (6, 8))
    label, notes = label_of(files)
    np.testing.assert_array_equal(label, stored)
    assert "a.jpg (1 image in all) has an EXIF or TIFF orientation" in notes
    assert "turned like" not in notes


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_of_the_stored_size_is_turned_like_its_image(folder, orientation):
    files, stored = pair(folder, (8, 6), orientation, (8, 6))
    label, notes = label_of(files)
    image = Image.fromarray(stored)
    image.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(label, np.asarray(ImageOps.exif_transpose(image)))
    assert "turned like their images" in notes


def test_a_mask_of_an_own_orientation_is_turned_by_that(folder):
    files, stored = pair(folder, (8, 6), 6, (8, 6), mask_orientation=6)
    label, notes = label_of(files)
    np.testing.assert_array_equal(label, np.rot90(stored, -1))
    assert "turned like" not in notes
    files, stored = pair(folder, (8, 8), 3, (8, 8), mask_orientation=3)
    np.testing.assert_array_equal(label_of(files)[0], stored[::-1, ::-1])
    assert scan_mask(files["a"][1]).orientation == 3


@pytest.mark.parametrize(("size", "orientation"), [((8, 6), 3), ((8, 6), 2), ((7, 7), 6)])
def test_a_mask_that_fits_both_ways_is_refused(folder, size, orientation):
    files, _ = pair(folder, size, orientation, size)
    refused(scan_pairs, files, "a.jpg", f"EXIF orientation {orientation}", "upright")


def test_a_mask_that_fits_neither_way_is_refused(folder):
    files, _ = pair(folder, (8, 6), 6, (8, 7))
    refused(scan_pairs, files, "8x7", "6x8", "EXIF orientation 6")
