"""Groups of metrics on a data set that numbers its objects, from the launcher to every page."""

import dataclasses
import json

import events
import jax
import numpy as np
import pytest
from launched import run_here
from made_files import save

from unet_jax import models
from unet_jax.core.intensities import Intensities
from unet_jax.distributed import devices as parallel
from unet_jax.evaluation.evaluator import Evaluator
from unet_jax.evaluation.image import score_image
from unet_jax.evaluation.task import task_of
from unet_jax.inference.ensemble import single_network
from unet_jax.metrics.registry import METRICS, Score, Task
from unet_jax.reporting import report as reports

KEYS = [key for key, metric in METRICS.items() if metric.group in ("topology", "objects")]
GROUPS = "--config.eval.metrics=('default','topology','objects')"


@pytest.fixture
def cells(tmp_path):
    """Ten images of bright cells; the first two of each image touch."""
    for i in range(10):
        ids = np.zeros((24, 24), np.uint16)
        ids[2:10, 2 : 8 + i % 3], ids[2:10, 8 + i % 3 : 15], ids[14:21, 5:13] = 1, 2, 3
        noise = np.random.default_rng(i).integers(0, 60, ids.shape)
        save(tmp_path / f"data/images/{i}.png", (noise + 150 * (ids > 0)).astype(np.uint8))
        save(tmp_path / f"data/masks/{i}.png", ids)
    (tmp_path / "data/classes.txt").write_text("0 background\n* cell\n")
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("field", "value"), [("eval.objects", "watershed"), ("eval.min_object_pixels", 50)]
)
def test_the_fields_of_objects_change_the_scores(config, dataset, field, value):
    """Two discs that touch are found as one, or apart with a speck beside them."""
    config.eval.metrics = ("objects",)
    rows, columns = np.mgrid[:40, :60]
    first, second = (np.hypot(rows - 20, columns - x) < 12 for x in (17, 37))
    truth = (first | second).astype(np.uint8)
    ids = first + 2 * (second & ~first)
    found = truth.copy()
    if field == "eval.min_object_pixels":
        found[:, 27:29], found[1, 1] = 0, 1
    before = objects_of(task_of(config, dataset), truth, found, ids)
    assert before["count_error"] == 1
    config.update_from_flattened_dict({field: value})
    after = objects_of(task_of(config, dataset), truth, found, ids)
    assert after["count_error"] == 0 and after["ap"] > before["ap"]


def objects_of(task: Task, truth: np.ndarray, found: np.ndarray, ids: np.ndarray) -> dict:
    probabilities = found[..., None].astype(np.float32)
    score = score_image(truth, probabilities, 0.0, task, 0.5, (0.5,), instances=ids)
    return {key: score.of_classes[key][1] for key in KEYS if key in score.of_classes}


def test_evaluation_uses_the_instance_ids_of_a_split(config, dataset):
    split = dataset.splits["test"]

    def scored(ids) -> list[float]:
        known = dataclasses.replace(split, instances=ids)
        return [score.of_classes["count_error"][1] for score in scores_of(config, dataset, known)]

    config.eval.metrics = ("objects",)
    without = scored(None)
    shape = split[0]["label"].shape
    many = scored(lambda i: 1 + np.arange(shape[0] * shape[1], dtype=np.int32).reshape(shape))
    assert all(b > a for a, b in zip(without, many, strict=True))  # each pixel is an object
    config.eval.metrics = ("default",)
    assert scores_of(config, dataset, dataclasses.replace(split, instances=refuse))


def refuse(index: int) -> np.ndarray:
    raise AssertionError("ids are read although no metric needs them")


def scores_of(config, dataset, split) -> list[Score]:
    mesh = parallel.local_mesh(jax.devices()[:1])
    model = models.build(**config.model)
    network = single_network(model, Intensities.of(config.data))
    variables = parallel.replicate(models.init(model, 1, seed=0), mesh)
    return list(Evaluator(config, dataset, network, mesh).scores(variables, split))


@pytest.mark.slow
def test_each_metric_is_shown_everywhere(tmp_path, cells):
    arguments = [
        "--config=configs/folder.py",
        f"--config.data.root={cells}",
        "--config.data.fit=crop",
        "--config.data.size=16",
        "--config.data.object_border=1",
        "--config.model.width=4",
        "--config.model.depth=1",
        "--config.eval.every_epochs=4",
        "--config.num_epochs=8",
        GROUPS,
    ]
    for name in ("a", "b"):
        code, output = run_here(*arguments, f"--workdir={tmp_path / name}")
        assert code == 0, output
    report = json.loads((tmp_path / "a/report.json").read_text())
    assert report["classes"] == ["background", "cell", "border"]
    assert report["aggregate"].keys() >= {*KEYS} and report["aggregate"]["ap"]["mean"] is not None
    page = (tmp_path / "a/report.html").read_text()
    tags = events.read(tmp_path / "a")["scalars"]
    page_of_both = tmp_path / "both.html"
    runs = [str(tmp_path / name) for name in ("a", "b")]
    assert reports.main([*runs, f"--output={page_of_both}"]) == 0
    for key in KEYS:
        metric = METRICS[key]
        assert metric.label in page, key
        defined = report["aggregate"][key]["mean"] is not None
        assert (f"test/{key}" in tags) == defined, key
        assert metric.label in page_of_both.read_text() or not metric.prominent, key
