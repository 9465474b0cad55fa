"""Where the initial weights are from, in reports and comparisons."""

import json

import pytest
from made_reports import make_report

from unet_jax.reporting import comparison, origin
from unet_jax.reporting.report import write_report

pytestmark = pytest.mark.usefixtures("no_pictures")

EVIL = "runs/<b>_a_|"
PARENT = {
    "parent": {
        "folder": EVIL, "checkpoint": "best", "step": 40, "config_digest": "c0ffee", "weights": "ab"
    },
    "modules": {"down_0": "adapted", "bottom": "taken", "head": "new"},
}  # fmt: skip
PRETRAINED = {
    "pretrained": {"source": "timm/resnet34", "file": "/cache/model.safetensors", "sha256": "12"},
    "modules": {"encoder": "taken", "decoder": "new", "segmentation_head_0": "new"},
}


@pytest.mark.parametrize(
    ("report", "line"),
    [
        ({}, None),  # of an earlier version
        ({"initial": {}}, "random"),
        ({"initial": PARENT}, f"{EVIL}, step 40; adapted: down_0; new: head"),
        ({"initial": PRETRAINED}, "timm/resnet34; new: decoder, segmentation_head_0"),
        ({"initial": {"parent": {}, "modules": 3}}, "random"),
        ({"initial": [3]}, "random"),
    ],
)
def test_the_origin_is_a_line(report, line):
    assert origin.summary(report) == line


@pytest.mark.parametrize("initial", [PARENT, PRETRAINED, {}])
def test_reports_tabulate_it_and_what_became_of_each_module(initial, tmp_path):
    write_report(tmp_path, make_report() | {"initial": initial}, [], [])
    assert json.loads((tmp_path / "report.json").read_text())["initial"] == initial
    for name in ("report.html", "report.md"):
        page = (tmp_path / name).read_text()
        assert ("Initial weights" in page) == bool(initial)
        assert EVIL not in page  # it is escaped
        assert all(module in page for module in initial.get("modules", {}))
    if initial:
        rows = dict(origin.initial_weights({"initial": initial})[1].rows)
        assert rows.pop("modules from random weights").split(", ") == [
            name for name, state in initial["modules"].items() if state == "new"
        ]
        assert {*map(str, next(iter(initial.values())).values())} <= {*rows.values()}


def test_a_comparison_shows_it_of_each_run(tmp_path):
    folders = []
    for name, more in {"old": {}, "scratch": {"initial": {}}, "tuned": {"initial": PARENT}}.items():
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        (folders[-1] / "report.json").write_text(json.dumps(make_report() | more))
    runs = comparison.read_runs(folders)
    (row,) = [row for row in comparison._facts(runs).rows if row[0] == "initial weights"]
    assert row[1:] == [None, "random", f"{EVIL}, step 40; adapted: down_0; new: head"]
    page = comparison.render(runs, tmp_path)
    assert "initial weights" in page and EVIL not in page
