import concurrent.futures
import contextlib
import functools
import logging
import time

import numpy as np
import pytest
import tifffile
from made_files import noise, refused

from unet_jax.core.errors import UserError
from unet_jax.data.files import tiff
from unet_jax.data.files.images import read_image
from unet_jax.data.files.tiff import open_tiff, read_tiff


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_cut_file_is_refused_at_every_length(tmp_path, compression):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, pixels, compression=compression, photometric="minisblack")
    np.testing.assert_array_equal(read_tiff(path), pixels)
    content = path.read_bytes()
    refusals = 0
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        try:
            read = read_tiff(path)
        except UserError as error:
            refusals += 1
            assert str(path) in str(error)
            assert "\n" not in str(error)
        else:
            np.testing.assert_array_equal(read, pixels)
    assert refusals > len(content) // 7 * 0.8


def check_tiff(path) -> None:
    with open_tiff(path):
        pass


STACKS = {
    "raw": {},
    "strips": {"rowsperstrip": 5, "compression": "lzw"},
    "tiles": {"tile": (16, 16), "compression": "zlib"},
    "big": {"bigtiff": True},
    "imagej": {"imagej": True},
    "plain": {"metadata": None},
    "one directory": {"truncate": True},
    "ome": {"ome": True},
}


def write_stack(path, shape=(3, 21, 19), dtype=np.uint8, **options):
    tifffile.imwrite(path, noise(shape, dtype), **({"photometric": "minisblack"} | options))
    return path


def change(path, page, tag, value):
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[page].tags[tag].overwrite(value)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", STACKS)
def test_stacks_of_all_kinds_come_back(tmp_path, kind, dtype):
    path = write_stack(tmp_path / "stack.tif", dtype=dtype, **STACKS[kind])
    read = read_tiff(path)
    assert read.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(read, noise((3, 21, 19), dtype))


@pytest.mark.parametrize(("tag", "value"), [("ImageWidth", 18), ("ImageLength", 20)])
def test_pages_that_differ_are_refused_not_left_out(tmp_path, tag, value):
    path = write_stack(tmp_path / "stack.tif", metadata=None)
    change(path, 2, tag, value)
    refused(read_tiff, path, "differ in size or type")


@pytest.mark.parametrize("size", [10**5, 2**31 - 1])
@pytest.mark.parametrize("kind", ["raw", "strips", "tiles", "imagej", "plain"])
def test_a_giant_header_is_refused_at_once(tmp_path, kind, size):
    for tags in (["ImageWidth"], ["ImageLength"], ["ImageWidth", "ImageLength"]):
        path = write_stack(tmp_path / "stack.tif", **STACKS[kind])
        for tag in tags:
            change(path, 0, tag, size)
        began = time.perf_counter()
        refused(read_tiff, path)
        assert time.perf_counter() - began < 1


@pytest.mark.parametrize("kind", [2, 3, 4])
@pytest.mark.parametrize("page", [0, 2])
def test_fax_encoding_is_refused(tmp_path, page, kind):
    path = write_stack(tmp_path / "stack.tif", dtype=np.uint16)
    change(path, page, "Compression", kind)
    refused(read_tiff, path)


@pytest.mark.parametrize("claim", ["2", "4", "9", "999999999"])
def test_a_description_that_claims_other_pages_is_not_believed(tmp_path, claim):
    path = write_stack(tmp_path / "stack.tif", imagej=True)
    content = path.read_bytes()
    text = b"images=3\nchannels=3\nhyperstack=true"
    new = b"images=%s" % claim.encode()
    assert text in content
    path.write_bytes(content.replace(text, new.ljust(len(text), b"\n")))
    with contextlib.suppress(UserError):
        np.testing.assert_array_equal(read_tiff(path), noise((3, 21, 19)))
    tifffile.imwrite(path, noise((21, 19)), description=f"ImageJ=1.11a\n{new.decode()}\n")
    with contextlib.suppress(UserError):
        np.testing.assert_array_equal(read_tiff(path).squeeze(), noise((21, 19)))


@pytest.mark.parametrize("kind", ["strips", "tiles"])
@pytest.mark.parametrize("tag", ["Offsets", "ByteCounts"])
def test_another_number_of_strips_or_tiles_is_refused(tmp_path, kind, tag):
    name = ("Strip" if kind == "strips" else "Tile") + tag
    for change_of in (-1, 1):
        path = write_stack(tmp_path / "stack.tif", (21, 19), **STACKS[kind])
        with tifffile.TiffFile(path) as file:
            values = list(file.pages[0].tags[name].value)
        values = [*values, values[-1]] if change_of > 0 else values[:-1]
        change(path, 0, name, values)
        refused(check_tiff, path)
        refused(read_tiff, path)
    path = write_stack(tmp_path / "stack.tif", (21, 19), **STACKS[kind])
    change(path, 0, "ImageLength", 40)
    refused(check_tiff, path)


@pytest.mark.parametrize("kind", ["strips", "tiles"])
@pytest.mark.parametrize("tag", ["Offsets", "ByteCounts"])
def test_a_strip_or_tile_that_is_nowhere_is_refused(tmp_path, kind, tag):
    path = write_stack(tmp_path / "stack.tif", (21, 19), **STACKS[kind])
    name = ("Strip" if kind == "strips" else "Tile") + tag
    with tifffile.TiffFile(path) as file:
        values = list(file.pages[0].tags[name].value)
    values[1] = 0
    change(path, 0, name, values)
    refused(read_tiff, path, "lacks strips or tiles")
    refused(check_tiff, path, "lacks strips or tiles")


@pytest.mark.parametrize("size", [1, 2**31 - 16])
def test_tiles_of_another_size_are_refused_at_once(tmp_path, size):
    path = write_stack(tmp_path / "stack.tif", **STACKS["tiles"])
    for tag in ("TileWidth", "TileLength"):
        change(path, 0, tag, size)
    refused(read_tiff, path)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff, "MAX_BYTES", 2**16)
    path, pixels = tmp_path / "stack.tif", np.zeros((20, 512, 512), np.uint8)
    tifffile.imwrite(path, pixels[:1], compression="zlib", photometric="minisblack")
    monkeypatch.setattr(tiff, "MAX_RATIO", 100)
    refused(read_tiff, path, "more pixels than a file of", "bytes can hold")
    monkeypatch.setattr(tiff, "MAX_RATIO", 10_000)
    assert read_tiff(path).size == 512 * 512


def test_as_much_as_the_file_has_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff, "MAX_BYTES", 0)
    for kind in STACKS:
        assert read_tiff(write_stack(tmp_path / "stack.tif", **STACKS[kind])).size


OME = """<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:0">
<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="19"
SizeY="21" SizeZ="2" SizeC="1" SizeT="1"><TiffData IFD="0" FirstZ="0"><UUID FileName="open.tif"
>urn:uuid:0</UUID></TiffData><TiffData IFD="0" FirstZ="1"><UUID FileName="other.tif">urn:uuid:1
</UUID></TiffData></Pixels></Image></OME>"""


def test_an_ome_file_does_not_bring_others(tmp_path):
    for name in ("open", "other"):
        text = OME.replace('UUID="urn:uuid:0"', 'UUID="urn:uuid:1"', name == "other")
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, noise((21, 19)), description=text, metadata=None)
    assert tifffile.imread(tmp_path / "open.tif").shape == (2, 21, 19)
    np.testing.assert_array_equal(read_tiff(tmp_path / "open.tif"), noise((21, 19)))


def test_a_compressed_stream_that_breaks_off_is_refused(tmp_path):
    """Pillow alone would fill the rows that are missing with 255."""
    path, pixels = tmp_path / "image.tif", noise((24, 18, 3), np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", compression="zlib")
    with tifffile.TiffFile(path) as file:
        place, count = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    content = bytearray(path.read_bytes())
    content[place + count // 2 : place + count] = bytes(count - count // 2)
    path.write_bytes(content)
    refused(functools.partial(read_image, channels=3), path, "cannot be read as TIFF")


def test_the_damage_of_other_files_is_not_heard_by_other_threads(tmp_path):
    good = write_stack(tmp_path / "good.tif")
    cut = tmp_path / "cut.tif"  # its chain of pages breaks off, which tifffile only logs
    content = write_stack(cut, metadata=None).read_bytes()
    with tifffile.TiffFile(cut) as file:
        second = file.pages[0].offset + 2 + 12 * len(file.pages[0].tags)
    cut.write_bytes(content[:second] + b"\xf0\xff\xff\x7f" + content[second + 4 :])
    expected = noise((3, 21, 19))

    def read(number: int) -> int:
        if number % 2:
            with pytest.raises(UserError, match=r"cut\.tif"):
                tiff.read_tiff(cut)
        else:
            np.testing.assert_array_equal(tiff.read_tiff(good), expected)
        return number

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(2000))) == list(range(2000))


def test_errors_that_tifffile_logs_elsewhere_are_logged(tmp_path, caplog):
    write_stack(tmp_path / "a.tif")
    with tiff.refuse_damage(tmp_path / "a.tif"):
        logging.getLogger("tifffile").warning("not heard")
    logging.getLogger("tifffile").warning("heard")
    assert [record.getMessage() for record in caplog.records] == ["heard"]


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000"])
def test_a_jpeg_header_larger_than_the_tile_is_refused(tmp_path, compression):
    """Its decoder would make up 4 GiB of pixels."""
    path = write_stack(tmp_path / "a.tif", (2, 64, 64), tile=(64, 64), compression=compression)
    content = bytearray(path.read_bytes())
    if compression == "jpeg":
        place = content.index(b"\xff\xc0") + 5
        content[place : place + 4] = b"\xfd\xe8" * 2
    else:
        place = content.index(b"\xff\x51") + 6
        content[place : place + 8] = b"\0\0\xea\x60" * 2
    path.write_bytes(content)
    refused(read_tiff, path, "pixels in a strip or tile of (64, 64)")


def test_directories_that_would_take_too_much_are_refused(tmp_path):
    path = write_stack(tmp_path / "a.tif", metadata=None)
    with tifffile.TiffFile(path) as file:
        pages = [(page.offset, len(page.tags)) for page in file.pages]
        table = file.pages[0].tags["StripOffsets"].offset
    content = bytearray(path.read_bytes())
    content[table + 4 : table + 8] = (2**22).to_bytes(4, "little")
    content += bytes(2**24)  # so that the table is inside the file
    path.write_bytes(content)
    refused(read_tiff, path, "tag 273 has 4194304 values")
    write_stack(path, metadata=None)
    content = bytearray(path.read_bytes())
    end = pages[2][0] + 2 + 12 * pages[2][1]
    content[end : end + 4] = pages[1][0].to_bytes(4, "little")
    path.write_bytes(content)
    refused(read_tiff, path, "circular")
