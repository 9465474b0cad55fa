"""The metric of docs/extending.md, one new file, appears in every report."""

import json
import math

import numpy as np
import pytest
from scipy import spatial

from unet_jax.distributed import devices
from unet_jax.metrics.registry import METRICS, Pixels, Task, metrics_of
from unet_jax.reporting import report as reports
from unet_jax.reporting import sweep
from unet_jax.runs.log import read_history
from unet_jax.training.loop import train

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


def test_the_metric_is_in_every_report(documented, config, dataset, tmp_path):
    documented(HAUSDORFF)
    assert METRICS["hausdorff"] in metrics_of(Task(2))
    assert METRICS["hausdorff"] not in metrics_of(Task(3))
    run = tmp_path / "demo-seed0"
    report = train(config, dataset, run, devices.local_mesh())
    values = [row["hausdorff"] for row in report["per_image"].values()]
    assert report["aggregate"]["hausdorff"] == {
        "mean": pytest.approx(np.mean(values)),
        "min": min(values),
        "max": max(values),
        "pooled": None,
    }
    assert json.loads((run / "report.json").read_text()) == report
    validation = [line for line in read_history(run) if line["split"] == "validation"]
    assert validation and all(math.isfinite(line["hausdorff"]) for line in validation)
    page, web = ((run / name).read_text() for name in ("report.md", "report.html"))
    assert "| Hausdorff distance, pixels |" in page and "**Hausdorff distance, pixels**" in page
    assert "<h3>Hausdorff distance, pixels</h3>" in web
    assert "Validation metrics, pixels" in web

    rows = sweep.table(tmp_path, [sweep.Run("demo.py", 0)])
    assert rows[0]["metrics"]["hausdorff"] == [report["aggregate"]["hausdorff"]["mean"]]
    output = tmp_path / "compare.html"
    assert reports.main([str(run), f"--output={output}"]) == 0
    assert "Hausdorff distance, pixels" in output.read_text()


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
