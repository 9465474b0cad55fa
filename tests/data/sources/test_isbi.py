import functools
import hashlib

import numpy as np
import pytest
import tifffile

from configs import demo, isbi
from unet_jax.core.errors import UserError
from unet_jax.data.sources import phantom
from unet_jax.data.sources.isbi import LABELS, VOLUME, open_isbi

VOLUME_SHA256 = "200da3d452d726e6c9ca1ce04b869d4edb727320d23b516d01cce707dc8c4760"
LABELS_SHA256 = "a7cb64000a1a7e542682927e19c91339f58f9f178e0bcce4e207371116f0ca36"


@pytest.fixture
def data(tmp_path):
    """Six slices of 16x16 pixels under ISBI's names."""
    rng = np.random.default_rng(0)
    tifffile.imwrite(tmp_path / VOLUME, rng.integers(0, 256, (6, 16, 16), dtype=np.uint8))
    labels = np.where(rng.random((6, 16, 16)) < 0.8, 255, 0).astype(np.uint8)
    tifffile.imwrite(tmp_path / LABELS, labels)
    data = isbi.get_config().data
    data.root = str(tmp_path)
    data.split = (4, 1, 1)
    return data


def write(data, name, array):
    tifffile.imwrite(f"{data.root}/{name}", array, photometric="minisblack")


def test_examples_are_the_slices(data, tmp_path):
    dataset = open_isbi(data)
    volume, labels = tifffile.imread(tmp_path / VOLUME), tifffile.imread(tmp_path / LABELS)
    assert dataset.classes == ("membrane", "cell")
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 4,
        "validation": 1,
        "test": 1,
    }
    for split in dataset.splits.values():
        for i, name in enumerate(split.names):
            row = int(name.removeprefix("slice-"))
            example = split[i]
            np.testing.assert_array_equal(example["image"][..., 0], volume[row])
            np.testing.assert_array_equal(example["label"], labels[row] == 255)
            assert example["label"].dtype == np.uint8
            assert example["index"] == i


@pytest.mark.parametrize("scale", [1, 255])
def test_cells_may_be_1_or_255(data, scale):
    labels = np.zeros((6, 16, 16), np.uint8)
    labels[:, 4:] = scale
    write(data, LABELS, labels)
    assert open_isbi(data).splits["train"][0]["label"].mean() == 0.75


def test_missing_stacks_are_named_with_folder_source_and_demo(data, tmp_path):
    (tmp_path / LABELS).unlink()
    with pytest.raises(UserError) as error:
        open_isbi(data)
    for part in (LABELS, str(tmp_path), "https://", "configs/demo.py", "--config.data.root"):
        assert part in str(error.value)
    assert VOLUME not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "break_file",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no TIFF at all"),
        lambda path: path.write_bytes(path.read_bytes()[:4]),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_bytes(path.read_bytes()[:-400]),
    ],
    ids=["empty", "text", "header", "truncated", "truncated-late"],
)
@pytest.mark.parametrize("name", [VOLUME, LABELS])
def test_a_broken_file_is_named(data, tmp_path, name, break_file):
    break_file(tmp_path / name)
    with pytest.raises(UserError, match=name) as error:
        open_isbi(data)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((5, 16, 16), np.uint8), "5 slices of 16x16, but .* has 6 slices of 16x16"),
        (np.zeros((6, 16, 8), np.uint8), "6 slices of 16x8, but .* has 6 slices of 16x16"),
        (np.zeros((6, 16, 16), np.uint8), r"label values 0; expected two"),
        (np.full((6, 16, 16), 255, np.uint8), r"label values 255; expected two"),
        (np.arange(1536, dtype=np.uint16).reshape(6, 16, 16) % 3, r"label values 0, 1, 2"),
        (np.arange(1536, dtype=np.uint16).reshape(6, 16, 16) % 99, r"\.\.\. \(99 values\)"),
        (np.zeros((6, 16, 16), np.float32), "type float32"),
        (np.zeros((16, 16), np.uint8), r"shape \(16, 16\)"),
        (np.zeros((6, 16, 16, 3), np.uint8), r"shape \(6, 16, 16, 3\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(data, labels, message):
    write(data, LABELS, labels)
    with pytest.raises(UserError, match=message):
        open_isbi(data)


def test_a_split_that_leaves_a_part_empty_is_refused(data):
    data.split = (5, 1, 0)
    with pytest.raises(UserError, match="no test images"):
        open_isbi(data)


def test_each_slice_is_tested_in_one_of_the_folds(data):
    data.split, tested = (5, 0, 1), ()
    for data.fold in range(6):
        tested += open_isbi(data).splits["test"].names
    assert sorted(tested) == [f"slice-{i:02d}" for i in range(6)]


def test_phantom_is_written_once_and_read_by_the_same_code(tmp_path, monkeypatch):
    monkeypatch.setattr(phantom, "write", functools.partial(phantom.write, size=64))
    data = demo.get_config().data
    data.root = str(tmp_path / "phantom")
    first = phantom.open_phantom(data)
    assert sum(len(split) for split in first.splits.values()) == 30
    before = (tmp_path / "phantom" / VOLUME).stat().st_mtime_ns
    assert phantom.open_phantom(data).sha256 == first.sha256
    assert (tmp_path / "phantom" / VOLUME).stat().st_mtime_ns == before


def test_the_real_stacks(real_data):
    data = isbi.get_config().data
    data.root = str(real_data / "isbi")
    dataset = open_isbi(data)
    assert dict(dataset.sha256) == {VOLUME: VOLUME_SHA256, LABELS: LABELS_SHA256}
    splits = dataset.splits
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [24, 3, 3]
    names = [name for split in splits.values() for name in split.names]
    assert sorted(names) == [f"slice-{i:02d}" for i in range(30)]
    cell = np.mean([split[i]["label"] for split in splits.values() for i in range(len(split))])
    assert round(100 * cell, 2) == 78.04
    assert splits["test"][0]["image"].shape == (512, 512, 1)
    pixels = np.empty((30, 512, 512), np.uint8)
    for split in splits.values():
        for i, name in enumerate(split.names):
            pixels[int(name[-2:])] = split[i]["image"][..., 0]
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == VOLUME_SHA256


def test_missing_stacks_are_fetched_where_that_is_wanted(data, tmp_path, monkeypatch):
    (tmp_path / LABELS).rename(tmp_path / "away.tif")
    fetched = []

    def fetch(name, root):
        fetched.append((name, root))
        (tmp_path / "away.tif").rename(tmp_path / LABELS)

    monkeypatch.setattr("unet_jax.data.download.archives.fetch", fetch)
    with pytest.raises(UserError, match=r"--config.data.download=True"):
        open_isbi(data)
    data.download = True
    assert len(open_isbi(data).splits["train"]) == 4
    open_isbi(data)  # all there: nothing to fetch
    assert fetched == [("isbi", tmp_path)]


def test_the_challenge_s_test_stack_is_a_split_where_its_labels_are(data):
    rng = np.random.default_rng(1)
    write(data, "test-volume.tif", rng.integers(0, 256, (3, 16, 16), dtype=np.uint8))
    assert "challenge" not in open_isbi(data).splits
    labels = np.where(rng.random((3, 16, 16)) < 0.8, 255, 0).astype(np.uint8)
    write(data, "test-labels.tif", labels)
    split = open_isbi(data).splits["challenge"]
    assert split.names == ("slice-00", "slice-01", "slice-02")
    np.testing.assert_array_equal(split[2]["label"], labels[2] == 255)
