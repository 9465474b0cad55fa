import json

import jax
import pytest

from benchmarks import speed, timing
from benchmarks.pytorch import runs
from benchmarks.pytorch.variants import Variant


def row(framework, task, precision, ms):
    return {"framework": framework, "task": task, "precision": precision, "ms": ms}


def test_ratios_use_the_best_variant_at_the_same_and_at_any_precision():
    rows = [
        row("jax", "train", "float32", 10.0),
        row("jax", "train", "bfloat16", 5.0),
        row("jax", "forward", "float32", 4.0),
        row("torch", "train", "float32", 12.0),
        row("torch", "train", "float32", 9.0),
        row("torch", "train", "bfloat16", 6.0),
        row("torch", "forward", "float32", 8.0),
        {"framework": "torch", "precision": "float32", "failed": "no compiler"},
    ]
    assert timing.ratios(rows, "float32") == {
        "train": pytest.approx(0.9),
        "forward": pytest.approx(2.0),
        "train_any_precision": pytest.approx(0.6),
    }
    assert timing.ratios(rows, "bfloat16") == {
        "train": pytest.approx(1.2),
        "forward": None,
        "train_any_precision": pytest.approx(1.2),
    }


def test_runs_are_interleaved_and_the_first_of_each_round_is_not_timed(monkeypatch):
    clock, order = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def run(name, seconds):
        def once():
            order.append(name)
            clock[0] += 9 if order[-2:] in (["a", "b"], ["b", "a"]) else seconds

        return once

    found = timing.measure({"a": run("a", 0.5), "b": run("b", 2.0)}, rounds=2, seconds=4.0)
    assert found == {"a": [500.0, 500.0], "b": [2000.0, 2000.0]}
    assert "".join(order) == "ab" + "aaaaabb" * 2


@pytest.mark.slow
def test_every_variant_is_timed_and_a_failing_one_is_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "variants", lambda _: [Variant(), Variant(compile="no such mode")])
    batch = jax.local_device_count()
    size = ["--width=2", "--depth=1", f"--batch={batch}", "--size=8"]
    speed.main([*size, "--rounds=2", "--seconds=0.01", f"--out={tmp_path / 'speed.json'}"])
    content = json.loads((tmp_path / "speed.json").read_text())
    timed = [row for row in content["rows"] if "ms" in row]
    assert {(row["framework"], row["variant"], row["precision"], row["task"]) for row in timed} == {
        (framework, variant, precision, task)
        for framework, variant, precision in (
            ("jax", "compiled NHWC", "float32"),
            ("jax", f"compiled NHWC, {batch} devices", "float32"),
            ("jax", "compiled NHWC", "bfloat16"),
            ("jax", f"compiled NHWC, {batch} devices", "bfloat16"),
            ("torch", "eager NCHW", "float32"),
        )
        for task in ("train", "forward")
    }
    assert all(0 < row["low"] <= row["ms"] <= row["high"] for row in timed)
    assert all(value > 0 for value in content["ratio"].values())
    (failed,) = [row for row in content["rows"] if "failed" in row]
    assert failed["variant"] == "compiled (no such mode) NCHW"
    assert failed["failed"] in capsys.readouterr().out


def test_cpu_devices_share_a_divisible_batch(monkeypatch):
    count = jax.local_device_count()
    assert timing.device_counts(2 * count) == [1, count]
    assert timing.device_counts(2 * count + 1) == [1]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert timing.device_counts(2 * count) == [1]
