"""Files that are cut, changed or not whole are refused, and whole ones with oddities are read."""

import struct
import time
import zlib

import numpy as np
import pytest
import tifffile
from made_files import noise, refused, save
from PIL import Image

from benchmarks.robustness.mutate import png_chunk
from benchmarks.robustness.samples import interlaced_png
from unet_jax.core.errors import UserError
from unet_jax.data.files.images import read_image, scan_image
from unet_jax.data.files.masks import read_mask


def read_rgb(path) -> np.ndarray:
    return read_image(path, 3)


ENCODERS = {
    "png": {},
    "jpg": {},
    "bmp": {},
    "gif": {},
    "tif": {},
    "lzw.tif": {"compression": "tiff_lzw"},
}


@pytest.mark.parametrize("ending", ENCODERS)
def test_a_cut_file_is_refused_at_every_length(tmp_path, ending):
    path = tmp_path / f"cut.{ending}"
    Image.fromarray(noise((40, 30))).save(path, **ENCODERS[ending])
    whole, content = read_image(path, 3), path.read_bytes()
    count = 0
    for length in range(0, len(content), 11):
        path.write_bytes(content[:length])
        for read in (read_rgb, read_mask):
            if read is read_mask and ending == "jpg":
                continue
            try:
                pixels = read(path)
            except UserError as error:
                count += 1
                assert str(path) in str(error)
                assert "\n" not in str(error)
            else:
                np.testing.assert_array_equal(np.atleast_3d(pixels)[..., :1], whole[..., :1])
    assert count > len(content) // 11 * 0.9


def png(pixels: np.ndarray, height: int, *, interlaced: bool = False) -> bytes:
    """An RGB PNG whose header says `height`, whatever its pixels [H, W, 3] have."""
    if interlaced:
        content = bytearray(interlaced_png(pixels))
        head = content[12:16] + content[16:20] + height.to_bytes(4, "big") + content[24:29]
        return bytes(content[:12] + head + zlib.crc32(head).to_bytes(4, "big") + content[33:])
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", pixels.shape[1], height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_png_with_fewer_rows_than_its_header_says_is_refused(tmp_path, interlaced):
    pixels, path = noise((16, 24, 3), below=255) + 1, tmp_path / "rows.png"
    path.write_bytes(png(pixels, 16, interlaced=interlaced))
    np.testing.assert_array_equal(read_image(path, 3), pixels)
    for height in (17, 24, 33):  # Pillow makes the rest 0, where the lower rows of a pass are
        path.write_bytes(png(pixels, height, interlaced=interlaced))
        refused(read_rgb, path, "save it again")
        refused(read_mask, path)


def test_an_interlaced_png_without_its_last_rows_is_refused(tmp_path):
    """Of the last pass: its rows are not the lowest of an image of odd height."""
    pixels, path = noise((17, 24, 3), below=255) + 1, tmp_path / "passes.png"
    content = interlaced_png(pixels)
    start = content.index(b"IDAT")
    rows = zlib.decompress(content[start + 4 : -16])
    chunk = png_chunk(b"IDAT", zlib.compress(rows[: -2 * (1 + 24 * 3)]))
    path.write_bytes(content[: start - 4] + chunk + content[-12:])
    assert np.asarray(Image.open(path))[-1].any()
    refused(read_rgb, path, "save it again")
    path.write_bytes(content)
    np.testing.assert_array_equal(read_image(path, 3), pixels)


def test_a_png_whose_last_rows_are_black_is_complete(tmp_path):
    pixels, path = noise((16, 24, 3)), tmp_path / "black.png"
    pixels[-3:] = 0
    path.write_bytes(png(pixels, 16))
    np.testing.assert_array_equal(read_image(path, 3), pixels)
    path.write_bytes(png(pixels[:-1], 16))
    refused(read_rgb, path)


@pytest.mark.parametrize("palette", [None, noise((256, 3))])
def test_any_changed_byte_of_a_png_is_detected(tmp_path, palette):
    path = save(tmp_path / "sealed.png", noise((12, 9)), palette)
    content = path.read_bytes()
    start = content.index(b"IDAT") + 4
    for place in range(start, start + int.from_bytes(content[start - 8 : start - 4]) + 4):
        changed = bytearray(content)
        changed[place] ^= 4
        path.write_bytes(changed)
        refused(read_rgb, path)
        refused(read_mask, path)


def test_any_changed_byte_of_a_deflated_tiff_is_detected(tmp_path):
    path, pixels = tmp_path / "deflated.tif", noise((12, 9))
    Image.fromarray(pixels).save(path, compression="tiff_adobe_deflate")
    content = path.read_bytes()
    with Image.open(path) as image:
        start, size = (image.tag_v2[tag][0] for tag in (273, 279))
    for place in range(start, start + size):
        changed = bytearray(content)
        changed[place] ^= 4
        path.write_bytes(changed)
        try:
            np.testing.assert_array_equal(read_image(path, 1)[..., 0], pixels)
        except UserError:
            refused(read_mask, path)
    longer = zlib.compress(bytes(range(200)))[:-1] + b"!"  # more than asked for, and its sum wrong
    path.write_bytes(content[:start] + longer.ljust(size, b"\0") + content[start + size :])
    refused(read_rgb, path)


def test_data_after_the_end_of_a_png_is_ignored(tmp_path):
    path = save(tmp_path / "tail.png", noise((12, 9)))
    path.write_bytes(path.read_bytes() + b"PK\3\4 something else")
    np.testing.assert_array_equal(read_image(path, 1)[..., 0], noise((12, 9)))


@pytest.mark.parametrize("ending", ["png", "gif", "bmp"])
def test_indices_beyond_the_palette_of_an_image_are_refused(tmp_path, ending):
    ids = noise((8, 8), below=21)
    path = save(tmp_path / f"beyond.{ending}", ids, noise((21, 3), below=255) + 1)
    assert read_image(path, 3).min() > 0
    if ending == "png":
        content = path.read_bytes()
        start = content.index(b"PLTE") - 4
        end = start + 12 + int.from_bytes(content[start : start + 4])
        short = png_chunk(b"PLTE", content[start + 8 : start + 8 + 3 * int(ids.max())])
        path.write_bytes(content[:start] + short + content[end:])
        refused(read_rgb, path, "palette")
        np.testing.assert_array_equal(read_mask(path), ids)  # which means the ids


def test_a_gif_smaller_than_its_screen_is_refused(tmp_path):
    path = save(tmp_path / "screen.gif", noise((8, 9)))
    content = bytearray(path.read_bytes())
    content[8] += 5  # the screen's height
    path.write_bytes(content)
    refused(read_rgb, path, "image data is truncated")
    refused(read_mask, path)


@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("height", [17, 24, 40])
def test_a_tiff_with_fewer_strips_than_its_size_needs_is_refused(tmp_path, height, planes):
    pixels, path = noise((16, 8, 3)), tmp_path / "strips.tif"
    stored = np.moveaxis(pixels, -1, 0) if planes else pixels
    kind = "separate" if planes else "contig"
    tifffile.imwrite(path, stored, photometric="rgb", planarconfig=kind, rowsperstrip=4)
    np.testing.assert_array_equal(read_image(path, 3), pixels)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["ImageLength"].overwrite(height)
    refused(read_rgb, path, "strips")
    refused(read_mask, path)


@pytest.mark.parametrize("kind", ["group3", "group4", "tiff_ccitt"])
def test_fax_encoding_is_refused(tmp_path, kind):
    path = tmp_path / "fax.tif"
    Image.fromarray(noise((8, 40)) > 127).save(path, compression=kind)
    for read in (read_rgb, read_mask, scan_image):
        refused(read, path, "fax", "PNG")


def test_a_run_length_encoded_bmp_is_refused(tmp_path):
    path = save(tmp_path / "runs.bmp", noise((8, 9)), noise((256, 3)))
    content = bytearray(path.read_bytes())
    for kind in (1, 2):
        content[30] = kind
        path.write_bytes(content)
        refused(scan_image, path, "run-length", "PNG")


def test_many_frames_are_not_counted(tmp_path):
    path = tmp_path / "frames.gif"
    frames = [Image.fromarray(noise((4, 5), seed=seed)) for seed in range(2)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    content = path.read_bytes()
    start = content.rindex(b"\x21\xf9")
    path.write_bytes(content[:start] + content[start:-1] * 200_000 + b";")
    began = time.perf_counter()
    refused(scan_image, path, "contains several images")
    assert time.perf_counter() - began < 2


def test_a_png_of_two_headers_is_refused(tmp_path):
    """Pillow takes the last, other programs the first."""
    path = tmp_path / "image.png"
    Image.fromarray(noise((4, 6))).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:33] + content[8:])
    refused(scan_and_read, path, "misplaced or repeated")


def scan_and_read(path):
    scan_image(path)
    read_image(path, 1)
