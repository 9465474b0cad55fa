"""Images with masks: matched, checked, hashed, read."""

import os
import pickle

import numpy as np
import pytest
from made_files import noise, refused, save

from unet_jax.data.files.masks import MaskFile, scan_mask
from unet_jax.data.files.pairs import (
    binary_label,
    check_binary,
    hash_pairs,
    list_files,
    make_dataset,
    match_files,
    scan_pairs,
)

PATTERN = r"([\w-]+)\.(?:png|tif)"


def list_here(folder):
    return list_files(folder, PATTERN, "PNG files", "get them from https://example.org")


def write_pairs(folder, names, size=(8, 6), channels=3):
    """Images and masks of noise; their paths by name."""
    for seed, name in enumerate(names):
        shape = (*size, 3) if channels == 3 else size
        save(folder / "images" / f"{name}.png", noise(shape, seed=seed))
        save(folder / "masks" / f"{name}.png", noise(size, seed=seed, below=2))
    return match_files(list_here(folder / "images"), list_here(folder / "masks"))


def test_files_are_listed_by_the_captured_name_in_its_order(tmp_path):
    for name in ("b.png", "a-1.png", "a.tif", ".hidden", "Thumbs.db"):
        (tmp_path / name).touch()
    assert [*list_here(tmp_path)] == ["a", "a-1", "b"]
    assert list_here(tmp_path)["a"] == tmp_path / "a.tif"


def test_a_name_that_is_not_utf8_is_escaped_for_reports_and_still_opened(tmp_path):
    path = tmp_path / os.fsdecode(b"f\xfcr.png")
    path.write_bytes(b"x")
    assert list_files(tmp_path, r"(.+)\.png", "", "") == {r"f\xfcr": path}


def test_a_missing_folder_and_an_empty_one_say_how_to_get_the_data(tmp_path):
    refused(list_here, tmp_path / "none", "no such folder", "https://example.org")
    (tmp_path / ".hidden").touch()
    refused(list_here, tmp_path, "is empty", "PNG files", "https://example.org")


def test_unknown_files_are_refused(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "b.webp").touch()
    refused(list_here, tmp_path, "b.webp", "unexpected file", "PNG files")


def test_two_files_of_one_name_are_refused(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "a.tif").touch()
    refused(list_here, tmp_path, "a.png", "a.tif", "keep only one")


@pytest.mark.parametrize(("gone", "other"), [("masks", "mask"), ("images", "image")])
@pytest.mark.parametrize("count", [1, 3])
def test_one_without_the_other_is_named(tmp_path, gone, other, count):
    write_pairs(tmp_path, "abcd")
    here = "images" if gone == "masks" else "masks"
    for name in "bcd"[:count]:
        (tmp_path / gone / f"{name}.png").unlink()
    images, masks = list_here(tmp_path / "images"), list_here(tmp_path / "masks")
    parts = [tmp_path / here / "b.png", f"no {other} in {tmp_path / gone}"]
    parts += ["2 others"] if count == 3 else []
    message = refused(lambda images: match_files(images, masks), images, *parts)
    assert ("others" in message) == (count == 3)


def test_sizes_must_agree(tmp_path):
    files = write_pairs(tmp_path, "abc", size=(8, 6))
    save(tmp_path / "masks" / "b.png", noise((6, 8), below=2))
    refused(scan_pairs, files, tmp_path / "masks/b.png", "6x8", tmp_path / "images/b.png", "8x6")


def test_types_do_not_mix(tmp_path):
    files = write_pairs(tmp_path, "ab", channels=1)
    scan_pairs(files)
    save(tmp_path / "images" / "b.png", noise((8, 6), np.uint16))
    refused(scan_pairs, files, tmp_path / "images/a.png", tmp_path / "images/b.png", "8", "uint16")


def test_the_first_broken_file_is_named(tmp_path):
    files = write_pairs(tmp_path, "abcdefgh")
    for name in "fc":
        (tmp_path / "masks" / f"{name}.png").write_bytes(b"")
    refused(scan_pairs, files, tmp_path / "masks/c.png")


def mask_of(path, *values, colours=False, lossy=False) -> MaskFile:
    return MaskFile(
        path=path,
        size=(2, 2),
        values=values,
        counts=(1,) * len(values),
        palette=(),
        colours=colours,
        lossy=lossy,
        white_is_zero=False,
        sha256="0",
    )


@pytest.mark.parametrize("values", [(0, 255), (0, 1), (0,), (1,), (255,)])
def test_binary_masks_are_of_0_and_1_or_of_0_and_255(tmp_path, values):
    check_binary([mask_of(tmp_path, 0, 1), mask_of(tmp_path, *values)], "1 = car")


@pytest.mark.parametrize("values", [(0, 2), (0, 1, 255), (0, 254), tuple(range(256))])
def test_other_values_in_binary_masks_are_refused(tmp_path, values):
    masks = [mask_of(tmp_path / "a", 0, 1), mask_of(tmp_path / "b", *values)]
    refused(
        lambda masks: check_binary(masks, "1 = car"), masks, tmp_path / "b", "1 = car", values[0]
    )


def test_smoothed_and_coloured_masks_are_no_binary_ones(tmp_path):
    smooth = scan_mask(save(tmp_path / "a.png", np.arange(256, dtype=np.uint8)[None]))
    refused(lambda masks: check_binary(masks, "x"), [smooth], "(256 values)", "smooth")
    black = scan_mask(save(tmp_path / "b.png", np.zeros((2, 2, 3), np.uint8)))
    refused(lambda masks: check_binary(masks, "x"), [black], "RGB", tmp_path / "b.png")


def test_0_and_1_in_a_jpeg_are_not_ids(tmp_path):
    check_binary([mask_of(tmp_path, 0, 255, lossy=True)], "x")
    refused(lambda masks: check_binary(masks, "x"), [mask_of(tmp_path, 0, 1, lossy=True)], "0, 1")


def test_masks_that_are_all_empty_are_refused(tmp_path):
    masks = [mask_of(tmp_path / "a", 0), mask_of(tmp_path / "b", 0)]
    refused(lambda masks: check_binary(masks, "1 = car"), masks, "0 everywhere")


def make(tmp_path, channels=3, names="abcde"):
    pairs = scan_pairs(write_pairs(tmp_path, names, channels=channels))
    parts = {"train": pairs[:3], "validation": [], "test": pairs[3:]}
    return make_dataset(parts, ["no", "yes"], binary_label, ["a note"])


@pytest.mark.parametrize("channels", [1, 3])
def test_examples_are_the_files(tmp_path, channels):
    dataset = make(tmp_path, channels)
    assert dataset.channels == channels
    assert dataset.classes == ("no", "yes")
    assert dataset.notes == ("a note",)
    assert dataset.splits["train"].names == ("a", "b", "c")
    assert dataset.splits["test"].sizes == ((8, 6),) * 2
    assert len(dataset.splits["validation"]) == 0
    test = pickle.loads(pickle.dumps(dataset.splits["test"]))
    image, label = test[1]["image"], test[1]["label"]
    np.testing.assert_array_equal(image.squeeze(), noise((8, 6, channels), seed=4).squeeze())
    np.testing.assert_array_equal(label, noise((8, 6), seed=4, below=2))
    assert image.shape == (8, 6, channels)
    assert image.dtype == label.dtype == np.uint8


def test_grey_images_among_colours_get_three_channels(tmp_path):
    write_pairs(tmp_path, "abcde", channels=3)
    save(tmp_path / "images" / "b.png", noise((8, 6)))
    files = match_files(list_here(tmp_path / "images"), list_here(tmp_path / "masks"))
    pairs = scan_pairs(files)
    dataset = make_dataset({"train": pairs, "test": pairs[:2]}, ["no", "yes"], binary_label)
    assert dataset.channels == 3
    assert "both grey and RGB images" in dataset.notes[0]
    image = dataset.splits["train"][1]["image"]
    np.testing.assert_array_equal(image, np.stack([noise((8, 6))] * 3, axis=-1))


def test_no_split_is_noted(tmp_path):
    pairs = scan_pairs(write_pairs(tmp_path, "ab"))
    parts = {"train": pairs, "validation": [], "test": pairs}
    assert "held out" in make_dataset(parts, ["no", "yes"], binary_label).notes[0]


def test_hashes_are_of_each_split_s_names_images_and_masks(tmp_path):
    before = make(tmp_path).sha256
    assert before.keys() == {"train", "test"}
    assert make(tmp_path).sha256 == before
    for file in ("images/e.png", "masks/e.png"):
        save(tmp_path / file, noise((8, 6, 3) if "images" in file else (8, 6), seed=9, below=2))
        after = dict(list(make_again(tmp_path).items()))
        assert after["train"] == before["train"]
        assert after["test"] != before["test"]
        before = after
    pairs = scan_pairs(write_pairs(tmp_path / "x", "ab"))
    renamed = scan_pairs(write_pairs(tmp_path / "y", "ac"))
    assert [p.image.sha256 for p in pairs] == [p.image.sha256 for p in renamed]
    assert hash_pairs(pairs) != hash_pairs(renamed)


def make_again(tmp_path):
    files = match_files(list_here(tmp_path / "images"), list_here(tmp_path / "masks"))
    pairs = scan_pairs(files)
    return make_dataset({"train": pairs[:3], "test": pairs[3:]}, ["no", "yes"], binary_label).sha256


def test_a_broken_image_is_found_when_it_is_read(tmp_path):
    dataset = make(tmp_path)
    path = tmp_path / "images" / "a.png"
    path.write_bytes(path.read_bytes()[:100])
    refused(lambda split: split[0], dataset.splits["train"], path)
