"""Bands of rows are those of the whole image, and no more of it is in memory."""

import random
import struct
import tracemalloc

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from made_files import noise, refused, save

from benchmarks.robustness.giants import lying_tiff
from unet_jax.core.errors import UserError
from unet_jax.data.files import pages
from unet_jax.data.files.images import read_image
from unet_jax.data.files.pages import open_pages, scan_pages

GREY, COLOUR = (3, 53, 70), (2, 53, 70, 3)
STACKS = {
    "one strip": (GREY, np.uint8, {"rowsperstrip": 53}),
    "strips": (GREY, np.uint8, {"rowsperstrip": 7}),
    "big endian": (GREY, np.uint16, {"rowsperstrip": 7, "byteorder": ">"}),
    "colours": (COLOUR, np.uint16, {}),
    "zlib strips": (GREY, np.uint16, {"rowsperstrip": 7, "compression": "zlib"}),
    "one zlib strip": (GREY, np.uint8, {"rowsperstrip": 53, "compression": "zlib"}),
    "tiles": (GREY, np.uint8, {"tile": (16, 32)}),
    "lzw tiles": (COLOUR, np.uint8, {"tile": (16, 32), "compression": "lzw", "predictor": True}),
    "big endian zlib": (GREY, np.uint16, {"compression": "zlib", "byteorder": ">"}),
    "bigtiff": (GREY, np.uint8, {"bigtiff": True}),
    "ImageJ": (GREY, np.uint16, {"imagej": True}),
    "ImageJ, one page": (GREY, np.uint16, {"imagej": True, "truncate": True}),
}


def write(path, pixels, **options):
    photometric = "rgb" if pixels.shape[-1] == 3 else "minisblack"
    if options.get("imagej"):
        options["metadata"] = {"axes": "ZYX"}
    tifffile.imwrite(path, pixels, photometric=photometric, **options)
    return path


@pytest.fixture(scope="module")
def stacks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stacks")
    return {
        name: (write(folder / f"{name}.tif", noise(shape, dtype), **options), noise(shape, dtype))
        for name, (shape, dtype, options) in STACKS.items()
    }


@pytest.mark.parametrize("name", STACKS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_rows_are_those_of_the_whole_image(stacks, name, data):
    path, expected = stacks[name]
    assert scan_pages(path) == [expected.shape[1:3]] * len(expected)
    samples = expected.shape[3] if expected.ndim == 4 else 1
    channels = max(samples, data.draw(st.sampled_from([1, 3])))
    expected = expected.reshape(-1, 53, 70, samples).repeat(channels // samples, axis=3)
    with open_pages(path, channels) as images:
        for page, whole in zip(images, expected, strict=True):
            assert page.size == (53, 70)
            for _ in range(4):
                start = data.draw(st.integers(0, 52))
                stop = data.draw(st.integers(start + 1, 53))
                rows = page.rows(start, stop)
                assert rows.dtype == whole.dtype
                np.testing.assert_array_equal(rows, whole[start:stop])


def test_a_file_of_one_page_is_read_as_for_training(tmp_path):
    for name, pixels in (("a.png", noise((9, 7, 3))), ("b.tif", noise((9, 7), np.uint16))):
        path = save(tmp_path / name, pixels)
        assert scan_pages(path) == [(9, 7)]
        with open_pages(path, 3) as images:
            (page,) = images
        np.testing.assert_array_equal(page.rows(2, 8), read_image(path, 3)[2:8])
        assert page.size == (9, 7)


def test_pages_may_differ_in_size(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for shape in ((9, 7), (4, 20)):
            file.write(noise(shape), photometric="minisblack")
    assert scan_pages(tmp_path / "a.tif") == [(9, 7), (4, 20)]
    with open_pages(tmp_path / "a.tif", 1) as images:
        for page, shape in zip(images, ((9, 7), (4, 20)), strict=True):
            np.testing.assert_array_equal(page.rows(0, shape[0])[..., 0], noise(shape))


@pytest.mark.parametrize("options", [{}, {"compression": "zlib", "tile": (64, 64)}])
def test_a_page_above_the_limit_is_never_decoded_as_a_whole(tmp_path, monkeypatch, options):
    monkeypatch.setattr(pages, "MAX_PIXELS", 64 * 4000)
    size = (4096, 4000)
    image = np.arange(size[0], dtype=np.uint8)[:, None].repeat(size[1], 1)
    path = write(tmp_path / "a.tif", image, **options)
    tracemalloc.start()
    with open_pages(path, 1) as images:
        (page,) = images
        for start in range(0, 4096, 128):
            stop = min(start + 160, 4096)
            rows = page.rows(start, stop)
            np.testing.assert_array_equal(rows[:, 0, 0], image[start:stop, 0])
            np.testing.assert_array_equal(rows[:, -1, 0], image[start:stop, 0])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < image.nbytes / 4


def test_rows_are_not_decoded_twice(stacks, monkeypatch):
    path, _ = stacks["zlib strips"]
    read = []
    frame = pages._Frame
    original = frame.read

    def counted(self, start, stop):
        read.append((start, stop))
        return original(self, start, stop)

    monkeypatch.setattr(frame, "read", counted)
    with open_pages(path, 1) as images:
        page = next(images)
        for start in (0, 10, 20, 40):
            page.rows(start, min(start + 18, 53))
    assert read == [(0, 21), (21, 28), (28, 42), (42, 53)]


@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "zlib"}, {"compression": "jpeg"}, {"tile": (16, 16)}],
    ids=["strips", "zlib", "jpeg", "tiles"],
)
def test_a_truncated_stack_is_refused_or_complete(tmp_path, options):
    def read():
        with open_pages(path, 1) as images:
            return [page.rows(0, 40)[..., 0] for page in images]

    path = write(tmp_path / "a.tif", noise((4, 40, 40)), contiguous=False, **options)
    content, pixels, refused = path.read_bytes(), read(), 0
    for length in range(0, len(content), 53):
        path.write_bytes(content[:length])
        for way in (read, lambda: scan_pages(path)):
            try:
                found = way()
            except UserError as error:
                refused += way is read
                assert str(path) in str(error)
                assert "\n" not in str(error)
            else:
                if way is read:
                    np.testing.assert_array_equal(found, pixels)
                else:
                    assert found == [(40, 40)] * 4
    assert refused > len(content) // 53 * 0.8


def test_unsupported_large_tiffs_are_refused_with_the_reason(tmp_path, monkeypatch):
    def refused(pixels, parts, channels=1, **options):
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, pixels, **options)
        with pytest.raises(UserError) as error, open_pages(path, channels) as images:
            next(images).rows(0, 1)
        for part in (str(path), *parts):
            assert part in str(error.value)

    refused(noise((2, 9, 9)).astype(np.int64), ["int64", "32-bit integers"])
    refused(np.full((2, 9, 9), np.nan, np.float32), ["9 pixels are not a number"])
    refused(noise((2, 9, 9, 3)), ["CIELAB"], channels=3, photometric="cielab")
    refused(noise((2, 9, 9, 3)), ["3 channels; the training images have 1"], photometric="rgb")
    refused(noise((2, 9, 9, 4)), ["partly transparent"], channels=3, photometric="rgb")
    monkeypatch.setattr(pages, "MAX_PIXELS", 80)
    one = {"compression": "zlib", "rowsperstrip": 9, "photometric": "minisblack"}
    refused(noise((9, 9)), ["9x9 pixels compressed as one strip", "80"], **one)


def test_pages_that_go_round_in_a_circle_are_refused(tmp_path):
    path = tmp_path / "circle.tif"
    tifffile.imwrite(path, np.zeros((3, 8, 8), np.uint8), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path) as file:
        first, last = file.pages[0].offset, file.pages[2].aspage()
        following = last.offset + 2 + 12 * len(last.tags)  # the last page has none to follow it
    content = bytearray(path.read_bytes())
    content[following : following + 4] = first.to_bytes(4, "little")
    path.write_bytes(content)
    refused(scan_pages, path, path.name)


def test_a_stack_without_all_of_its_images_is_refused(tmp_path):
    path = tmp_path / "stack.tif"
    about = "ImageJ=1.54\nimages=9\nslices=9\n"  # of which one has a page, the others lie behind
    options = {"description": about, "metadata": None, "photometric": "minisblack"}
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8), **options)
    refused(scan_pages, path)


def test_a_page_of_two_heights_is_refused(tmp_path):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.zeros((2, 8, 8), np.uint8), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path) as file:
        place = file.pages[0].aspage().tags["ImageLength"].offset
    content = bytearray(path.read_bytes())
    content[place + 4 : place + 8] = (2).to_bytes(4, "little")  # how many there are
    content[place + 2 : place + 4] = (3).to_bytes(2, "little")  # of two bytes each
    content[place + 8 : place + 12] = b"\x08\0\x08\0"
    path.write_bytes(content)
    refused(scan_pages, path, path.name)


def directory(**tags) -> bytes:
    """A TIFF of 512 bytes with one page of 8-bit grey, and of these tags."""
    tags = {"256": 4, "257": 4, "258": 8, "259": 1, "262": 1, "277": 1} | tags
    data = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    numbers = sorted((int(tag), value) for tag, value in tags.items())
    return (data + b"".join(struct.pack("<HHII", k, 4, 1, v) for k, v in numbers)).ljust(512, b"\0")


GIANTS = {
    "wide": {"256": 2**32 - 1, "257": 1, "273": 200, "278": 1, "279": 100},
    "high": {"256": 32, "257": 2**32 - 1, "273": 200, "278": 2**32 - 1, "279": 100},
    "one strip": {"256": 60_000, "257": 60_000, "273": 200, "278": 60_000, "279": 100},
    "outside": {"256": 64, "257": 64, "273": 200, "278": 64, "279": 4096},
    "packed": {"256": 9000, "257": 9000, "259": 8, "273": 200, "278": 9000, "279": 100},
    "sparse": {"256": 60_000, "257": 60_000, "322": 60_000, "323": 60_000, "324": 0, "325": 0},
}


@pytest.mark.parametrize("name", GIANTS)
def test_more_pixels_than_the_file_can_hold_are_refused_at_once(tmp_path, name):
    path = tmp_path / "giant.tif"
    path.write_bytes(directory(**GIANTS[name]))
    tracemalloc.start()
    refused(scan_pages, path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22


def test_a_sparse_image_of_few_tiles_has_zeros_between_them(tmp_path):
    path, image = tmp_path / "a.tif", noise((2, 64, 64))
    write(path, image, tile=(16, 16), metadata=None)
    with tifffile.TiffFile(path, mode="r+") as file:
        counts = [256, 0] * 8
        file.pages[0].tags["TileByteCounts"].overwrite(counts)
    assert scan_pages(path) == [(64, 64)] * 2
    with open_pages(path, 1) as images:
        pixels = next(images).rows(0, 64)[..., 0]
    np.testing.assert_array_equal(pixels[:, :16], image[0, :, :16])
    assert not pixels[:, 16:32].any()


def test_pages_that_share_their_pixels_are_refused_beyond_what_the_file_can_hold(tmp_path):
    path, blank = tmp_path / "a.tif", np.zeros((1000, 1000), np.uint8)
    options = {"compression": "zlib", "rowsperstrip": 1000, "metadata": None}
    tifffile.imwrite(path, blank, photometric="minisblack", **options)
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        start, length = page.offset, 2 + 12 * len(page.tags)
    content = path.read_bytes()
    entries = content[start : start + length]
    for count in (10, 30):  # of a million pixels each, in some kilobytes
        path.write_bytes(content)
        place = start + length
        with open(path, "r+b") as file:
            for _ in range(count - 1):
                end = file.seek(0, 2)
                file.write(entries + bytes(4))
                file.seek(place)
                file.write(struct.pack("<I", end))
                place = end + length
        if count == 10:
            assert scan_pages(path) == [(1000, 1000)] * 10
        else:
            refused(scan_pages, path, "bytes can hold")


@pytest.mark.parametrize("seed", range(60))
def test_a_lying_tiff_is_read_or_refused_in_little_memory(tmp_path, seed):
    path = tmp_path / "a.tif"
    path.write_bytes(lying_tiff(random.Random(seed)))
    tracemalloc.start()
    try:
        sizes = scan_pages(path)
        assert sum(height * width for height, width in sizes) <= max(2**24, 1024 * 2**18)
        with open_pages(path, 1) as images:
            for page in images:
                page.rows(0, min(16, page.size[0]))
    except UserError as error:
        assert "\n" not in str(error)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**28
