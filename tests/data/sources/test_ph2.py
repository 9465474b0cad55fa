"""PH2: the real lesions, and made ones in its layout."""

import numpy as np
import pytest
from made_files import noise, refused, save
from ml_collections import ConfigDict

from unet_jax.data import DATASETS
from unet_jax.data.sources.ph2 import open_ph2


def config(root, split=(3, 1, 1)) -> ConfigDict:
    return ConfigDict({"root": str(root), "split": split, "split_seed": 0, "fold": 0})


def cases(root):
    return root / "PH2Dataset" / "PH2 Dataset images"


@pytest.fixture
def lesions(tmp_path):
    """Five cases of different sizes, the masks 1-bit."""
    for i in range(5):
        name, size = f"IMD00{i}", (8 + i, 6)
        case = cases(tmp_path) / name
        save(case / f"{name}_Dermoscopic_Image/{name}.bmp", noise((*size, 3), seed=i))
        mask = noise(size, seed=i, below=2).astype(bool)
        save(case / f"{name}_lesion/{name}_lesion.bmp", mask)
        save(case / f"{name}_roi/{name}_R1_Label3.bmp", mask)  # some cases have these
    return tmp_path


def test_it_is_registered():
    assert DATASETS["ph2"].open is open_ph2


def test_examples_are_the_cases(lesions):
    (cases(lesions) / ".DS_Store").touch()
    dataset = open_ph2(config(lesions))
    assert dataset.classes == ("skin", "lesion")
    assert [len(split) for split in dataset.splits.values()] == [3, 1, 1]
    seen = []
    for split in dataset.splits.values():
        for i, name in enumerate(split.names):
            seed = int(name.removeprefix("IMD"))
            seen.append(seed)
            assert split.sizes[i] == (8 + seed, 6)
            np.testing.assert_array_equal(split[i]["image"], noise((8 + seed, 6, 3), seed=seed))
            np.testing.assert_array_equal(
                split[i]["label"], noise((8 + seed, 6), seed=seed, below=2)
            )
    assert sorted(seen) == [*range(5)]


def test_each_case_is_tested_in_one_of_the_folds(lesions):
    data, tested = config(lesions, (4, 0, 1)), ()
    for data.fold in range(5):
        tested += open_ph2(data).splits["test"].names
    assert sorted(tested) == [f"IMD00{i}" for i in range(5)]


def test_missing_data_say_how_to_get_them(tmp_path):
    refused(
        open_ph2, config(tmp_path), cases(tmp_path), "fc.up.pt/addi", "RAR", "by hand",
        "--config.data.root",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("gone", "what"),
    [
        ("IMD002_lesion/IMD002_lesion.bmp", "the mask of IMD002.bmp"),
        ("IMD002_Dermoscopic_Image/IMD002.bmp", "the image of IMD002_lesion.bmp"),
    ],
)
def test_a_case_has_image_and_mask(lesions, gone, what):
    path = cases(lesions) / "IMD002" / gone
    path.unlink()
    refused(open_ph2, config(lesions), path, "no such file", what)


def test_other_values_are_refused(lesions):
    path = save(cases(lesions) / "IMD002/IMD002_lesion/IMD002_lesion.bmp", noise((10, 6)))
    refused(open_ph2, config(lesions), path, "values", "1 = lesion")


def test_other_things_among_the_cases_are_refused(lesions):
    (cases(lesions) / "PH2.xlsx").touch()
    refused(open_ph2, config(lesions), "PH2.xlsx", "unexpected file", "IMDnnn")


@pytest.mark.slow
def test_the_development_part(real_data):
    dataset = open_ph2(config(real_data / "ph2", (60, 30, 30)))
    splits = dataset.splits
    assert [len(split) for split in splits.values()] == [60, 30, 30]
    assert len({name for split in splits.values() for name in split.names}) == 120
    assert len({size for split in splits.values() for size in split.sizes}) == 18
    example = splits["test"][0]
    assert example["label"].shape == splits["test"].sizes[0]
    assert example["image"].shape == (*splits["test"].sizes[0], 3)
    shares = [splits["test"][i]["label"].mean() for i in range(30)]
    assert all(0.02 < share < 0.99 for share in shares)
    # Lesions are darker than the skin around them.
    darker = [
        e["image"][e["label"] == 1].mean() < e["image"][e["label"] == 0].mean()
        for e in (splits["test"][i] for i in range(30))
    ]
    assert sum(darker) >= 27
