"""Carvana: the real sample, and made cars in its layout."""

import numpy as np
import pytest
from made_files import noise, refused, save
from ml_collections import ConfigDict

from unet_jax.data import DATASETS
from unet_jax.data.sources.carvana import open_carvana


def config(root, split=()) -> ConfigDict:
    return ConfigDict({"root": str(root), "split": split, "split_seed": 0, "fold": 0})


@pytest.fixture
def cars(tmp_path):
    """Five cars of three pictures each, of 8x12 pixels."""
    for car in range(5):
        for view in range(1, 4):
            name, seed = f"c{car}_{view:02d}", 10 * car + view
            save(tmp_path / f"train/{name}.jpg", noise((8, 12, 3), seed=seed))
            mask = noise((8, 12), seed=seed, below=2)
            save(tmp_path / f"train_masks/{name}_mask.gif", mask, [0, 0, 0, 255, 255, 255])
    return tmp_path


def test_it_is_registered():
    assert DATASETS["carvana"].open is open_carvana


def test_cars_are_dealt_whole(cars):
    dataset = open_carvana(config(cars, (3, 1, 1)))
    of_part = {
        part: {name.split("_")[0] for name in split.names} for part, split in dataset.splits.items()
    }
    assert [len(of_part[part]) for part in ("train", "validation", "test")] == [3, 1, 1]
    assert [len(split) for split in dataset.splits.values()] == [9, 3, 3]
    assert len(set().union(*of_part.values())) == 5
    assert open_carvana(config(cars, (0.6, 0.2, 0.2))).splits["test"].names == (
        dataset.splits["test"].names
    )


def test_each_car_is_tested_in_one_of_the_folds(cars):
    data, tested = config(cars, (4, 0, 1)), ()
    for data.fold in range(5):
        tested += open_carvana(data).splits["test"].names
    assert sorted(tested) == [f"c{car}_{view:02d}" for car in range(5) for view in range(1, 4)]


def test_labels_are_the_masks(cars):
    dataset = open_carvana(config(cars))
    assert dataset.classes == ("background", "car")
    split = dataset.splits["train"]
    assert split.names[4] == "c1_02"
    np.testing.assert_array_equal(split[4]["label"], noise((8, 12), seed=12, below=2))


def test_masks_may_be_0_and_255(cars):
    for path in (cars / "train_masks").iterdir():
        save(path, noise((8, 12), below=2) * 255)
    label = open_carvana(config(cars)).splits["train"][0]["label"]
    np.testing.assert_array_equal(label, noise((8, 12), below=2))


def test_one_car_cannot_be_dealt(cars):
    for path in [*cars.glob("*/c[1-4]*")]:
        path.unlink()
    refused(open_carvana, config(cars, (1, 0, 1)), "1 car;", "()")
    dataset = open_carvana(config(cars))
    assert dataset.splits["train"].names == dataset.splits["test"].names
    assert len(dataset.splits["test"]) == 3
    assert "held out" in dataset.notes[0]


def test_missing_data_say_how_to_get_them(tmp_path):
    refused(
        open_carvana, config(tmp_path / "x"), tmp_path / "x" / "train", "kaggle", "login",
        "carvana-image-masking-challenge", "--config.data.root",
    )  # fmt: skip


def test_a_mask_that_is_missing_or_misnamed_is_named(cars):
    mask = cars / "train_masks/c2_01_mask.gif"
    mask.rename(cars / "train_masks/c2_01.gif")
    refused(open_carvana, config(cars), "c2_01.gif", "CAR_NN_mask.gif")
    (cars / "train_masks/c2_01.gif").unlink()
    refused(open_carvana, config(cars), "c2_01.jpg", "has no mask")


def test_other_values_are_refused(cars):
    path = save(cars / "train_masks/c2_01_mask.gif", noise((8, 12)))
    refused(open_carvana, config(cars), path, "values", "1 = car")


def test_the_sample(real_data):
    dataset = open_carvana(config(real_data / "carvana"))
    split = dataset.splits["train"]
    assert split.names == tuple(f"0cdf5b5d0ce1_{i:02d}" for i in range(1, 6))
    assert split.sizes == ((1280, 1918),) * 5
    example = split[0]
    assert example["image"].shape == (1280, 1918, 3)
    assert set(np.unique(example["label"])) == {0, 1}
    middle = example["label"][500:800, 700:1200].mean()
    assert middle > 0.9 > 0.1 > example["label"][:100].mean()
    refused(open_carvana, config(real_data / "carvana", (0.8, 0.1, 0.1)), "has 1 car;")
