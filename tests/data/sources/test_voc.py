"""PASCAL VOC 2012: the real part, and made images in its layout."""

import time

import numpy as np
import pytest
from made_files import noise, refused, save
from ml_collections import ConfigDict

from unet_jax.data import DATASETS
from unet_jax.data.sources.voc import CLASSES, open_voc

TRAIN, VAL = [f"2007_00{i}" for i in range(4)], [f"2008_00{i}" for i in range(2)]


def config(root, split=(3, 1), train_list="train") -> ConfigDict:
    return ConfigDict(
        {
            "root": str(root),
            "split": split,
            "split_seed": 0,
            "fold": 0,
            "train_list": train_list,
            "download": False,
        }
    )


def home(root):
    return root / "VOCdevkit" / "VOC2012"


def write_list(root, name, ids):
    path = home(root) / "ImageSets/Segmentation" / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{i}\n" for i in ids))
    return path


def labels(seed) -> np.ndarray:
    return np.r_[np.arange(21), 255].astype(np.uint8)[noise((6, 9), seed=seed, below=22)]


@pytest.fixture
def voc(tmp_path):
    """Four images to train on, two to test, and others without masks."""
    palette = noise((256, 3))
    for seed, name in enumerate([*TRAIN, *VAL]):
        save(home(tmp_path) / f"JPEGImages/{name}.jpg", noise((6, 9, 3), seed=seed))
        save(home(tmp_path) / f"SegmentationClass/{name}.png", labels(seed), palette)
    save(home(tmp_path) / "JPEGImages/2009_1.jpg", noise((6, 9, 3)))
    write_list(tmp_path, "train", TRAIN[::-1])
    write_list(tmp_path, "val", VAL[::-1])
    return tmp_path


def test_it_is_registered():
    assert DATASETS["voc"].open is open_voc
    assert len(CLASSES) == 21
    assert (CLASSES[0], CLASSES[1], CLASSES[15], CLASSES[20]) == (
        "background", "aeroplane", "person", "tvmonitor",
    )  # fmt: skip


def test_lists_say_what_is_trained_on_and_tested(voc):
    dataset = open_voc(config(voc))
    splits = dataset.splits
    assert dataset.classes == tuple(CLASSES)
    assert sorted(splits["train"].names + splits["validation"].names) == TRAIN
    assert len(splits["validation"]) == 1
    assert splits["test"].names == tuple(VAL)
    np.testing.assert_array_equal(splits["test"][1]["label"], labels(5))
    assert splits["test"][1]["label"].dtype == np.uint8
    assert splits["test"][1]["image"].shape == (6, 9, 3)


def test_trainaug_has_masks_of_its_own(voc):
    refused(open_voc, config(voc, train_list="trainaug"), "trainaug.txt", "unet_jax.prepare voc")
    write_list(voc, "trainaug", [*TRAIN, "2009_1"])
    refused(
        open_voc, config(voc, train_list="trainaug"), "SegmentationClassAug", "unet_jax.prepare voc"
    )
    for name in [*TRAIN, "2009_1"]:
        save(home(voc) / f"SegmentationClassAug/{name}.png", labels(77))
    dataset = open_voc(config(voc, (5, 0), train_list="trainaug"))
    assert dataset.splits["train"].names == (*TRAIN, "2009_1")
    np.testing.assert_array_equal(dataset.splits["train"][0]["label"], labels(77))
    np.testing.assert_array_equal(dataset.splits["test"][0]["label"], labels(4))


def test_each_image_of_the_list_validates_in_one_of_the_folds(voc):
    data, chosen = config(voc), ()
    for data.fold in range(4):
        chosen += open_voc(data).splits["validation"].names
    assert sorted(chosen) == TRAIN


def test_ids_of_the_test_are_not_trained_on(voc):
    write_list(voc, "train", [*TRAIN, VAL[1]])
    refused(open_voc, config(voc, (4, 1)), "train.txt", "1 ids", VAL[1], "val.txt")


@pytest.mark.parametrize("folder", ["JPEGImages", "SegmentationClass"])
def test_a_list_that_names_a_missing_id_is_named(voc, folder):
    ending = "jpg" if folder == "JPEGImages" else "png"
    (home(voc) / folder / f"{VAL[0]}.{ending}").unlink()
    refused(open_voc, config(voc), "val.txt", f"lists {VAL[0]}", f"{folder}/{VAL[0]}.{ending}")


def test_lists_have_ids_each_once(voc):
    write_list(voc, "train", [*TRAIN, TRAIN[2]])
    refused(open_voc, config(voc), "train.txt", "more than once", TRAIN[2])
    path = write_list(voc, "train", [])
    refused(open_voc, config(voc), path, "is empty")
    path.unlink()
    refused(open_voc, config(voc), path, "no such list", "VOCtrainval_11-May-2012.tar")


def test_missing_data_are_fetched_where_that_is_wished(voc, monkeypatch):
    asked = []

    def fetch(name, root):
        asked.append((name, root))
        home(voc).with_name("away").rename(home(voc))

    monkeypatch.setattr("unet_jax.data.download.archives.fetch", fetch)
    data = config(voc)
    data.download = True
    open_voc(data)
    assert asked == []
    home(voc).rename(home(voc).with_name("away"))
    assert len(open_voc(data).splits["test"]) == 2
    assert asked == [("voc", voc)]


def test_missing_data_say_how_to_get_them(tmp_path):
    refused(
        open_voc, config(tmp_path), home(tmp_path), "http://host.robots.ox.ac.uk",
        "--config.data.download=True",
        "--config.data.root",
    )  # fmt: skip


@pytest.mark.parametrize("value", [21, 254])
def test_a_class_beyond_the_twenty_is_refused(voc, value):
    path = home(voc) / f"SegmentationClass/{TRAIN[1]}.png"
    mask = labels(0)
    mask[2, 3] = value
    save(path, mask)
    refused(open_voc, config(voc), path, f"values {value};", "0 to 20", "255")


def test_masks_of_colours_are_refused(voc):
    path = save(home(voc) / f"SegmentationClass/{VAL[1]}.png", np.zeros((6, 9, 3), np.uint8))
    refused(open_voc, config(voc), path, "RGB", "0 to 20")


@pytest.mark.slow
def test_the_development_part(real_data):
    dataset = open_voc(config(real_data / "voc", (0.9, 0.1)))
    splits = dataset.splits
    assert [len(splits[part]) for part in ("train", "validation", "test")] == [283, 31, 160]
    sizes = [size for split in splits.values() for size in split.sizes]
    assert len(set(sizes)) == 101
    seen: set[int] = set()
    for i in range(160):
        values = set(np.unique(splits["test"].read.func(*splits["test"].read.args, i)[1]).tolist())
        assert 255 in values
        seen |= values
    assert seen == {*range(21), 255}
    example = splits["train"][0]
    assert example["image"].shape == (*splits["train"].sizes[0], 3)
    assert example["label"].shape == splits["train"].sizes[0]


@pytest.mark.parametrize(
    "strange", ["../../../secret", "/etc/passwd", "a.b", "a\0b", "x" * 81, "é", "a\\b"]
)
def test_an_id_that_might_lead_out_of_the_data_is_refused(voc, strange):
    path = write_list(voc, "train", [*TRAIN, strange])
    line = refused(open_voc, config(voc), path, "is not an id", "2007_000032")
    assert len(line) < 400


def test_a_list_that_is_no_text_is_refused(voc):
    path = write_list(voc, "val", VAL)
    path.write_bytes(path.read_bytes() + b"\xff\xfe\n")
    refused(open_voc, config(voc), path, "is not an id")


def test_a_long_list_of_one_id_twice_is_refused_at_once(voc):
    write_list(voc, "train", [*map(str, range(200_000)), "199999"])
    began = time.perf_counter()
    refused(open_voc, config(voc), "1 ids occur more than once, such as 199999")
    assert time.perf_counter() - began < 5
