import os
import pathlib

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from unet_jax.core.errors import UserError
from unet_jax.data.sources import phantom


@pytest.fixture(scope="module", params=[0, 1])
def stack(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    return phantom.generate(slices=4, size=256, seed=request.param)


def membrane_dice(predicted: np.ndarray, membrane: np.ndarray) -> float:
    return 2 * np.sum(predicted & membrane) / (predicted.sum() + membrane.sum())


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def test_shapes_dtypes_and_values(stack: tuple[np.ndarray, np.ndarray]) -> None:
    volume, labels = stack
    assert volume.shape == labels.shape == (4, 256, 256)
    assert volume.dtype == labels.dtype == np.uint8
    assert set(np.unique(labels)) == {0, 255}


def test_membranes_cover_their_share_of_every_slice(stack: tuple[np.ndarray, np.ndarray]) -> None:
    _, labels = stack
    share = (labels == 0).mean(axis=(1, 2))
    assert share.min() >= 0.18
    assert share.max() <= 0.25


def test_membranes_are_darker_than_cells(stack: tuple[np.ndarray, np.ndarray]) -> None:
    volume, labels = stack
    for image, label in zip(volume, labels, strict=True):
        assert image[label == 0].mean() < image[label == 255].mean() - 30


def test_a_threshold_does_not_find_the_membranes(stack: tuple[np.ndarray, np.ndarray]) -> None:
    volume, labels = stack
    for sigma in (0.5, 1, 2):
        blurred = ndimage.gaussian_filter(volume.astype(float), (0, sigma, sigma))
        best = max(membrane_dice(blurred < level, labels == 0) for level in range(40, 200, 8))
        assert best < 0.75


def test_cells_hold_dark_organelles(stack: tuple[np.ndarray, np.ndarray]) -> None:
    volume, labels = stack
    blurred = ndimage.gaussian_filter(volume.astype(float), (0, 1, 1))
    for image, label in zip(blurred, labels, strict=True):
        well_inside = ndimage.distance_transform_edt(label) > 6
        typical_membrane = np.median(image[label == 0])
        assert np.mean(image[well_inside] < typical_membrane) > 0.02


def test_the_seed_decides_every_byte() -> None:
    first, again, other = (phantom.generate(2, 96, seed) for seed in (5, 5, 6))
    for array, same, different in zip(first, again, other, strict=True):
        assert np.array_equal(array, same)
        assert not np.array_equal(array, different)


def test_neighbouring_slices_resemble_each_other() -> None:
    for stack in phantom.generate(slices=9, size=96, seed=0):
        near = [correlation(stack[s], stack[s + 1]) for s in range(8)]
        assert min(near) > 0.2
        assert correlation(stack[0], stack[8]) < min(near) - 0.1


@pytest.mark.parametrize(("slices", "size"), [(0, 256), (1, 63)])
def test_too_small_a_stack_is_refused(slices: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"slices={slices}, size={size}"):
        phantom.generate(slices, size)


def test_write_makes_the_files_once(tmp_path: pathlib.Path) -> None:
    root = tmp_path / "new" / "demo"
    phantom.write(root, slices=2, size=64, seed=3)
    volume, labels = phantom.generate(slices=2, size=64, seed=3)
    files = [root / "train-volume.tif", root / "train-labels.tif"]
    assert sorted(root.parent.rglob("*")) == sorted([root, *files])
    for path, array in zip(files, (volume, labels), strict=True):
        assert np.array_equal(tifffile.imread(path), array)
        with tifffile.TiffFile(path) as tiff:
            assert len(tiff.pages) == 2

    before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in files]
    phantom.write(root, slices=2, size=64, seed=4)
    assert before == [(path.stat().st_mtime_ns, path.read_bytes()) for path in files]


def test_write_fills_an_empty_folder(tmp_path: pathlib.Path) -> None:
    phantom.write(tmp_path / "demo", slices=1, size=64)
    (tmp_path / "empty").mkdir()
    phantom.write(tmp_path / "empty", slices=1, size=64)
    for name in ("train-volume.tif", "train-labels.tif"):
        assert (tmp_path / "empty" / name).read_bytes() == (tmp_path / "demo" / name).read_bytes()


def test_write_refuses_an_incomplete_folder(tmp_path: pathlib.Path) -> None:
    root = tmp_path / "demo"
    root.mkdir()
    (root / "train-volume.tif").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"contains files, but no train-labels\.tif") as caught:
        phantom.write(root, slices=1, size=64)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.rglob("*.tif")) == [root / "train-volume.tif"]
    assert (root / "train-volume.tif").read_bytes() == b"mine"


def test_write_refuses_a_file_in_the_folders_place(tmp_path: pathlib.Path) -> None:
    (tmp_path / "demo").write_text("mine")
    with pytest.raises(UserError, match="demo"):
        phantom.write(tmp_path / "demo", slices=1, size=64)


def test_a_failed_write_leaves_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_imwrite = tifffile.imwrite

    def fail_at_labels(path: pathlib.Path, stack: np.ndarray, photometric: str) -> None:
        if "labels" in path.name:
            raise OSError("disk full")
        real_imwrite(path, stack, photometric=photometric)

    monkeypatch.setattr(tifffile, "imwrite", fail_at_labels)
    with pytest.raises(OSError, match="disk full"):
        phantom.write(tmp_path / "demo", slices=1, size=64)
    assert list(tmp_path.iterdir()) == []


def test_the_loser_of_a_race_keeps_the_winners_set(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "demo"
    real_rename = os.rename

    def lose(source: pathlib.Path, target: pathlib.Path) -> None:
        monkeypatch.setattr(os, "rename", real_rename)
        phantom.write(root, slices=1, size=64, seed=1)  # the other process, just in time
        real_rename(source, target)

    monkeypatch.setattr(os, "rename", lose)
    phantom.write(root, slices=1, size=64, seed=0)
    winner, _ = phantom.generate(slices=1, size=64, seed=1)
    assert np.array_equal(tifffile.imread(root / "train-volume.tif"), winner)
    assert list(tmp_path.iterdir()) == [root]
