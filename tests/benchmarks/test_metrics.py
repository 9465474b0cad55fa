"""Tests of the metrics benchmark, on a small data set."""

import json

import numpy as np
from made_files import noise, save

from benchmarks import metrics
from unet_jax.metrics.registry import GROUPS


def test_each_group_has_a_time(tmp_path, monkeypatch, capsys):
    for name in "abcdefgh":
        save(tmp_path / "folder" / "images" / f"{name}.png", noise((20, 24, 3)))
        save(tmp_path / "folder" / "masks" / f"{name}.png", 255 * np.eye(20, 24, dtype=np.uint8))
    monkeypatch.setattr(metrics, "ROUNDS", 2)
    monkeypatch.setattr(metrics, "SIDE", 32)
    out = tmp_path / "out.json"
    metrics.main([f"--data={tmp_path}", "--images=2", "--config=configs/folder.py", f"--out={out}"])
    (row,) = json.loads(out.read_text())["milliseconds"]
    assert row.keys() == {"data", "classes", *GROUPS, "together"}
    low, high = sorted(row["default"])
    assert 0 < low and len(row["boundary"]) == 2
    assert row["together"] == [sum(row[group][i] for group in GROUPS) for i in range(2)]
    median = (low + high) / 2
    assert f"| folder | 2 | {median:.3g} ({low:.3g} to {high:.3g}) |" in capsys.readouterr().out


def test_predictions_differ_from_labels_of_any_number_of_classes():
    rng = np.random.default_rng(0)
    for classes in (2, 5):
        label = np.kron(rng.integers(0, classes, (4, 4)), np.ones((16, 16), int)).astype(np.uint8)
        label[0] = 255
        pixels = metrics.make_pixels(label, classes, rng)
        agree = (pixels.prediction == label)[label < 255].mean()
        assert 0.8 < agree < 1 and pixels.prediction.max() < classes
        assert (0 <= pixels.probability).all() and (pixels.probability <= 1).all()
