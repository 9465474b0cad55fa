"""Tests of a run that uses the data set, network, loss and metric of docs/extending.md together."""

import contextlib
import json
import math
import pathlib
import types

import jax
import numpy as np
import pytest
from documented import added, write_shapes
from made_files import noise
from ml_collections import ConfigDict

from unet_jax.data import open_dataset
from unet_jax.distributed import devices
from unet_jax.inference.cut import Cut
from unet_jax.inference.predict import Job, Tile
from unet_jax.inference.predictor import Predictor, load
from unet_jax.reporting import charts, sweep
from unet_jax.reporting import report as reports
from unet_jax.runs.experiment import check, read_configs, resolve
from unet_jax.runs.log import read_history
from unet_jax.training.loop import train

pytestmark = pytest.mark.slow

FILES = (
    "unet_jax/data/sources/shapes.py",
    "unet_jax/models/link_unet.py",
    "unet_jax/learning/generalized_dice.py",
    "unet_jax/metrics/area.py",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps and its report, with the files of the page in the package."""
    folder = tmp_path_factory.mktemp("extending")
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(charts, "png", lambda drawn: b"\x89PNG")
        for path in (*FILES, "configs/shapes.py"):
            (folder / path).mkdir(parents=True)
            module = stack.enter_context(added(path, folder / path))
        config = module.get_config()
        config.data.root = str(write_shapes(folder / "data"))
        config.data.size, config.batch_size, config.num_epochs = 16, 3, 1
        config.model.name, config.model.padding = "link_unet", "valid"
        config.model.width, config.model.depth = 2, 1
        config.loss.name = "bce+generalized_dice"
        config.eval.batch_size = config.log.every_steps = 1
        check(config)
        dataset = open_dataset(config.data)
        run = folder / "runs" / "shapes-seed0"
        config = resolve(config, dataset.classes)
        yield run, train(config, dataset, run, devices.local_mesh(jax.devices()[:1]))


def test_a_run_of_new_files_trains_and_reports(trained):
    run, report = trained
    assert report["step"] == 2 and np.isfinite(report["loss"])
    logged = [line["split"] for line in read_history(run)]
    assert logged == ["train", "train", "validation", "test"]
    assert len(report["per_image"]) == 2
    (saved,) = read_configs([run]).values()
    assert (saved.data.mask_threshold, saved.loss.generalized_dice_power) == (128, 2.0)


def test_the_metric_is_in_every_report(trained):
    run, report = trained
    values = [row["area_error"] for row in report["per_image"].values()]
    statistics = dict(report["aggregate"]["area_error"])
    low, high = statistics.pop("interval")
    assert low <= statistics["mean"] <= high
    assert statistics == {
        "mean": pytest.approx(np.mean(values)),
        "min": min(values),
        "max": max(values),
        "pooled": None,
    }
    assert json.loads((run / "report.json").read_text()) == report
    (line,) = [line for line in read_history(run) if line["split"] == "validation"]
    assert math.isfinite(line["area_error"])
    page, web = ((run / name).read_text() for name in ("report.md", "report.html"))
    assert "| area error, % |" in page and "**area error, %**" in page
    assert ">area error, %</" in web
    assert "Validation metrics, %" in web
    rows = sweep.table(run.parent, [sweep.Run("shapes.py", 0)])
    assert rows[0]["metrics"]["area_error"] == [report["aggregate"]["area_error"]["mean"]]
    output = run.parent / "compare.html"
    assert reports.main([str(run), f"--output={output}"]) == 0
    assert "area error, %" in output.read_text()


def test_the_network_predicts_tiles_as_the_whole(trained):
    configs = read_configs([trained[0]])
    (step,), _, predictor = load(configs, "last", devices.local_mesh(jax.devices()[:1]))
    assert (step, predictor.channels) == (2, 1)
    assert (predictor.margin, predictor.multiple, predictor.unpadded) == (8, 2, True)
    image = noise((28, 20, 1))
    (config,) = configs.values()
    whole, tiled = (in_tiles(predictor, config, image, side) for side in (28, 16))
    assert whole.shape == (28, 20, 1) and np.ptp(whole) > 0
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


def in_tiles(predictor: Predictor, config: ConfigDict, image: np.ndarray, side: int) -> np.ndarray:
    """Probabilities of an image that is split into tiles if they are smaller."""
    size = image.shape[:2]
    cut, job = Cut(config, predictor, side, [size]), Job(pathlib.Path("a"), [size], outputs=None)
    page = types.SimpleNamespace(size=size, rows=lambda start, stop: image[start:stop])
    tiles = [Tile(job, *tile) for tile in cut.tiles(page)]
    assert (len(tiles) > 1) == (side < max(size))
    results = (probabilities for _, probabilities in predictor.stream(tiles))
    return np.concatenate([band.copy() for band in cut.join(size, results)])
