"""Tests of the metric of docs/extending.md, a new file of the package."""

import json

import numpy as np
import pytest
from scipy import spatial

from unet_jax.metrics.registry import METRICS, Pixels, Task, metrics_of
from unet_jax.reporting import report as reports

HAUSDORFF = "unet_jax/metrics/hausdorff.py"


@pytest.mark.parametrize("seed", range(3))
def test_the_hausdorff_distance_is_scipys(documented, seed):
    compute = documented(HAUSDORFF).hausdorff
    rng = np.random.default_rng(seed)
    label, prediction = (rng.random((2, 17, 23)) > 0.97).astype(np.uint8)
    label[:3] = 255
    masks = [np.argwhere((mask == 1) & (label != 255)) for mask in (label, prediction)]
    distances = (spatial.distance.directed_hausdorff(*pair)[0] for pair in (masks, masks[::-1]))
    probability = prediction.astype(np.float32)
    assert compute(Pixels(label, prediction, probability)) == pytest.approx(max(distances))


def test_empty_masks_have_a_distance(documented):
    compute, empty, full = documented(HAUSDORFF).hausdorff, *np.zeros((2, 3, 4), np.uint8)
    full = full + 1
    assert compute(Pixels(empty, empty, empty)) == 0
    assert compute(Pixels(full, empty, empty)) == compute(Pixels(empty, full, full)) == 5
    assert compute(Pixels(full, full, full)) == 0


def test_the_metric_is_of_tasks_with_two_classes(documented):
    documented(HAUSDORFF)
    assert METRICS["hausdorff"] in metrics_of(Task(2))
    assert METRICS["hausdorff"] not in metrics_of(Task(3))


def test_lower_is_better_in_a_comparison(documented, tmp_path):
    documented(HAUSDORFF)
    for name, distance in (("near", 2.0), ("far", 9.0)):
        (tmp_path / name).mkdir()
        statistics = dict.fromkeys(("mean", "min", "max"), distance) | {"pooled": None}
        content = {"name": name, "classes": ["a", "b"], "aggregate": {"hausdorff": statistics}}
        (tmp_path / name / "report.json").write_text(json.dumps(content))
    output = tmp_path / "compare.html"
    assert (
        reports.main([*map(str, (tmp_path / "near", tmp_path / "far")), f"--output={output}"]) == 0
    )
    assert "★ 2.0000" in output.read_text() and "★ 9.0000" not in output.read_text()
