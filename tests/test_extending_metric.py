"""Tests of the metric of docs/extending.md, a new file of the package."""

import json
import math

import numpy as np
import pytest

from unet_jax.metrics.registry import METRICS, Pixels, Task, class_values, metrics_of
from unet_jax.reporting import report as reports

AREA = "unet_jax/metrics/area.py"


def errors(label, prediction, classes: int) -> list[float]:
    """The metric of each class of an image."""
    arrays = [np.array(mask, np.uint8) for mask in (label, prediction)]
    pixels = Pixels(*arrays, np.zeros(arrays[0].shape, np.float32))
    return class_values(pixels, Task(classes), [METRICS["area_error"]])["area_error"]


def test_the_area_error_by_hand(documented):
    documented(AREA)
    label, prediction = [[1, 1, 1, 1], [0, 0, 0, 255]], [[0, 0, 0, 1], [0, 1, 0, 1]]
    assert errors(label, prediction, 2)[1] == 50  # 2 pixels instead of 4; the ignored one is none
    assert errors(prediction, label, 2)[1] == pytest.approx(100 / 3)
    of_classes = errors([[0, 1], [2, 2]], [[0, 0], [2, 0]], 4)
    assert of_classes[:3] == [200, 100, 50] and math.isnan(of_classes[3])


def test_empty_masks_have_no_or_an_undefined_error(documented):
    documented(AREA)
    empty, full = np.zeros((2, 3, 4), np.uint8) + np.array([[[0]], [[1]]], np.uint8)
    assert errors(empty, empty, 2)[1] == 0 and math.isnan(errors(empty, full, 2)[1])
    assert errors(full, empty, 2)[1] == 100 and errors(full, full, 2)[1] == 0


@pytest.mark.parametrize("classes", [2, 3])
def test_the_metric_is_of_every_task(documented, classes):
    documented(AREA)
    assert METRICS["area_error"] in metrics_of(Task(classes))


def test_lower_is_better_in_a_comparison(documented, tmp_path):
    documented(AREA)
    for name, error in (("near", 2.0), ("far", 9.0)):
        (tmp_path / name).mkdir()
        statistics = dict.fromkeys(("mean", "min", "max"), error) | {"pooled": None}
        content = {"name": name, "classes": ["a", "b"], "aggregate": {"area_error": statistics}}
        (tmp_path / name / "report.json").write_text(json.dumps(content))
    output = tmp_path / "compare.html"
    assert (
        reports.main([*map(str, (tmp_path / "near", tmp_path / "far")), f"--output={output}"]) == 0
    )
    assert "★ 2.0000" in output.read_text() and "★ 9.0000" not in output.read_text()
