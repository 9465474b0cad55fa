"""DRIVE: the real photographs, and made ones in its layout."""

import pickle
import shutil

import numpy as np
import pytest
from made_files import noise, refused, save
from ml_collections import ConfigDict

from unet_jax.data import DATASETS
from unet_jax.data.sources.drive import open_drive

SIZE = (9, 7)


def config(root, split=(3, 1)) -> ConfigDict:
    return ConfigDict({"root": str(root), "split": split, "split_seed": 0, "fold": 0})


@pytest.fixture
def eyes(tmp_path):
    """Four photographs for training, two for test."""
    for kind, numbers in (("training", range(21, 25)), ("test", range(1, 3))):
        for n in numbers:
            stem = f"{n:02d}_{kind}"
            folder = tmp_path / kind
            save(folder / f"images/{stem}.tif", noise((*SIZE, 3), seed=n), compression="tiff_lzw")
            save(folder / f"1st_manual/{n:02d}_manual1.gif", noise(SIZE, seed=n, below=2) * 255)
            save(folder / f"mask/{stem}_mask.gif", noise(SIZE, seed=100 + n, below=2) * 255)
            if kind == "test":
                palette = [4, 2, 4, 252, 254, 252]
                second = noise(SIZE, seed=200 + n, below=2)
                save(folder / f"2nd_manual/{n:02d}_manual2.gif", second, palette)
    return tmp_path


def test_it_is_registered():
    assert DATASETS["drive"].open is open_drive


def test_examples_are_the_files(eyes):
    dataset = open_drive(config(eyes))
    assert dataset.classes == ("background", "vessel")
    assert dataset.channels == 3
    splits = pickle.loads(pickle.dumps(dataset.splits))
    assert splits["test"].names == ("01_test", "02_test")
    training = splits["train"].names + splits["validation"].names
    assert sorted(training) == [f"{n}_training" for n in range(21, 25)]
    assert len(splits["validation"]) == 1
    for split in splits.values():
        for i, name in enumerate(split.names):
            n = int(name[:2])
            np.testing.assert_array_equal(split[i]["image"], noise((*SIZE, 3), seed=n))
            vessel, inside = noise(SIZE, seed=n, below=2), noise(SIZE, seed=100 + n, below=2)
            np.testing.assert_array_equal(split[i]["label"], np.where(inside, vessel, 255))
            assert split[i]["label"].dtype == np.uint8
            assert split.sizes[i] == SIZE


def test_the_second_observer_is_the_test_split_s(eyes):
    splits = open_drive(config(eyes)).splits
    assert splits["train"].observer is None
    np.testing.assert_array_equal(splits["test"].observer(1), noise(SIZE, seed=202, below=2))
    shutil.rmtree(eyes / "test/2nd_manual")
    assert open_drive(config(eyes)).splits["test"].observer is None


def test_hashes_are_of_every_file(eyes):
    before = open_drive(config(eyes)).sha256
    assert before.keys() == {"train", "validation", "test"}
    for file in ("1st_manual/01_manual1", "mask/01_test_mask", "2nd_manual/01_manual2"):
        save(eyes / f"test/{file}.gif", noise(SIZE, seed=300, below=2) * 255)
        after = open_drive(config(eyes)).sha256
        assert after["train"] == before["train"]
        assert after["test"] != before["test"]
        before = after
    assert open_drive(config(eyes, (4, 0))).sha256.keys() == {"train", "test"}


def test_missing_data_say_how_to_get_them(tmp_path):
    refused(
        open_drive, config(tmp_path), tmp_path / "training/images",
        "https://drive.grand-challenge.org", "registration", "--config.data.root",
    )  # fmt: skip


@pytest.mark.parametrize(
    "file",
    [
        "training/1st_manual/22_manual1.gif",
        "training/mask/22_training_mask.gif",
        "test/mask/02_test_mask.gif",
        "test/2nd_manual/02_manual2.gif",
    ],
)
def test_every_mask_is_needed_has_its_image_s_size_and_two_values(eyes, file):
    path = eyes / file
    save(path, noise((7, 9), below=2) * 255)
    refused(open_drive, config(eyes), path, "7x9", "9x7")
    save(path, noise(SIZE))
    refused(open_drive, config(eyes), path, "values", "255")
    path.unlink()
    refused(open_drive, config(eyes), "has no mask", path.parent)
    save(path.with_name("x.gif"), noise(SIZE))
    refused(open_drive, config(eyes), "x.gif", "unexpected file", "NN_")


def test_each_photograph_validates_in_one_of_the_folds(eyes):
    data, chosen = config(eyes), ()
    for data.fold in range(4):
        chosen += open_drive(data).splits["validation"].names
    assert sorted(chosen) == [f"{n}_training" for n in range(21, 25)]


def test_the_split_is_of_the_training_photographs(eyes):
    refused(open_drive, config(eyes, (4, 2)), "training has 4 images", "train, validation that")
    names = open_drive(config(eyes, ())).splits["train"].names
    assert len(names) == 4


def test_the_development_part(real_data):
    dataset = open_drive(config(real_data / "drive", (20, 0)))
    splits = dataset.splits
    assert splits["train"].names == tuple(f"{n}_training" for n in range(21, 41))
    assert splits["test"].names == tuple(f"{n:02d}_test" for n in range(1, 11))
    assert len(splits["validation"]) == 0
    assert {size for split in splits.values() for size in split.sizes} == {(584, 565)}
    labels = np.stack([splits["train"][i]["label"] for i in range(20)])
    assert set(np.unique(labels)) == {0, 1, 255}
    assert round(100 * (labels == 1).mean(), 1) == 8.6
    assert 0.68 < (labels != 255).mean() < 0.70
    image = splits["train"][0]["image"]
    assert image[labels[0] == 255].mean() < 10 < 60 < image[labels[0] != 255].mean()
    # Two humans agree on most of what either calls a vessel.
    second, first = splits["test"].observer(0), splits["test"][0]["label"]
    assert set(np.unique(second)) == {0, 1}
    both = (second == 1) & (first == 1)
    assert 0.7 < 2 * both.sum() / ((second == 1).sum() + (first == 1).sum()) < 0.9
