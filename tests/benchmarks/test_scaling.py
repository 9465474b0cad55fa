"""Tests of scaling: costs are compared with work, and super-linear growth is marked."""

import json
import time

import jax
import pytest
from pictures import _no_pictures as _no_pictures

from benchmarks import scaling


def costs_of(power):
    """Returns a step whose time, memory and compilation time are work^power."""

    def prepare(axis, value):
        cost = float(value**power)
        return (
            {"work": float(value), "temporary_mib": cost, "compile_seconds": cost},
            lambda: time.sleep(cost * 1e-6),
        )

    return prepare


@pytest.mark.parametrize(("power", "marked"), [(1, False), (2, True)])
def test_a_cost_that_grows_faster_than_the_work_is_marked(power, marked, monkeypatch, capsys):
    monkeypatch.setattr(scaling, "step_costs", costs_of(power))
    monkeypatch.setattr(
        scaling, "measure", lambda runs, *_: {name: [float(name) ** power] for name in runs}
    )
    rows = scaling.measure_axis("width", [2, 4, 16], rounds=1, seconds=0.0)
    for row in rows[1:]:
        for cost in ("ms", "temporary_mib", "compile_seconds"):
            assert row[f"growth of {cost}"] == pytest.approx(power)
    assert "growth of ms" not in rows[0]
    assert ("super-linear" in scaling.format_axis("width", rows)) == marked


@pytest.mark.slow
def test_steps_and_evaluations_are_measured_and_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        scaling, "VALUES", {"size": (16, 32), "devices": (1, 2, 64), "images": (2, 3)}
    )
    monkeypatch.setattr(scaling, "PLAIN", {"size": 16, "batch": 1, "width": 2, "depth": 1})
    out = tmp_path / "scaling.json"
    scaling.main(["--rounds=1", "--seconds=0.01", f"--out={out}"])
    rows = json.loads(out.read_text())["rows"]
    assert [(row["axis"], row["value"]) for row in rows] == [
        ("size", 16), ("size", 32), ("devices", 1), ("devices", 2), ("images", 2), ("images", 3),
    ]  # fmt: skip
    assert jax.local_device_count() < 64
    assert all(0 < row["low"] <= row["ms"] <= row["high"] for row in rows)
    steps, images = rows[:4], rows[4:]
    assert all(row["temporary_mib"] > 0 and row["compile_seconds"] > 0 for row in steps)
    # Four times the pixels; twice the devices with the same number of images each.
    assert steps[1]["work"] == pytest.approx(4 * steps[0]["work"], rel=0.1)
    assert steps[3]["work"] == pytest.approx(2 * steps[2]["work"])
    assert [row["work"] for row in images] == [2, 3]
    assert capsys.readouterr().out.count("growth of time") == 3


@pytest.mark.parametrize("axis", scaling.VALUES)
def test_an_axis_changes_only_its_own_fields(axis):
    plain = scaling.make_config().to_dict()
    changed = scaling.make_config(axis, 777).to_dict()
    fields = {
        (group, field)
        for group in ("data", "model")
        for field in plain[group]
        if plain[group][field] != changed[group][field]
    } | {("batch_size",) for _ in "1" if plain["batch_size"] != changed["batch_size"]}
    expected = {
        "size": {("data", "size")},
        "batch": {("batch_size",)},
        "devices": {("batch_size",)},
        "width": {("model", "width")},
        "depth": {("model", "depth")},
        "images": set(),
    }
    assert fields == expected[axis]
