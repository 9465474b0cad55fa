"""The data set of docs/extending.md, executed: registered, checked, trained on."""

import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from unet_jax.core.config import digest
from unet_jax.core.errors import UserError
from unet_jax.data import open_dataset
from unet_jax.data.sources.registry import DATASETS
from unet_jax.distributed import devices
from unet_jax.runs.experiment import check, read_configs, resolve
from unet_jax.training.loop import train


@pytest.fixture
def shapes(documented, tmp_path):
    """The config of the page's data set, whose files are found as if they were in the package."""
    documented("unet_jax/data/sources/shapes.py")
    config = documented("configs/shapes.py").get_config()
    config.data.root = str(tmp_path / "shapes")
    rng = np.random.default_rng(0)
    for i in range(10):
        soft = np.kron(rng.choice([0, 100, 150, 255], (4, 4)), np.ones((8, 8))).astype(np.uint8)
        for kind, pixels in (
            ("images", soft // 2 + rng.integers(0, 99, soft.shape)),
            ("masks", soft),
        ):
            path = tmp_path / "shapes" / kind / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
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
    Image.fromarray(red).save(path)
    with pytest.raises(UserError, match=r"3\.png: has RGB colours; expected a grey mask"):
        open_dataset(shapes.data)


def test_a_network_trains_on_it(shapes, tmp_path):
    shapes.data.size, shapes.batch_size, shapes.num_epochs = 16, 3, 1
    shapes.model.width, shapes.model.depth = 2, 1
    shapes.eval.batch_size = shapes.log.every_steps = 1
    check(shapes)
    dataset = open_dataset(shapes.data)
    config = resolve(shapes, dataset.classes)
    report = train(config, dataset, tmp_path / "run", devices.local_mesh(jax.devices()[:1]))
    assert report["step"] == 2
    assert set(report["per_image"]) == set(dataset.splits["test"].names)
    (saved,) = read_configs([tmp_path / "run"]).values()
    assert saved.data.mask_threshold == 128
