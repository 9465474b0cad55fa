"""Every part measures something, by the same code at tiny sizes."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks.accelerator.plan import KINDS

ROOT = pathlib.Path(__file__).parents[3]


@pytest.mark.slow
def test_every_part_has_numbers(tmp_path):
    environment = os.environ | {"PYTHON": sys.executable}
    environment.pop("UNET_DATA", None)
    command = [ROOT / "benchmarks" / "accelerator.sh", "--smoke", f"--out={tmp_path}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    log = (tmp_path / "log.txt").read_text()
    assert done.returncode == 0, done.stdout + done.stderr + log
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["missing_packages"] == []
    assert content["device"]["platform"] == "cpu"
    parts = {kind: [p for p in content["parts"] if p["kind"] == kind] for kind in KINDS}
    assert all(part["status"] == "complete" for group in parts.values() for part in group)

    ((speed,), (roofline,), (feeding,), memory, (training,)) = parts.values()
    assert {(row["framework"], row["variant"], row["task"]) for row in speed["rows"]} == {
        (framework, variant, task)
        for framework, variant in (
            ("jax", "compiled NHWC"),
            ("torch", "eager NCHW"),
            ("torch", "eager channels_last"),
        )
        for task in ("train", "forward")
    }
    assert all(0 < row["low"] <= row["ms"] <= row["high"] for row in speed["rows"])
    assert speed["summary"]["train"] > 0 < speed["summary"]["forward"]

    assert {"forward", "backward"} <= {row["pass"] for row in roofline["rows"]}
    convolutions = [row for row in roofline["rows"] if "Conv" in row["layer"]]
    assert len(convolutions) == 12
    assert all(row["bound_ms"] > 0 and row["share"] > 0 for row in convolutions)
    assert roofline["summary"]["peaks"]["gb_per_second"]["median"] > 0
    assert 0 < roofline["summary"]["step_share"] < 1

    assert [(row["what"], row["reader processes"]) for row in feeding["rows"]] == [
        ("training step alone", ""),
        ("input pipeline alone", 0),
        ("both together", 0),
        ("input pipeline alone", 1),
        ("both together", 1),
    ]
    assert all(0 < row["low"] <= row["images_per_second"] for row in feeding["rows"])
    assert "generated" in feeding["summary"]["data"]

    assert [part["name"].split()[0] for part in memory] == ["jax", "torch"]
    assert ["train" in part["name"] for part in memory] == [True, False]
    assert all(row["peak_mib"] > 0 for part in memory for row in part["rows"])
    assert not any(row.get("compiled") for part in memory for row in part["rows"])

    assert [row["step"] for row in training["rows"]] == [6, 12]
    assert all(row["train_loss"] > 0 < row["validation_loss"] for row in training["rows"])
    assert all(row["images_per_second"] > 0 for row in training["rows"])
    assert training["summary"]["trained"] == "to the end"
    assert 0 < training["summary"]["test"]["dice"] <= 1
    page = (tmp_path / "results.md").read_text()
    assert all(title in page for title in KINDS.values())
