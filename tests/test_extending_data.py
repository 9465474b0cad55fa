"""Tests of the data set of docs/extending.md: registered, opened and checked."""

import pathlib

import numpy as np
import pytest
from documented import write_shapes
from made_files import save

from unet_jax.core.config import digest
from unet_jax.core.errors import UserError
from unet_jax.data import open_dataset
from unet_jax.data.sources.registry import DATASETS
from unet_jax.runs.experiment import check


@pytest.fixture
def shapes(documented, tmp_path):
    """The config of the page's data set, whose files are found as if they were in the package."""
    documented("unet_jax/data/sources/shapes.py")
    config = documented("configs/shapes.py").get_config()
    config.data.root = str(write_shapes(tmp_path / "shapes"))
    return config


def test_the_data_set_is_found_and_opened(shapes):
    assert "shapes" in DATASETS
    check(shapes)
    dataset = open_dataset(shapes.data)
    assert [len(split) for split in dataset.splits.values()] == [6, 2, 2]
    label = dataset.splits["train"][0]["label"]
    assert label.dtype == np.uint8 and set(np.unique(label)) == {0, 1}


def test_its_option_changes_labels_and_digest_and_is_checked(shapes):
    before, share = digest(shapes), open_dataset(shapes.data).splits["test"][0]["label"].mean()
    shapes.data.mask_threshold = 90
    check(shapes)
    assert digest(shapes) != before
    assert open_dataset(shapes.data).splits["test"][0]["label"].mean() > share
    shapes.data.mask_threshold = 0
    with pytest.raises(UserError, match=r"^data\.mask_threshold=0: .*whole number in \[1, 255\]"):
        check(shapes)
    shapes.data.mask_threshold, shapes.data.name = 128, "folder"
    with pytest.raises(UserError, match=r"^data\.mask_threshold: .*data\.name=shapes, which"):
        check(shapes)


def test_a_coloured_mask_is_refused(shapes):
    path = pathlib.Path(shapes.data.root) / "masks" / "3.png"
    red = np.zeros((32, 32, 3), np.uint8)
    red[:16, :, 0] = 255
    save(path, red)
    with pytest.raises(UserError, match=r"3\.png: has RGB colours; expected a grey mask"):
        open_dataset(shapes.data)
