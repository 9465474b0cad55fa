"""Image and mask files: every pixel as it was written, or one line."""

import hashlib
import io
import subprocess
import sys
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_files import noise, refused, save
from PIL import Image

from unet_jax.data.files import images
from unet_jax.data.files.images import read_image, scan_image, scan_size
from unet_jax.data.files.masks import read_mask, scan_mask

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)
LOSSLESS = ["png", "tif", "bmp", "gif"]
SIDES, SEEDS = st.integers(1, 40), st.integers(0, 10_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("images")


def read_rgb(path) -> np.ndarray:
    return read_image(path, 3)


def save_16_bits(path, pixels, **options) -> None:
    if path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(pixels))
    else:
        photometric = "rgb" if pixels.ndim == 3 else "minisblack"
        tifffile.imwrite(path, pixels, **({"photometric": photometric} | options))


@PROPERTY
@given(
    ending=st.sampled_from(LOSSLESS), colour=st.booleans(), height=SIDES, width=SIDES, seed=SEEDS
)
def test_grey_and_rgb_come_back(folder, ending, colour, height, width, seed):
    colour = colour and ending != "gif"  # which has palettes only
    pixels = noise((height, width, 3) if colour else (height, width), seed=seed)
    path = folder / f"x.{ending}"
    Image.fromarray(pixels).save(path)
    found, channels = scan_image(path), 3 if colour else 1
    assert (found.size, found.dtype, found.orientation) == ((height, width), "uint8", 1)
    if found.channels == 1 or colour:  # Pillow may save grey as a palette
        assert found.channels == channels
        np.testing.assert_array_equal(read_image(path, channels), np.atleast_3d(pixels))
    np.testing.assert_array_equal(
        read_image(path, 3),
        np.broadcast_to(pixels if colour else pixels[..., None], (height, width, 3)),
    )


@PROPERTY
@given(
    ending=st.sampled_from(["png", "tif"]),
    channels=st.sampled_from([1, 3]),
    height=SIDES,
    width=SIDES,
    seed=SEEDS,
    big=st.booleans(),
    planes=st.booleans(),
)
@example(
    ending="tif", channels=3, height=3, width=3, seed=0, big=False, planes=False
)  # as many rows as channels
def test_16_bit_values_are_read_exactly(folder, ending, channels, height, width, seed, big, planes):
    pixels = noise((height, width, channels), np.uint16, seed)
    path = folder / f"x.{ending}"
    options = {}
    if ending == "tif":
        options = {"byteorder": ">" if big else "<", "compression": "lzw" if seed % 2 else None}
    if planes and options and channels == 3:
        options |= {"planarconfig": "separate"}
        save_16_bits(path, np.moveaxis(pixels, -1, 0), **options)
    else:
        save_16_bits(path, pixels if channels == 3 else pixels[..., 0], **options)
    found = scan_image(path)
    assert (found.size, found.channels, found.dtype) == ((height, width), channels, "uint16")
    read = read_image(path, channels)
    assert read.dtype == np.dtype(np.uint16)
    np.testing.assert_array_equal(read, pixels)


def test_jpeg_is_what_pillow_decodes(folder):
    path = folder / "x.jpg"
    Image.fromarray(noise((20, 30, 3))).save(path)
    read = read_image(path, 3)
    np.testing.assert_array_equal(read, np.asarray(Image.open(path)))
    assert scan_image(path).size == (20, 30)


@pytest.mark.parametrize("ending", LOSSLESS)
def test_a_palette_is_colours_of_an_image_and_ids_of_a_mask(folder, ending):
    ids, palette = noise((9, 7), below=5), noise((256, 3), seed=1)
    image = Image.fromarray(ids)
    image.putpalette(palette.tobytes())
    path = folder / f"palette.{ending}"
    image.save(path, optimize=False)
    np.testing.assert_array_equal(read_image(path, 3), palette[ids])
    np.testing.assert_array_equal(read_mask(path), ids)
    assert scan_image(path).channels == 3


@pytest.mark.parametrize("ending", ["png", "tif", "bmp"])
def test_one_bit_is_black_and_white(folder, ending):
    bits = noise((9, 7), below=2).astype(bool)
    path = folder / f"bits.{ending}"
    Image.fromarray(bits).save(path)
    np.testing.assert_array_equal(read_mask(path), bits * 255)
    np.testing.assert_array_equal(read_image(path, 1)[..., 0], bits * 255)


@pytest.mark.parametrize("ending", ["png", "gif", "bmp", "tif"])
@pytest.mark.parametrize("greys", [(255, 0), (0, 9, 30), (255,)])
def test_a_palette_of_greys_is_read_as_them(folder, ending, greys):
    ids = noise((8, 8), below=len(greys))
    path = save(folder / f"greys.{ending}", ids, np.repeat(greys, 3))
    np.testing.assert_array_equal(read_mask(path), np.array(greys)[ids])
    assert scan_mask(path).palette == ()


def test_ids_beyond_the_palette_are_themselves(folder):
    ids = np.arange(64, dtype=np.uint8).reshape(8, 8) % 21
    path = save(folder / "short.png", ids, noise((256, 3)))
    before, after = path.read_bytes().split(b"PLTE")
    chunk = b"PLTE" + bytes(3)  # black alone, in the place of 256 colours
    checksum = zlib.crc32(chunk).to_bytes(4, "big")
    path.write_bytes(before[:-4] + bytes([0, 0, 0, 3]) + chunk + checksum + after[256 * 3 + 4 :])
    assert Image.open(path).getpalette() == [0, 0, 0]
    np.testing.assert_array_equal(read_mask(path), ids)
    assert scan_mask(path).values == tuple(range(21))


def test_a_palette_mask_lists_the_colours_of_its_indices(folder):
    palette = noise((256, 3))
    ids = noise((8, 8), below=3) * 7
    found = scan_mask(save(folder / "ids.png", ids, palette))
    assert (found.values, found.colours) == ((0, 7, 14), False)
    assert [f"{colour:06x}" for colour in found.palette] == [
        bytes(palette[i]).hex() for i in (0, 7, 14)
    ]


def test_a_bmp_that_pillow_misreads_is_refused(folder):
    ids, path = noise((8, 8), below=2), folder / "two.bmp"
    image = Image.fromarray(ids)
    image.putpalette([0] * 3 + [255] * 3)
    image.save(path)  # 8 bits a pixel, but Pillow would read 1
    refused(read_mask, path, "misreads", "PNG")
    refused(scan_image, path, "misreads", "PNG")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [2, 4])
def test_an_opaque_alpha_channel_is_dropped_and_another_refused(folder, channels, dtype):
    pixels = noise((6, 5, channels), dtype)
    pixels[..., -1] = np.iinfo(dtype).max
    path = folder / "alpha.png"
    path.write_bytes(imagecodecs.png_encode(pixels))
    expected = pixels[..., :-1]
    np.testing.assert_array_equal(read_image(path, 3), np.broadcast_to(expected, (6, 5, 3)))
    if dtype == np.uint8:
        np.testing.assert_array_equal(read_mask(path), expected.squeeze())
    pixels[3, 2, -1] -= 1
    path.write_bytes(imagecodecs.png_encode(pixels))
    refused(read_rgb, path, "transparent")
    refused(read_mask, path)


def test_a_transparent_palette_colour_is_refused_where_it_is_used(folder):
    image = Image.fromarray(np.eye(4, dtype=np.uint8))
    image.putpalette([0, 0, 0, 9, 0, 0, 5, 5, 5])
    image.save(folder / "unused.png", transparency=2)
    assert read_image(folder / "unused.png", 3).max() == 9
    image.save(folder / "used.png", transparency=1)
    refused(read_rgb, folder / "used.png", "transparent")
    np.testing.assert_array_equal(read_mask(folder / "used.png"), np.eye(4))  # ids all the same


def test_masks_of_sixteen_bits_hold_ids(folder):
    ids = noise((6, 5), np.uint16, below=256)
    for ending in ("png", "tif"):
        path = folder / f"deep.{ending}"
        save_16_bits(path, ids)
        read = read_mask(path)
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, ids)
        save_16_bits(path, ids + 1000)
        np.testing.assert_array_equal(read_mask(path), ids.astype(int) + 1000)


def test_a_jpeg_mask_is_read_and_reported_as_lossy(folder):
    blocks = np.kron(noise((3, 4), below=2), np.ones((16, 16), np.uint8)) * 255
    path = folder / "mask.jpg"
    Image.fromarray(blocks).save(path, quality=95)
    np.testing.assert_array_equal(read_mask(path), blocks)
    Image.fromarray(blocks[:, 5:]).save(path, quality=60)
    found = scan_mask(path)
    assert found.lossy
    assert len(found.values) > 2
    assert sum(found.counts) == 48 * 59
    Image.fromarray(noise((20, 20, 3))).save(path)
    refused(scan_mask, path, "JPEG", "PNG")


@PROPERTY
@given(ending=st.sampled_from(LOSSLESS), count=st.integers(1, 64), seed=SEEDS)
def test_a_scan_finds_the_values_or_colours_that_occur(folder, ending, count, seed):
    colours = noise((count, 3), seed=seed)
    chosen = noise((10, 10), below=count, seed=seed)
    path = folder / f"scan.{ending}"
    if ending == "gif":
        mask, expected = colours[chosen][..., 0], set(colours[chosen][..., 0].ravel().tolist())
        image = Image.fromarray(mask)
        image.putpalette(noise((256, 3), seed=seed).tobytes())
        image.save(path, optimize=False)
    else:
        mask = colours[chosen]
        expected = {int(f"{r:02x}{g:02x}{b:02x}", 16) for r, g, b in mask.reshape(-1, 3).tolist()}
        Image.fromarray(mask).save(path)
    found = scan_mask(path)
    assert found.values == tuple(sorted(expected))
    assert (found.size, found.colours) == ((10, 10), ending != "gif")
    np.testing.assert_array_equal(read_mask(path), mask)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert scan_image(path).sha256 == found.sha256


def test_a_mask_of_many_colours_is_none(folder):
    Image.fromarray(noise((20, 20, 3))).save(folder / "photo.png")
    refused(scan_mask, folder / "photo.png", "400 colours", "#", "64")


def test_a_scan_checks_all_pixels_unless_it_is_of_the_size_alone(folder):
    path = folder / "cut.png"
    Image.fromarray(noise((40, 30))).save(path)
    path.write_bytes(path.read_bytes()[:200])
    assert scan_size(path) == (40, 30)
    message = refused(scan_image, path, "download or save it again")
    assert message == refused(read_rgb, path)


def webp() -> bytes:
    file = io.BytesIO()
    Image.new("L", (3, 3)).save(file, "WEBP")
    return file.getvalue()


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n", webp()])
@pytest.mark.parametrize("read", [read_rgb, read_mask, scan_image])
def test_files_that_are_not_images_are_named(folder, read, content):
    (folder / "x.png").write_bytes(content)
    refused(read, folder / "x.png", "PNG, JPEG, TIFF, BMP, GIF")


def test_a_file_may_have_the_wrong_ending(folder):
    Image.fromarray(noise((4, 5))).save(folder / "really.png", format="TIFF")
    assert read_image(folder / "really.png", 1).shape == (4, 5, 1)


def test_a_deleted_file_is_named(folder):
    refused(read_rgb, folder / "gone.png", "No such file")


@pytest.mark.parametrize("ending", ["gif", "tif"])
def test_one_file_is_one_image(folder, ending):
    frames = [Image.fromarray(noise((4, 5), seed=seed)) for seed in range(3)]
    path = folder / f"stack.{ending}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    for read in (scan_image, read_mask):
        refused(read, path, "contains several images")


def test_colours_for_printers_are_refused(folder):
    Image.new("CMYK", (3, 3)).save(folder / "type.jpg")
    refused(scan_image, folder / "type.jpg", "type CMYK;", "grey, RGB")


@pytest.mark.parametrize("limit", [99, 40])  # Pillow warns above the limit, and raises above two
@pytest.mark.parametrize("read", [read_rgb, read_mask, scan_image])
def test_more_pixels_than_pillow_s_limit_are_refused(folder, monkeypatch, read, limit):
    path = folder / "large.png"
    Image.fromarray(noise((10, 10))).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    refused(read, path, str(limit), "pixels")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    read(path)


def test_the_limit_holds_where_warnings_are_no_errors(folder):
    path = save(folder / "large.png", noise((10, 10)))
    code = (
        "import pathlib, PIL.Image; from unet_jax.data.files.images import read_image; "
        f"PIL.Image.MAX_IMAGE_PIXELS = 99; read_image(pathlib.Path({str(path)!r}), 1)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode
    assert "UserError" in run.stderr.splitlines()[-1]


def test_another_number_of_channels_is_refused(folder):
    Image.fromarray(noise((4, 6, 3))).save(folder / "now.png")
    refused(lambda path: read_image(path, 1), folder / "now.png", "3 channels", "images have 1")
    Image.fromarray(noise((4, 6))).save(folder / "now.png")
    refused(lambda path: read_image(path, 4), folder / "now.png", "1 channel;", "images have 4")


def test_messages_name_a_few_values():
    assert images.list_values([0, 3]) == "0, 3"
    assert images.list_values(range(256)) == "0, 1, 2, 3, 4, 5, 6, 7, ... (256 values)"
    assert images.list_colours([0, 255]) == "#000000, #0000ff"
