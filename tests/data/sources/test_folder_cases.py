"""Folders as people have them come in with the right pixels and labels, or get one line."""

import codecs

import made_cases
import numpy as np
import pytest
from made_cases import jpeg, png, scene, tif, write_case
from made_files import refused

from configs import folder as folder_config
from unet_jax.data import open_dataset

BINARY, RINGS = {0: 0, 1: 1, 2: 1}, {0: 0, 1: 1, 2: 2}


def config(root, **options):
    data = folder_config.get_config().data
    data.root = str(root)
    data.update(options)
    return data


def stray(values: np.ndarray) -> None:
    values[0, 0] = 1


def smooth(values: np.ndarray) -> None:
    values[0, :9] = np.arange(40, 220, 20)[:9] * (values[0, :9] == 0)


def lined(text: str, encoding: str = "utf-8"):
    return {"classes": text.encode(encoding)}


# The stored value of each class, how the case is written, options, expected classes, and a part of
# the notes.
CASES = {
    "bool-tif": ((0, 1, 1), {"dtype": bool, "writer": tif()}, {}, BINARY, "WhiteIsZero"),
    "white-is-zero": (
        (0, 255, 255),
        {"writer": tif(photometric="miniswhite")},
        {},
        BINARY,
        "WhiteIsZero",
    ),
    "jpeg-masks": ((0, 255, 255), {"writer": jpeg}, {}, BINARY, "between 32 and 223"),
    "smooth-masks": (
        (0, 255, 255),
        {"change": smooth},
        {"threshold": 230.0},
        BINARY,
        "from 230 on",
    ),
    "ids-with-gaps": ((0, 11, 200), {}, {}, RINGS, "mask value 200 = class-200"),
    "ids-from-one": ((1, 2, 3), {}, {}, RINGS, "mask value 1 = class-1"),
    "ids-0-128-255": ((0, 128, 255), {}, {}, RINGS, "mask value 128 = class-128"),
    "ignored-128": ((0, 128, 255), {}, {"ignore": (128,)}, {0: 0, 1: 255, 2: 1}, "128 is ignored"),
    "mask-65535": ((0, 65535, 65535), {"dtype": np.uint16}, {}, BINARY, "value 65535 ="),
    "mask-0-100": ((0, 100, 100), {}, {}, BINARY, "mask value 100 = foreground"),
    "mask-int32": ((0, 1, 2), {"dtype": np.int32, "writer": tif()}, {}, RINGS, "class-2"),
    "mask-float32": ((0, 1, 1), {"dtype": np.float32, "writer": tif()}, {}, BINARY, "value 1 ="),
    "instances-16": (
        (0, 301, 302),
        {"dtype": np.uint16},
        {"binary": "nonzero"},
        BINARY,
        "301, 302 = foreground",
    ),
    "wide-ids": (
        (0, 301, 302),
        {"dtype": np.uint16},
        {"mask_values": ("0:a", "301:b", "302:c")},
        RINGS,
        "mask value 302 = c",
    ),
    "reversed": (
        (0, 1, 2),
        {},
        {"mask_values": ("2:a", "1:ignored", "0:c")},
        {0: 1, 1: 255, 2: 0},
        "1 is ign",
    ),
    "classes-utf16": ((0, 255, 255), lined("no\r\ncell\r\n", "utf-16"), {}, BINARY, "= cell"),
    "classes-valued": ((0, 7, 90), lined("90 a\n7 a\n0 b\n"), {}, {0: 1, 1: 0, 2: 0}, "7, 90 = a"),
    "suffix-label": ((0, 255, 255), {"mask": "masks/{}_label"}, {}, BINARY, "case00_label.png"),
    "suffix-GT": ((0, 255, 255), {"mask": "masks/{}_GT"}, {}, BINARY, "case00_GT.png"),
    "suffix-masks": ((0, 255, 255), {"mask": "masks/{}_masks"}, {}, BINARY, "case00_masks.png"),
    "folder-labels": ((0, 255, 255), {"mask": "labels/{}"}, {}, BINARY, "2 classes"),
    "patterns": (
        (0, 255, 255),
        {"image": "imgs/{}-v1", "mask": "gt/x{}y"},
        {"image_pattern": r"(.+)-v1\.", "mask_pattern": "x(.+)y"},
        BINARY,
        "2 classes",
    ),
    "given-split": (
        (0, 255, 255),
        {"parts": ("Train", "valid", "testing")},
        {},
        BINARY,
        "Train/, valid/, test",
    ),
    "given-two": ((0, 255, 255), {"parts": ("training", "val")}, {}, BINARY, "no test images"),
}


def write(root, table, keywords):
    keywords = dict(keywords)
    classes = keywords.pop("classes", None)
    write_case(root, table, **keywords)
    if classes is not None:
        (root / "classes.txt").write_bytes(classes)


@pytest.mark.parametrize("name", CASES)
def test_pixels_and_labels_are_right(tmp_path, name):
    table, keywords, options, expected, note = CASES[name]
    write(tmp_path, table, keywords)
    dataset = open_dataset(config(tmp_path, **options))
    assert note in "\n".join(dataset.notes)
    assert len(dataset.classes) == len({*expected.values()} - {255})
    seen = []
    for split in dataset.splits.values():
        for k, image_name in enumerate(split.names):
            pixels, classes = scene(int(image_name[4:6]))
            seen.append(image_name)
            np.testing.assert_array_equal(split[k]["image"][..., 0], pixels)
            label = np.vectorize(expected.get)(classes)
            np.testing.assert_array_equal(split[k]["label"], label)
    assert len({*seen}) == len(seen) == made_cases.PAIRS


REFUSED = {
    "stray-pixel": (
        (0, 255, 255),
        {"change": stray},
        ["case00.png", "row 0, column 0", "value 1 (10 such"],
    ),
    "instances-16": ((0, 301, 302), {"dtype": np.uint16}, ["--config.data.binary=nonzero"]),
    "smooth": ((0, 255, 255), {"change": smooth}, ["--config.data.threshold=128"]),
    "jpeg-ids": ((0, 100, 200), {"writer": jpeg}, ["JPEG", "case00.jpg", "PNG"]),
    "classes-three": (
        (0, 255, 255),
        lined("bg\ncell\nvoid\n"),
        ["classes.txt", "3 classes", "(0, 255)"],
    ),
    "classes-latin": (
        (0, 255, 255),
        lined("bg\nz\u00e9ro\n", "latin-1"),
        ["classes.txt", "line 2"],
    ),
    "classes-bare-utf16": (
        (0, 255, 255),
        {"classes": "a\nb\n".encode("utf-16")[len(codecs.BOM_UTF16) :]},
        ["UTF-8"],
    ),
    "no-partner": (
        (0, 255, 255),
        {"mask": "masks/x{}"},
        ["'case00'", "xcase00.png", "mask_pattern"],
    ),
    "one-part": ((0, 255, 255), {"parts": ("train",)}, ["train/", "val/ and test/"]),
    "no-training": ((0, 255, 255), {"parts": ("val", "test")}, ["val/, test/", "train/"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_others_get_one_line(tmp_path, name):
    table, keywords, parts = REFUSED[name]
    write(tmp_path, table, keywords)
    refused(open_dataset, config(tmp_path), tmp_path, *parts)


def test_given_splits_are_used_as_they_are(tmp_path):
    write_case(tmp_path, (0, 255, 255), parts=("train", "val", "train", "test", "train"))
    dataset = open_dataset(config(tmp_path, split=(1, 2, 3)))
    assert {part: len(split) for part, split in dataset.splits.items()} == {
        "train": 6, "validation": 2, "test": 2,
    }  # fmt: skip
    assert dataset.splits["validation"].names == ("case01", "case06")
    assert dataset.final_split == "test"
    refused(open_dataset, config(tmp_path, fold=1), "data.fold=1", "given splits")
    refused(open_dataset, config(tmp_path, group="(case)"), "group 'case'", "train", "validation")
    open_dataset(config(tmp_path, group=r"(\d+)"))


def test_images_beside_given_splits_are_used_with_a_note(tmp_path):
    write_case(tmp_path, (0, 255, 255))
    write_case(tmp_path, (0, 255, 255), parts=("train", "val"))
    dataset = open_dataset(config(tmp_path))
    assert sum(map(len, dataset.splits.values())) == made_cases.PAIRS
    for part in ("train", "val"):
        assert f"{tmp_path / part} is not used" in "\n".join(dataset.notes)


def test_the_same_name_in_two_given_splits_is_two_images(tmp_path):
    write_case(tmp_path, (0, 255, 255), parts=("train", "val"))
    for part in ("images", "masks"):
        (tmp_path / f"train/{part}/case00.png").rename(tmp_path / f"train/{part}/case01.png")
    dataset = open_dataset(config(tmp_path))
    for split, i in (("train", 0), ("validation", 1)):
        assert dataset.splits[split].names[0] == ("case01", "case01")[i]
        np.testing.assert_array_equal(dataset.splits[split][0]["image"][..., 0], scene(i)[0])
    assert len(dataset.splits["test"]) == 0
    assert dataset.final_split == "validation"


@pytest.mark.parametrize("seed", range(4))
def test_a_group_is_on_one_side_of_a_split(tmp_path, seed):
    write_case(tmp_path, (0, 255, 255))
    for part in ("images", "masks"):
        for i, path in enumerate(sorted((tmp_path / part).iterdir())):
            path.rename(path.with_name(f"P{i * 7 % 10 // 2}_{path.name}"))
    options = {"group": r"^(P\d+)_", "split": (0.6, 0.2, 0.2), "split_seed": seed}
    dataset = open_dataset(config(tmp_path, **options))
    groups = [{name[:2] for name in split.names} for split in dataset.splits.values()]
    assert [len(split) for split in dataset.splits.values()] == [6, 2, 2]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 5
    refused(open_dataset, config(tmp_path, group=r"^(Q\d+)_"), "data.group", "'P0_case00'")
    refused(open_dataset, config(tmp_path, group="^P"), "data.group", "no group")


def test_a_palette_of_colours_may_be_named(tmp_path):
    palette = np.zeros((256, 3), np.uint8)
    palette[1:3] = (255, 0, 0), (0, 255, 0)
    write_case(tmp_path, (0, 1, 2), writer=png(palette=palette))
    entries = ("#000000:none", "#00ff00:within", "#ff0000:ring")
    dataset = open_dataset(config(tmp_path, mask_values=entries, split=()))
    assert dataset.classes == ("none", "within", "ring")
    expected = np.array([0, 2, 1])[scene(0)[1]]
    np.testing.assert_array_equal(dataset.splits["train"][0]["label"], expected)


def test_a_fraction_is_not_an_ignored_value(tmp_path):
    write_case(tmp_path, (0, 1, 1))
    refused(open_dataset, config(tmp_path, ignore=(0.5,)), "data.ignore", "0.5")
    both = ("0:a", "1:b")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    refused(open_dataset, config(tmp_path, mask_values=both), "data.mask_values", "classes.txt")
