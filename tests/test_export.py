"""An exported network beside `predict`, and without this project."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from made_files import noise
from made_runs import make_run, small_config

from unet_jax import parallel
from unet_jax.errors import UserError
from unet_jax.export import export_run
from unet_jax.export_loader import load
from unet_jax.predict import predict

SIZES = [(16, 16), (1, 1), (37, 20), (8, 50)]


@pytest.mark.parametrize(
    ("channels", "dtype", "fields"),
    [
        (1, np.uint8, {}),
        (1, np.uint16, {}),
        (3, np.uint8, {"model__classes": 3, "data__input_range": "unit", "model__width": 12}),
        (3, np.uint16, {"model__classes": 3, "data__input_range": "unit", "model__width": 12}),
        (1, np.uint8, {"model__padding": "valid", "model__norm": "none", "eval__threshold": 0.3}),
        (3, np.uint16, {"model__padding": "valid", "model__depth": 1, "model__classes": 2}),
        (1, np.uint8, {"model__classes": 2, "model__depth": 1, "eval__threshold": 0.3}),
        (1, np.uint16, {"model__upsample": "bilinear", "model__norm": "group"}),
        (3, np.uint8, {"model__name": "segnet"}),
        (1, np.uint16, {"model__name": "unet2", "data__fit": "resize", "model__classes": 4}),
    ],
    ids=lambda x: "-".join(map(str, x.values())) if isinstance(x, dict) else None,
)
def test_an_exported_network_gives_what_predict_gives(tmp_path, channels, dtype, fields):
    config = small_config(**fields)
    # A resized pixel may be rounded up there, and down here.
    tolerance = 1e-2 if config.data.fit == "resize" else 1e-4
    run = make_run(tmp_path / "run", config, channels, calm=True)
    export_run(run, config, checkpoint="best", output=tmp_path / "exported")
    network = load(tmp_path / "exported" / "network.stablehlo")
    for size in SIZES:
        here = tmp_path / f"{size}"
        images = [noise((*size, channels), dtype, seed) for seed in range(2)]
        (here / "in").mkdir(parents=True)
        for i, image in enumerate(images):
            kind = "minisblack" if channels == 1 else "rgb"
            pixels = image[..., 0] if channels == 1 else image
            tifffile.imwrite(here / "in" / f"{i}.tif", pixels, photometric=kind)
        predict(
            {run: config},
            parallel.local_mesh(),
            wanted=str(here / "in"),
            output=here / "out",
            checkpoint="best",
            side=1024,
            probabilities=True,
            overlays=False,
        )
        masks, probabilities = network(np.stack(images))
        assert (masks.dtype, probabilities.dtype) == (np.uint8, np.float32)
        for i in range(2):
            expected = tifffile.imread(here / "out" / "probabilities" / f"{i}.tif")
            found = probabilities[i]
            if config.model.classes <= 2:
                found = found[..., -1]
            else:
                found = np.moveaxis(found, -1, 0)
            np.testing.assert_allclose(found, expected.reshape(found.shape), atol=tolerance)
            mask = tifffile.imread(here / "out" / f"{i}.tif").reshape(size)
            mask = mask // 255 if config.model.classes <= 2 else mask
            limit = config.eval.threshold if config.model.classes <= 2 else 0.5
            top_two = np.sort(probabilities[i], axis=-1)[..., -2:]
            close = (
                abs(probabilities[i, ..., -1] - limit) < 2 * tolerance
                if config.model.classes <= 2
                else top_two[..., 1] - top_two[..., 0] < 2 * tolerance
            )
            np.testing.assert_array_equal(masks[i][~close], mask[~close])
            assert close.mean() < 0.2 or mask.size == 1


def test_the_loader_needs_nothing_of_this_project(tmp_path):
    config = small_config()
    run = make_run(tmp_path / "run", config, 1)
    export_run(run, config, checkpoint="best", output=tmp_path / "exported")
    contract = json.loads((tmp_path / "exported" / "network.json").read_text())
    assert contract["step"] == 7
    assert contract["input"]["images"].startswith("uint16 [n, h, w, 1]")
    assert contract["platforms"] == ["cpu", "cuda", "tpu"]
    images = noise((3, 20, 24, 1), np.uint8)
    np.save(tmp_path / "images.npy", images)
    others = ("unet_jax", "configs", "flax", "optax", "orbax", "ml_collections", "absl", "grain")
    absent = f"import sys, runpy; sys.modules |= dict.fromkeys({others}); "
    code = absent + "del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code, "exported/load.py", "images.npy", "masks.npy"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    masks, _ = load(tmp_path / "exported" / "network.stablehlo")(images)
    np.testing.assert_array_equal(np.load(tmp_path / "masks.npy"), masks)
    lines = pathlib.Path(tmp_path / "exported" / "load.py").read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 25


def test_another_folder_is_not_written_over(tmp_path):
    config = small_config()
    run = make_run(tmp_path / "run", config, 1)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    for output in (tmp_path / "there", tmp_path / "there" / "mine.txt"):
        with pytest.raises(UserError, match=f"--output={output}: is there"):
            export_run(run, config, checkpoint="best", output=output)
    with pytest.raises(UserError, match="no checkpoint '9'"):
        export_run(run, config, checkpoint="9", output=tmp_path / "new")
    assert not (tmp_path / "new").exists()
