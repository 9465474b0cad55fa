"""Pages are channels where the file says so, and only there."""

import numpy as np
import pytest
import tifffile
from made_files import noise, refused

from unet_jax.data.files.images import read_image, scan_image
from unet_jax.data.files.pages import open_pages, scan_pages

C, Z, SIZE = 4, 3, (21, 19)
NAMES = ["DAPI", "GFP", "RFP", "Cy5"]
OME_NAMES = {"Channel": {"Name": NAMES}}


def write(path, shape, dtype=np.uint8, **options) -> np.ndarray:
    pixels = noise(shape, dtype)
    tifffile.imwrite(path, pixels, **({"photometric": "minisblack"} | options))
    return pixels


def predicted(path, channels: int) -> list[np.ndarray]:
    sizes = scan_pages(path)
    with open_pages(path, channels) as images:
        found = [(page.size, page.rows(0, page.size[0])) for page in images]
    assert [size for size, _ in found] == sizes
    return [pixels for _, pixels in found]


ONE_IMAGE = {
    "OME": {"ome": True, "metadata": {"axes": "CYX"} | OME_NAMES},
    "OME, one page": {"ome": True, "planarconfig": "separate", "metadata": {"axes": "CYX"}},
    "ImageJ": {"imagej": True, "metadata": {"axes": "CYX", "Labels": NAMES}},
    "ImageJ, one page": {"imagej": True, "metadata": {"axes": "CYX"}, "truncate": True},
    "tifffile": {"metadata": {"axes": "CYX"}, "compression": "zlib"},
    "tifffile, one page": {"metadata": {"axes": "CYX"}, "truncate": True},
}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", ONE_IMAGE)
def test_pages_that_are_channels_make_one_image(tmp_path, name, dtype):
    path, options = tmp_path / "a.tif", ONE_IMAGE[name]
    expected = np.moveaxis(write(path, (C, *SIZE), dtype, **options), 0, -1)
    found = scan_image(path)
    assert (found.size, found.channels, found.dtype) == (SIZE, C, np.dtype(dtype).name)
    named = "Labels" in options["metadata"] or "Channel" in options["metadata"]
    assert found.channel_names == tuple(NAMES if named else [f"channel {i + 1}" for i in range(C)])
    np.testing.assert_array_equal(read_image(path, C), expected)
    (pixels,) = predicted(path, C)
    np.testing.assert_array_equal(pixels, expected)


STACKS = {
    "OME": ({"ome": True, "metadata": {"axes": "ZYX"}}, "3 slices (Z)"),
    "ImageJ": ({"imagej": True, "metadata": {"axes": "ZYX"}}, "3 slices (Z)"),
    "tifffile": ({"metadata": {"axes": "TYX"}}, "3 time points (T)"),
    "unnamed": ({}, "3 pages of unknown meaning"),
    "plain": ({"metadata": None}, "3 pages of unknown meaning"),
}


@pytest.mark.parametrize("name", STACKS)
def test_other_pages_are_refused_in_training_and_a_stack_in_prediction(tmp_path, name):
    path, (options, axes) = tmp_path / "a.tif", STACKS[name]
    stack = write(path, (Z, *SIZE), **options)
    message = refused(scan_image, path, axes, "save each slice as its own file")
    assert ("axes CYX" in message) == ("unknown" in axes)
    for pixels, expected in zip(predicted(path, 1), stack, strict=True):
        np.testing.assert_array_equal(pixels[..., 0], expected)


HYPERSTACKS = [({"imagej": True}, "ZCYX"), ({"imagej": True}, "TCYX")]
HYPERSTACKS += [(options, axes) for options in ({"ome": True}, {}) for axes in ("ZCYX", "CZYX")]


@pytest.mark.parametrize(("options", "axes"), HYPERSTACKS)
def test_a_stack_of_channels_is_predicted_slice_by_slice(tmp_path, options, axes):
    path, shape = tmp_path / "a.tif", (C, Z) if axes[0] == "C" else (Z, C)
    stack = write(path, (*shape, *SIZE), metadata={"axes": axes}, **options)
    counts = {"C": "4 channels (C)", "Z": "3 slices (Z)", "T": "3 time points (T)"}
    refused(scan_image, path, f"{counts[axes[0]]} of {counts[axes[1]]}")
    stack = np.moveaxis(stack, axes.index("C"), -1)
    for pixels, expected in zip(predicted(path, C), stack, strict=True):
        np.testing.assert_array_equal(pixels, expected)


def test_rgb_pages_are_no_channels_of_each_other(tmp_path):
    for options in ({"imagej": True}, {"ome": True, "metadata": {"axes": "YXS"}}):
        expected = write(tmp_path / "a.tif", (*SIZE, 3), photometric="rgb", **options)
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif", 3), expected)
        assert scan_image(tmp_path / "a.tif").channel_names == ("red", "green", "blue")


@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize("channels", [2, 5])
def test_an_array_of_interleaved_channels_that_tifffile_wrote_by_rows(tmp_path, channels, truncate):
    path = tmp_path / "a.tif"
    expected = write(path, (*SIZE, channels), np.uint16, truncate=truncate)
    found = scan_image(path)
    assert (found.size, found.channels, found.is_page_a_row) == (SIZE, channels, True)
    np.testing.assert_array_equal(read_image(path, channels), expected)
    (pixels,) = predicted(path, channels)
    np.testing.assert_array_equal(pixels, expected)
    write(path, (*SIZE, 18))  # as likely a stack of narrow images
    refused(scan_image, path, "21 pages of unknown meaning")
    expected = write(path, (*SIZE, 18), metadata={"axes": "YXC"})
    np.testing.assert_array_equal(read_image(path, 18), expected)


OME = """<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:0">
<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="19"
SizeY="21" SizeZ="{z}" SizeC="{c}" SizeT="1">{channels}{data}</Pixels></Image>{more}</OME>"""


def write_ome(path, pages: int, data: str = "", more: str = "", z=1, c=2) -> np.ndarray:
    text = OME.format(z=z, c=c, channels="", data=data, more=more)
    pixels = noise((pages, *SIZE))
    with tifffile.TiffWriter(path) as file:
        for i, page in enumerate(pixels):
            options = {"description": text} if i == 0 else {}
            file.write(page, metadata=None, photometric="minisblack", contiguous=False, **options)
    return pixels


def test_ome_pages_may_be_in_another_order(tmp_path):
    path = tmp_path / "a.tif"
    data = '<TiffData IFD="1" FirstC="0"/><TiffData IFD="0" FirstC="1" PlaneCount="1"/>'
    pages = write_ome(path, 2, data)
    np.testing.assert_array_equal(read_image(path, 2), np.moveaxis(pages[::-1], 0, -1))
    np.testing.assert_array_equal(predicted(path, 2)[0], np.moveaxis(pages[::-1], 0, -1))


OTHER = '<TiffData IFD="{i}" FirstC="{i}"><UUID FileName="b.tif">urn:uuid:{i}</UUID></TiffData>'


@pytest.mark.parametrize(
    "options",
    [
        {"data": OTHER.format(i=0) + OTHER.format(i=1)},
        {"data": '<TiffData IFD="0" FirstC="0"/><TiffData IFD="0" FirstC="1"/>'},
        {"data": '<TiffData IFD="5" FirstC="0"/>'},
        {"data": '<TiffData IFD="0" FirstC="7"/>'},
        {"more": '<Image ID="Image:1"><Pixels/></Image>'},
        {"c": 3},
        {"c": "many"},
        {"c": 10**12},
        {"more": "<unclosed>"},
    ],
)
def test_ome_metadata_that_do_not_fit_the_pages_say_nothing(tmp_path, options):
    path = tmp_path / "a.tif"
    pages = write_ome(path, 2, **options)
    refused(scan_image, path, "2 pages of unknown meaning")
    for pixels, expected in zip(predicted(path, 1), pages, strict=True):
        np.testing.assert_array_equal(pixels[..., 0], expected)


def test_one_page_of_an_ome_image_of_several_files_is_itself(tmp_path):
    write_ome(tmp_path / "b.tif", 1)
    data = OTHER.format(i=0).replace("b.tif", "a.tif") + OTHER.format(i=1)
    (page,) = write_ome(tmp_path / "a.tif", 1, data)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", 1)[..., 0], page)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["a\nb", "c"], ("a b", "c")),
        (["a", "a"], ("channel 1", "channel 2")),
        (["a", " "], ("channel 1", "channel 2")),
    ],
)
def test_names_are_distinct_and_of_one_line(tmp_path, labels, expected):
    metadata = {"axes": "CYX", "Labels": labels}
    write(tmp_path / "a.tif", (2, *SIZE), imagej=True, metadata=metadata)
    assert scan_image(tmp_path / "a.tif").channel_names == expected


def test_declared_images_that_are_missing_are_damage(tmp_path):
    path = tmp_path / "a.tif"
    write(path, (2, *SIZE), imagej=True, metadata={"axes": "CYX"}, truncate=True)
    content = path.read_bytes()
    for wrong in (b"channels=9\nimages=9", b"channels=2\nslices=7"):
        name = b"images=2\nchannels=2"
        assert name in content
        path.write_bytes(content.replace(name, wrong.ljust(len(name), b"\n")))
        refused(scan_image, path, "cannot be read")
        refused(scan_pages, path, "cannot be read")
