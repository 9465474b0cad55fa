import dataclasses
import functools
import json

import numpy as np
import pytest
from made_data import make_split, pick

from unet_jax.data.augment import transforms
from unet_jax.data.dataset import Dataset, Split
from unet_jax.data.fit import Fit
from unet_jax.data.weight_map import border_weights
from unet_jax.evaluation import inspection
from unet_jax.runs.folder import check_ours, claim, recorded_cpu_devices, recorded_device


def split_of(images, labels) -> Split:
    return Split(
        names=tuple(f"image-{i}" for i in range(len(images))),
        sizes=tuple(label.shape for label in labels),
        read=functools.partial(pick, images, labels),
    )


def test_a_split_is_described_by_what_is_in_it(dataset):
    images = np.zeros((2, 4, 8, 2), np.uint8)
    images[0, ..., 0] = 10
    images[:, ..., 1] = 7
    labels = np.zeros((2, 4, 8), np.uint8)
    labels[0, 0] = 1  # 8 of 64 pixels
    labels[1, 3] = 255  # 8 of 64 pixels
    found = inspection.describe_split(
        split_of(images, labels), dataclasses.replace(dataset, channels=2)
    )
    assert found == {
        "images": 2,
        "sizes": ["4x8"],
        "dtype": "uint8",
        "range": [0, 10],
        "mean": [5.0, 7.0],
        "std": [5.0, 0.0],
        "share": {"background": 48 / 56, "blob": 8 / 56},
        "ignored": 8 / 64,
    }


def test_an_image_in_two_splits_is_found_even_with_noise_and_other_brightness():
    train, test = make_split(6, 64, seed=1), make_split(3, 64, seed=2)
    images, labels = test.read.args
    noise = np.random.default_rng(0).integers(0, 20, images[1].shape)
    images[1] = (train[4]["image"] // 2 + noise).astype(np.uint8)
    first, *rest = inspection.most_alike({"train": train, "test": split_of(images, labels)})
    assert (first["train"], first["test"]) == ("image-4", "image-1")
    assert first["correlation"] > inspection.DUPLICATE
    assert all(pair["correlation"] < inspection.DUPLICATE for pair in rest)


def test_a_shared_round_field_of_view_and_a_bright_middle_make_no_duplicates():
    rows, columns = np.indices((128, 128)) - 64
    radius = np.hypot(rows, columns)
    noise = np.random.default_rng(0).integers(0, 60, (6, 128, 128))
    images = np.where(radius < 60, 190 - radius + noise, 0).astype(np.uint8)[..., None]
    labels = np.where(radius < 60, 0, 255).astype(np.uint8)[None].repeat(6, 0)
    halves = {"train": (images[:3], labels[:3]), "test": (images[3:], labels[3:])}
    splits = {name: split_of(*half) for name, half in halves.items()}
    assert all(pair["correlation"] < 0.5 for pair in inspection.most_alike(splits))
    # The same image brighter, less sharp and with another size is one all the same.
    copy = images[:1].astype(float).repeat(2, 1).repeat(2, 2) * 1.2 + 5
    splits["test"] = split_of(
        copy.clip(0, 255).astype(np.uint8), labels[:1].repeat(2, 1).repeat(2, 2)
    )
    assert inspection.most_alike(splits)[0]["correlation"] > inspection.DUPLICATE


def test_images_without_contrast_and_smaller_than_a_thumbnail_are_compared():
    flat = split_of(np.zeros((2, 5, 5, 1), np.uint8), np.zeros((2, 5, 5), np.uint8))
    pairs = inspection.most_alike({"train": flat, "test": flat})
    assert all(pair["correlation"] == 0 for pair in pairs)


def test_inspection_leaves_its_files_and_a_folder_that_training_takes(
    config, dataset, tmp_path, capsys
):
    folder = tmp_path / "run"
    content = inspection.inspect(config, dataset, folder)
    assert json.loads((folder / "inspection.json").read_text()) == content
    assert (folder / "figures" / "inspection.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    for part in ("train", "validation", "share of blob", "ignored", "32x32", "correlate"):
        assert part in out
    check_ours(folder, config)


def test_inspecting_a_run_leaves_what_is_recorded_of_its_training(config, dataset, tmp_path):
    config.cpu_devices = 3
    with claim(tmp_path, config, dataset, "TPU v4"):
        (tmp_path / "checkpoints").mkdir()
    config.cpu_devices = 0  # what a command states that does not train
    inspection.inspect(config, dataset, tmp_path)
    assert recorded_cpu_devices(tmp_path) == 3
    assert recorded_device(tmp_path) == "TPU v4"


def test_the_sheet_shows_what_training_receives(config, dataset, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        inspection.figures, "contact_sheet", lambda groups, classes: drawn.update(groups)
    )
    monkeypatch.setattr(inspection.charts, "png", lambda figure: b"")
    inspection.inspect(config, dataset, tmp_path / "run")
    batches = inspection.pipeline.train_batches(
        dataset.splits["train"],
        batch_size=4,
        augment=transforms.build(
            config.data.augment, config.augment, fit=Fit("crop", config.data.size)
        ),
        seed=config.seed,
    )
    received = drawn["as training receives them"]
    for i, (name, image, label) in enumerate(received):
        batch = batches[i // 4]
        np.testing.assert_array_equal(image, batch["image"][i % 4])
        np.testing.assert_array_equal(label, batch["label"][i % 4])
        assert name == f"image-{batch['index'][i % 4]}"
    assert len(received) == inspection.SHOWN


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_sheet_has_black_and_white_where_the_network_s_range_ends(
    config, tmp_path, monkeypatch, dtype
):
    ramp = np.tile(np.arange(64, dtype=dtype), (2, 64, 1))[..., None]
    split = split_of(ramp, np.zeros((2, 64, 64), np.uint8))
    dataset = Dataset(dict.fromkeys(("train", "validation", "test"), split), ("a", "b"), 1, {})
    drawn = {}
    monkeypatch.setattr(
        inspection.figures, "contact_sheet", lambda groups, classes: drawn.update(groups)
    )
    monkeypatch.setattr(inspection.charts, "png", lambda figure: b"")
    config.data.update({"normalize": "limits", "limits": (16.0, 48.0), "fit": "resize"})
    config.data.update({"size": 64, "augment": ()})
    inspection.inspect(config, dataset, tmp_path / "run")
    ((_, shown, _), *_) = drawn["as training receives them"]
    expected = np.rint(np.clip((np.arange(64) - 16) / 32, 0, 1) * 255)
    np.testing.assert_array_equal(shown[0, :, 0], expected)


def test_windows_with_foreground_are_counted(config, dataset, tmp_path, capsys):
    config.data.foreground = 1.0
    content = inspection.inspect(config, dataset, tmp_path / "crop")
    assert content["windows"] == {"drawn": 100, "with_foreground": 100}
    assert "100 of 100 training windows contain foreground" in capsys.readouterr().out
    config.data.foreground, config.data.fit = 0.0, "resize"
    assert "windows" not in inspection.inspect(config, dataset, tmp_path / "resize")


def test_the_sheet_shows_the_weights_that_training_receives(
    config, dataset, tmp_path, monkeypatch, capsys
):
    config.data.border_weight, config.data.border_sigma = 10.0, 3.0
    drawn, show = {}, inspection.figures.contact_sheet
    monkeypatch.setattr(
        inspection.figures,
        "contact_sheet",
        lambda groups, classes: drawn.update(groups) or show(groups, classes),
    )
    content = inspection.inspect(config, dataset, tmp_path / "run")
    labels = dataset.splits["train"].read.args[1]
    share = labels.mean()
    balance = {"background": 0.5 / (1 - share), "blob": 0.5 / share}
    maps = np.stack([border_weights(label, 10, 3) for label in labels])
    maps += np.where(labels == 1, balance["blob"], balance["background"])
    assert content["weights"] == {
        "min": pytest.approx(maps.min()),
        "mean": pytest.approx(maps.mean()),
        "max": pytest.approx(maps.max()),
        "class_balance": pytest.approx(balance),
    }
    assert f"{maps.max():.3g}, mean {maps.mean():.3g}" in capsys.readouterr().out
    windows = drawn["as training receives them"]
    heats = drawn["weight of each pixel, as training receives it"]
    for (name, image, label), (title, heat, outlined) in zip(windows, heats, strict=True):
        i = int(name.removeprefix("image-"))
        places = {
            turned[y : y + 16, x : x + 16].tobytes(): (turned_map[y : y + 16, x : x + 16])
            for turns in range(4)
            for flipped in (1, -1)
            for turned, turned_map in [
                (
                    np.rot90(dataset.splits["train"][i]["image"], turns)[::flipped],
                    np.rot90(maps[i], turns)[::flipped],
                )
            ]
            for y in range(17)
            for x in range(17)
        }
        weight = places[image.tobytes()]
        assert title == f"{name}: {weight.min():.2g} to {weight.max():.3g}"
        expected = inspection.figures.heat_map(image, weight, maps.max())
        np.testing.assert_allclose(heat.astype(int), expected, atol=3)
        assert outlined.shape == label.shape
        assert not outlined.any()


def test_weights_of_labels_that_are_ignored_everywhere_are_0():
    labels = np.full((1, 4, 4), 255, np.uint8)
    split = split_of(np.zeros((1, 4, 4, 1), np.uint8), labels)
    split = dataclasses.replace(
        split, weight=lambda index, label: np.zeros(label.shape, np.float32)
    )
    assert inspection.describe_weights(split) == {"min": 0.0, "mean": 0.0, "max": 0.0}


def test_without_a_weight_map_none_is_shown(config, dataset, tmp_path):
    assert "weights" not in inspection.inspect(config, dataset, tmp_path / "run")
    assert not (tmp_path / "run" / "weights").exists()


@pytest.mark.slow
def test_the_real_stacks_are_no_near_duplicates(real_data):
    from configs import isbi
    from unet_jax.data.sources.isbi import open_isbi

    data = isbi.get_config().data
    data.root = str(real_data / "isbi")
    dataset = open_isbi(data)
    described = inspection.describe_split(dataset.splits["test"], dataset)
    assert described["share"]["cell"] == pytest.approx(0.795, abs=1e-3)
    # Neighbouring sections resemble each other: with 30 slices dealt at random, this is the
    # price of the published protocol.
    alike = inspection.most_alike(dataset.splits)
    assert 0.3 < alike[0]["correlation"] < inspection.DUPLICATE
