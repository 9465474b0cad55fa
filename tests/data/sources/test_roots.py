"""Whatever `data.root` names: one line, at once, from every data set; and nothing written there."""

import os

import numpy as np
import pytest
import tifffile
from made_files import save
from ml_collections import ConfigDict

from configs import base
from unet_jax import data
from unet_jax.core.errors import UserError
from unet_jax.data import DATASETS, open_dataset
from unet_jax.data.sources.phantom import FILE_NAMES
from unet_jax.data.sources.registry import Source


def options(name: str, root: object, download: bool = False) -> ConfigDict:
    section = base.get_config().data
    section.name, section.root, section.download = name, str(root), download
    return section


def refuse(section: ConfigDict) -> str:
    with pytest.raises(UserError) as error:
        open_dataset(section)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("kind", ["device", "fifo", "file", "below a file", "too long", "loop"])
def test_a_root_that_is_no_folder_is_refused(name, kind, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    root = {
        "device": "/dev/zero", "fifo": tmp_path / "fifo", "file": tmp_path / "file",
        "below a file": tmp_path / "file" / "set", "too long": tmp_path / ("x" * 300),
        "loop": tmp_path / "loop",
    }[kind]  # fmt: skip
    there = sorted(tmp_path.iterdir())
    said = refuse(options(name, root))
    assert str(root) in said
    if kind in ("device", "fifo", "file"):
        assert said.startswith(f"data.root={root}: is not a folder")
    assert sorted(tmp_path.iterdir()) == there


@pytest.mark.parametrize("kind", ["device", "below a file", "too long"])
def test_a_stack_is_not_made_where_no_folder_can_be(kind, tmp_path):
    (tmp_path / "file").write_text("x")
    root = {"device": "/dev/zero", "below a file": tmp_path / "file" / "set"}.get(
        kind, tmp_path / ("x" * 300)
    )
    assert refuse(options("phantom", root, download=True)).startswith(f"data.root={root}: ")


@pytest.mark.parametrize("name", DATASETS)
def test_a_root_that_may_not_be_read_is_refused(name, tmp_path, monkeypatch):
    def forbidden(*_):
        raise PermissionError(13, "Permission denied", str(tmp_path / "secret"))

    monkeypatch.setattr(data, "DATASETS", {name: Source(forbidden, {})})
    said = refuse(options(name, tmp_path))
    assert f"{tmp_path / 'secret'} cannot be used (Permission denied)" in said


def test_a_full_disk_is_not_taken_for_a_fault_of_the_root(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device", str(tmp_path))

    monkeypatch.setattr(data, "DATASETS", {"phantom": Source(full, {})})
    with pytest.raises(OSError, match="No space"):
        open_dataset(options("phantom", tmp_path))


def test_stacks_are_made_only_where_that_is_wished(tmp_path, monkeypatch):
    def write(root):
        root.mkdir()
        for name in FILE_NAMES:
            tifffile.imwrite(root / name, [[[0, 255]]] * 30, dtype="uint8")

    monkeypatch.setattr("unet_jax.data.sources.phantom.write", write)
    said = refuse(options("phantom", tmp_path / "stacks"))
    assert "--config.data.download=True" in said
    assert not any(tmp_path.iterdir())
    assert open_dataset(options("phantom", tmp_path / "stacks", download=True)).channels == 1


@pytest.mark.parametrize("place", ["images/a.png", "masks/a.png", "classes.txt"])
def test_a_pipe_among_the_files_is_not_opened(place, tmp_path):
    for folder in ("images", "masks"):
        save(tmp_path / folder / "a.png", np.uint8([[0, 255], [255, 0]]))
    (tmp_path / place).unlink(missing_ok=True)
    os.mkfifo(tmp_path / place)
    assert "is not a regular file" in refuse(options("folder", tmp_path))
