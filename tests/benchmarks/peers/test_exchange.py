"""Tests of the files that pass between the comparison and the peers, and of its small parts."""

import dataclasses
import sys

import numpy as np
import pytest
from made_data import make_split

from benchmarks.peers import images, results
from benchmarks.peers.exchange import Clock, History, read_cases, write_probability
from benchmarks.peers.peer import Environment
from benchmarks.peers.scoring import cross_entropy, read_probability
from benchmarks.peers.twin import Twin
from configs import folder as folder_config
from configs import ph2
from unet_jax import IGNORED, data
from unet_jax.core.errors import UserError
from unet_jax.data.dataset import Dataset
from unet_jax.reporting.launching import launch
from unet_jax.runs.log import read_history


def dataset_of(ignored: float = 0.1, channels: int = 1) -> Dataset:
    """Three splits of blobs, of a height that is not the width."""
    splits = {}
    for seed, (part, count) in enumerate({"train": 3, "validation": 1, "test": 2}.items()):
        split = make_split(count, 32, seed, ignored)

        def read(index, split=split):
            image, label = split.read(index)
            return image[:24].repeat(channels, 2), label[:24]

        names = tuple(f"{part}-{i}.a" for i in range(count))
        splits[part] = dataclasses.replace(split, names=names, sizes=((24, 32),) * count, read=read)
    return Dataset(splits, ("no", "yes"), channels, sha256={})


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("ignored", [0.0, 0.1])
def test_the_images_are_laid_out_as_a_folder_that_this_project_reads(tmp_path, channels, ignored):
    dataset = dataset_of(ignored, channels)
    images.lay_out(dataset, tmp_path / "images")
    config = folder_config.get_config()
    config.data.root = str(tmp_path / "images")
    found = data.open_dataset(config.data)
    assert found.classes == ("no", "yes")
    for part, split in dataset.splits.items():
        cases = [*read_cases(tmp_path / "images", part)]
        assert [case.name for case in cases] == [*split.names] == [*found.splits[part].names]
        for index, case in enumerate(cases):
            for image, label in (split.read(index), found.splits[part].read(index)):
                np.testing.assert_array_equal(case.image, image)
                np.testing.assert_array_equal(case.label, label)
    before = sorted(tmp_path.rglob("*"))
    images.lay_out(dataset, tmp_path / "images")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": ("a", "b", "c")}, "3 classes: the peers are compared on two"),
        ({"channels": 4}, "4 channels: the peers read grey and RGB images"),
        ({"splits": dataset_of().splits | {"test": make_split(0, 32, 0)}}, "no test images"),
    ],
)
def test_data_that_a_peer_cannot_train_on_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        images.check(dataclasses.replace(dataset_of(), channel_names=(), **fields))


def test_a_name_with_a_folder_is_refused():
    dataset = dataset_of()
    test = dataclasses.replace(dataset.splits["test"], names=("a/b", "c"))
    with pytest.raises(UserError, match="a/b: the name of an image contains a folder"):
        images.check(dataclasses.replace(dataset, splits=dataset.splits | {"test": test}))


def test_probabilities_are_read_as_written(tmp_path):
    values = np.random.default_rng(0).random((5, 7)).astype(np.float32)
    values[0, :2] = 0, 1
    write_probability(tmp_path, "a.b", values)
    np.testing.assert_array_equal(read_probability(tmp_path, "a.b", (5, 7)), values)


def test_the_cross_entropy_leaves_ignored_pixels_out():
    label = np.array([[0, 1, IGNORED]], np.uint8)
    found = cross_entropy(np.array([[0.25, 0.5, 0.9]], np.float32), label)
    assert found == pytest.approx(-(np.log(0.75) + np.log(0.5)) / 2)
    assert np.isnan(cross_entropy(np.zeros((1, 1), np.float32), np.full((1, 1), IGNORED)))


def test_the_history_is_that_of_a_run_and_the_clock_ends(tmp_path):
    history = History(tmp_path)
    history.add(10, 0.5, "train", loss=0.25)
    history.add(20, 1.0, "validation", dice=0.5)
    assert [line["split"] for line in read_history(tmp_path)] == ["train", "validation"]
    assert history.count("validation") == 1 and history.count("test") == 0
    started = read_history(tmp_path)[0]["time"] - 30
    assert 0.5 <= Clock(started, 60).share < 0.6 and not Clock(started, 60).is_over
    assert Clock(started, 20).share == 1 and Clock(started, 20).is_over


def test_the_twin_leaves_out_what_it_lacks(tmp_path):
    class Setting:
        arguments = ("--config=x",)
        config = ph2.get_config("unet,bce,augmented,small")

    assert Twin().flags(Setting()) == ["--config=x", "--config.optim.ema_decay=0.0"]


def test_seeds_are_averaged_image_by_image():
    def report(a, b):
        rows = {"a": {"dice": a}, "b": {"dice": b}}
        return {"classes": ["no", "yes"], "per_image": rows} | {
            "aggregate": {"dice": {"mean": None if b is None else (a + b) / 2}}
        }

    found = results.over_seeds([report(0.2, 0.6), report(0.4, 0.8)])
    assert found["per_image"] == {
        "a": {"dice": pytest.approx(0.3)},
        "b": {"dice": pytest.approx(0.7)},
    }
    assert found["aggregate"]["dice"]["mean"] == pytest.approx(0.5)
    assert found["aggregate"]["dice"]["seeds"] == pytest.approx([0.4, 0.6])
    low, high = found["aggregate"]["dice"]["interval"]
    assert low == pytest.approx(0.3) and high == pytest.approx(0.7)
    assert results.over_seeds([report(0.2, None), report(0.4, 0.8)])["per_image"]["b"] == {
        "dice": None
    }


def test_a_child_gets_its_interpreter_and_its_environment(tmp_path):
    code = "import os, sys; print(os.environ['GIVEN'], sys.executable)"
    given = {"GIVEN": "so"}
    assert launch(["-c", code], tmp_path / "log", sys.executable, given) == 0
    assert (tmp_path / "log").read_text() == f"so {sys.executable}\n"


def test_what_cannot_be_installed_is_said_with_the_reason(tmp_path, monkeypatch):
    requirements = tmp_path / "requirements-x.txt"
    requirements.write_text("no-such-package\n")

    def execute(arguments, log, python="", environment=None):
        log.write_text("Collecting\nERROR: No matching distribution found for no-such-package\n")
        raise UserError("failed with exit code 1")

    monkeypatch.setattr("benchmarks.peers.peer.execute", execute)
    environment = Environment(tmp_path / "x", requirements)
    with pytest.raises(UserError, match=r"cannot be installed \(ERROR: No matching distribution"):
        environment.make()
    commands = []
    monkeypatch.setattr("benchmarks.peers.peer.execute", lambda *a, **_: commands.append(a[0]))
    (tmp_path / "x").mkdir()
    environment.make()
    environment.make()
    assert [command[1] for command in commands] == ["venv", "pip"]
