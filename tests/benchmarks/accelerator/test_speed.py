"""Variants are timed as far as time and memory suffice, and the others are named with a reason."""

import json
import sys

import pytest

from benchmarks.accelerator import probe, speed
from benchmarks.accelerator.record import Recorder

SETTINGS = {
    "width": 2,
    "depth": 1,
    "batch": 2,
    "size": 8,
    "precision": "float32",
    "compile": "",
    "rounds": 2,
    "seconds": 0.0,
    "stage_seconds": 5.0,
}


def runs():
    return {"train": lambda: None, "forward": lambda: None}


def exhausted():
    raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nand more")


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """A function that measures variants in stages; returns the content of the file."""

    def start(*stages, seconds=60.0, problem=None):
        monkeypatch.setattr(speed, "torch_problem", lambda: problem)
        monkeypatch.setattr(speed, "stages_of", lambda *_: list(stages))
        speed.measure(SETTINGS, Recorder(tmp_path / "part.json", seconds))
        return json.loads((tmp_path / "part.json").read_text())

    return start


JAX, EAGER, COMPILED = (
    ("jax", "compiled NHWC", "float32"),
    ("torch", "eager NCHW", "float32"),
    ("torch", "compiled NCHW", "float32"),
)


def failures(content):
    return {row["variant"]: row["failed"] for row in content["rows"] if "failed" in row}


def test_all_variants_are_timed(measured):
    content = measured({JAX: runs, EAGER: runs}, {COMPILED: runs})
    assert len(content["rows"]) == 6
    assert all(row["low"] <= row["ms"] <= row["high"] for row in content["rows"])
    assert content["summary"]["train"] > 0 < content["summary"]["forward"]


def test_a_variant_that_fails_has_a_row(measured):
    content = measured({JAX: runs, EAGER: exhausted}, {COMPILED: runs})
    assert failures(content) == {"eager NCHW": "RESOURCE_EXHAUSTED: Out of memory"}
    assert len(content["rows"]) == 5


def test_lack_of_memory_while_timing_keeps_the_rows_before(measured):
    calls = []

    def later():
        def run():
            calls.append(1)
            if len(calls) > 2:  # after the warm-up
                exhausted()

        return {"train": run}

    content = measured({JAX: runs, EAGER: runs}, {COMPILED: later})
    assert failures(content) == {"compiled NCHW": "RESOURCE_EXHAUSTED: Out of memory"}
    assert len(content["rows"]) == 5


def test_variants_without_time_are_named(measured):
    content = measured({JAX: runs}, {COMPILED: runs}, seconds=1.0)
    assert set(failures(content).values()) == {"skipped: out of time"}
    assert len(failures(content)) == 2


def test_without_pytorch_a_row_says_so(measured):
    content = measured({JAX: runs}, problem="PyTorch is not installed")
    assert failures(content) == {"all": "PyTorch is not installed"}
    assert content["summary"] == {"train": None, "forward": None}


@pytest.mark.slow
def test_what_pytorch_compiles_comes_last_and_alone():
    first, *others = speed.stages_of(speed.settings_of(SETTINGS), "float32", "default")
    assert [key[0] for key in first].count("torch") == 2
    assert [[key[1] for key in stage] for stage in others] == [
        ["compiled (default) channels_last"],
        ["compiled (default) NCHW"],
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("platform", "installed", "expected"),
    [
        ("tpu", True, "has no TPU support"),
        ("gpu", True, "has no GPU support"),
        ("gpu", False, "is not installed"),
    ],
)
def test_why_pytorch_cannot_be_compared(platform, installed, expected, monkeypatch):
    if not installed:
        monkeypatch.setitem(sys.modules, "torch", None)
    else:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(probe.jax, "default_backend", lambda: platform)
    assert expected in probe.torch_problem()
    monkeypatch.undo()
    assert probe.torch_problem() is None
