"""Folders of images with other channels than grey or RGB, of other types, and rotated ones."""

import made_cases
import numpy as np
import pytest
from made_cases import scene, tif, write_case
from made_files import noise, refused, save
from PIL import Image

from configs import folder as folder_config
from unet_jax.data import open_dataset
from unet_jax.data.sources import folder as folder_source


def config(root, **options):
    data = folder_config.get_config().data
    data.root = str(root)
    data.update(options)
    return data


RGB_NIR = ("red", "green", "blue", "channel 4")
SIZE = (made_cases.SIDE, made_cases.SIDE)


def channels(i: int, count: int, dtype=np.uint8) -> np.ndarray:
    """Channels of noise; the last is the image of the scene."""
    pixels = noise((*SIZE, count), seed=i).astype(dtype)
    pixels[..., -1] = scene(i)[0]
    return pixels


def write(root, image_of, writer) -> None:
    """Writes pairs whose images `image_of(i)` `writer` writes."""
    write_case(root, (0, 255, 255))
    for i in range(made_cases.PAIRS):
        (root / f"images/case{i:02d}.png").unlink()
        writer(root / f"images/case{i:02d}", image_of(i))


def planes(stem, pixels, **options) -> None:
    tif(photometric="minisblack", **options)(stem, np.moveaxis(pixels, -1, 0))


def ome(stem, pixels) -> None:
    channel = {"Name": ["DAPI", "GFP", "RFP"][: pixels.shape[2]]}
    planes(stem, pixels, ome=True, metadata={"axes": "CYX", "Channel": channel})


# How many channels of which type are written, how, and the names that they have then.
CASES = {
    "two-channels": (
        (2, np.uint8),
        tif(photometric="minisblack", planarconfig="contig"),
        ("channel 1", "channel 2"),
    ),
    "rgb-nir": ((4, np.uint8), tif(photometric="rgb", extrasamples=["unspecified"]), RGB_NIR),
    "five-channels-16": (
        (5, np.uint16),
        tif(photometric="minisblack"),
        tuple(f"channel {i}" for i in range(1, 6)),
    ),
    "ome": ((3, np.uint16), ome, ("DAPI", "GFP", "RFP")),
}


@pytest.mark.parametrize("name", CASES)
def test_all_channels_are_read_and_named(tmp_path, name):
    (count, dtype), writer, names = CASES[name]
    write(tmp_path, lambda i: channels(i, count, dtype), writer)
    dataset = open_dataset(config(tmp_path))
    assert (dataset.channels, dataset.channel_names) == (count, names)
    notes = "\n".join(dataset.notes)
    assert f"images have {count} channels: {', '.join(names)}" in notes
    assert ("case00.tif (10 images in all) stores a page a row" in notes) == ("five" in name)
    for split in dataset.splits.values():
        for k, image in enumerate(split.names):
            expected = channels(int(image[4:6]), count, dtype)
            np.testing.assert_array_equal(split[k]["image"], expected)


def test_grey_and_rgb_have_no_note_of_their_channels(tmp_path):
    write_case(tmp_path, (0, 255, 255))
    dataset = open_dataset(config(tmp_path))
    assert dataset.channel_names == ("grey",)
    save(tmp_path / "images/case03.png", np.dstack([scene(3)[0]] * 3))
    mixed = open_dataset(config(tmp_path))
    assert mixed.channel_names == ("red", "green", "blue")
    assert "images have" not in "\n".join([*dataset.notes, *mixed.notes])
    assert "both grey and RGB" in "\n".join(mixed.notes)


def test_other_mixtures_name_two_files(tmp_path):
    write(tmp_path, lambda i: channels(i, 4), tif(photometric="rgb", extrasamples=["unspecified"]))
    (tmp_path / "images/case03.tif").unlink()
    save(tmp_path / "images/case03.png", scene(3)[0])
    parts = "images/case03.png: 1 channel, but", "images/case00.tif has 4"
    refused(open_dataset, config(tmp_path), *parts)


def test_names_that_differ_are_not_used(tmp_path):
    def writer(stem, pixels):
        labels = ["a", "b" if stem.name == "case00" else "c"]
        planes(stem, pixels, imagej=True, metadata={"axes": "CYX", "Labels": labels})

    write(tmp_path, lambda i: channels(i, 2), writer)
    assert open_dataset(config(tmp_path, split=())).channel_names == ("channel 1", "channel 2")


@pytest.mark.parametrize("dtype", ["float32", "int16", "uint32"])
def test_other_types_are_read_as_they_are_stored(tmp_path, dtype):
    write(tmp_path, lambda i: channels(i, 1, dtype)[..., 0], tif())
    split = open_dataset(config(tmp_path)).splits["train"]
    assert split[0]["image"].dtype == dtype
    expected = channels(int(split.names[0][4:6]), 1, dtype)
    np.testing.assert_array_equal(split[0]["image"], expected)


def test_stored_values_of_white_is_zero_count(tmp_path):
    write(tmp_path, lambda i: scene(i)[0], tif(photometric="miniswhite"))
    dataset = open_dataset(config(tmp_path, split=()))
    assert "case00.tif (10 images in all) says WhiteIsZero" in "\n".join(dataset.notes)
    np.testing.assert_array_equal(dataset.splits["train"][0]["image"][..., 0], scene(0)[0])


def test_rotated_images_are_read_upright_with_their_masks(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in "abc":
        save(tmp_path / f"images/{name}.png", noise((8, 10, 3)), exif=exif)
        mask = noise((8, 10), below=2) * 255
        save(tmp_path / f"masks/{name}.png", np.rot90(mask, -1) if name == "a" else mask)
    dataset = open_dataset(config(tmp_path, split=()))
    for example in (dataset.splits["train"][i] for i in range(3)):
        np.testing.assert_array_equal(example["image"], np.rot90(noise((8, 10, 3)), -1))
        np.testing.assert_array_equal(example["label"], np.rot90(noise((8, 10), below=2), -1))
    notes = "\n".join(dataset.notes)
    assert "a.png (3 images in all) has an EXIF or TIFF orientation" in notes
    assert "masks/b.png (one mask of 2) has no orientation" in notes


def test_a_second_opening_decodes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("unet_jax.data.files.index.RACY_NS", -1)
    root = tmp_path / "data"
    write(root, lambda i: channels(i, 3, np.uint16), ome)
    first = open_dataset(config(root))

    def fail(*_):
        raise AssertionError("decoded again")

    for name in ("scan_image", "scan_mask"):
        monkeypatch.setattr(f"unet_jax.data.files.pairs.{name}", fail)
    second = open_dataset(config(root))
    assert (second.channel_names, second.notes) == (first.channel_names, first.notes)
    with pytest.raises(AssertionError, match="decoded again"):
        folder_source.open_folder(config(root, image_pattern="", split=()))
