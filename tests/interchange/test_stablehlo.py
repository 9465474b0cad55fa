"""An exported network beside `predict`, and without this project."""

import contextlib
import datetime
import errno
import json
import os
import pathlib
import runpy
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from made_files import noise
from made_runs import make_run, predict_files, small_config

from unet_jax import models
from unet_jax.core.errors import UserError
from unet_jax.interchange import stablehlo_loader
from unet_jax.interchange.stablehlo import export_run
from unet_jax.interchange.stablehlo_loader import load

SIZES = [(1, 1), (37, 20)]
SIGNED = {"data__normalize": "percentile", "data__limits": (-300.0, 200.0), "data__dtype": "int16"}
FLOAT = {
    "data__normalize": "zscore", "data__dtype": "float32", "data__limits": (0.0, 1.0) * 2,
    "data__mean": (0.2, 0.7), "data__std": (0.3, 0.1),
}  # fmt: skip


def stored(shape, dtype, seed):
    if dtype == np.float32:
        return np.random.default_rng(seed).random(shape, np.float32)
    return (
        noise(shape, np.uint16, seed).view(dtype)
        if dtype == np.int16
        else noise(shape, dtype, seed)
    )


@pytest.mark.parametrize(
    ("channels", "dtype", "fields"),
    [
        (1, np.uint8, {"model__padding": "valid", "model__norm": "none", "eval__threshold": 0.3}),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (3, np.uint16, {"model__classes": 3, "data__input_range": "unit"}),
                (1, np.uint16, {"model__upsample": "bilinear", "model__norm": "group"}),
                (1, np.uint8, {"model__upsample": "bilinear_corners"}),
                (3, np.uint8, {"model__classes": 2, "eval__threshold": 0.3, "model__width": 12}),
                *((3, np.uint8, {"model__name": x, "model__depth": 2}) for x in models.NETWORKS),
                (1, np.uint8, {"model__deep_supervision": True, "model__depth": 2}),
                (1, np.int16, SIGNED),
                (2, np.float32, FLOAT | {"data__fit": "resize"}),
                (1, np.uint16, {"model__name": "unet2", "data__fit": "resize", "model__depth": 2}),
            )
        ),
    ],
    ids=lambda x: "-".join(map(str, x.values())) if isinstance(x, dict) else None,
)
def test_an_exported_network_gives_what_predict_gives(tmp_path, channels, dtype, fields):
    config = small_config(**{"model__depth": 1} | fields)
    # A resized pixel may be rounded up there, and down here.
    tolerance = 1e-2 if config.data.fit == "resize" else 1e-4
    run = make_run(tmp_path / "run", config, channels, calm=True)
    export_run(run, config, checkpoint="best", output=tmp_path / "exported")
    network = load(tmp_path / "exported" / "network.stablehlo")
    images = {size: [stored((*size, channels), dtype, seed) for seed in range(2)] for size in SIZES}
    (tmp_path / "in").mkdir()
    for size, pair in images.items():
        for i, image in enumerate(pair):
            kind = "rgb" if channels == 3 else "minisblack"
            pixels = image[..., 0] if channels == 1 else image
            path = tmp_path / "in" / f"{size}-{i}.tif"
            tifffile.imwrite(path, pixels, photometric=kind, planarconfig="contig")
    predict_files(run, config, tmp_path / "in", tmp_path / "out")
    for size, pair in images.items():
        masks, probabilities = network(np.stack(pair))
        assert (masks.dtype, probabilities.dtype) == (np.uint8, np.float32)
        for i in range(2):
            expected = tifffile.imread(tmp_path / "out" / "probabilities" / f"{size}-{i}.tif")
            found = probabilities[i]
            if config.model.classes <= 2:
                found = found[..., -1]
            else:
                found = np.moveaxis(found, -1, 0)
            np.testing.assert_allclose(found, expected.reshape(found.shape), atol=tolerance)
            mask = tifffile.imread(tmp_path / "out" / f"{size}-{i}.tif").reshape(size)
            mask = mask // 255 if config.model.classes <= 2 else mask
            limit = config.eval.threshold if config.model.classes <= 2 else 0.5
            top_two = np.sort(probabilities[i], axis=-1)[..., -2:]
            close = (
                abs(probabilities[i, ..., -1] - limit) < 2 * tolerance
                if config.model.classes <= 2
                else top_two[..., 1] - top_two[..., 0] < 2 * tolerance
            )
            np.testing.assert_array_equal(masks[i][~close], mask[~close])
            assert close.mean() < 0.5 or mask.size == 1


@pytest.mark.slow
def test_the_loader_needs_nothing_of_this_project(tmp_path):
    config = small_config()
    run = make_run(tmp_path / "run", config, 1)
    export_run(run, config, checkpoint="best", output=tmp_path / "exported")
    contract = json.loads((tmp_path / "exported" / "network.json").read_text())
    assert contract["step"] == 7
    assert contract["input"]["images"].startswith("uint16 [n, h, w, 1]")
    assert contract["platforms"] == ["cpu", "cuda", "tpu"]
    assert contract["window"] == {"multiple": 4, "margin": 20, "trained_on": 16}
    assert datetime.date.fromisoformat(contract["date"])
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
    assert len([line for line in lines if line.strip()]) <= 55


def test_another_folder_is_not_written_over(tmp_path):
    config = small_config()
    run = make_run(tmp_path / "run", config, 1)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    for output in (tmp_path / "there", tmp_path / "there" / "mine.txt"):
        with pytest.raises(UserError, match=f"--output={output}: exists"):
            export_run(run, config, checkpoint="best", output=output)
    with pytest.raises(UserError, match="no checkpoint '9'"):
        export_run(run, config, checkpoint="9", output=tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run", small_config(), 1)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> pathlib.Path:
    output = tmp_path_factory.mktemp("exports") / "exported"
    export_run(run, small_config(), checkpoint="best", output=output)
    return output


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Killed(BaseException):
    """As SIGKILL: nothing is tidied up."""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["write 1", "write 3", "kill 0", "kill 2"])
def test_an_export_that_was_cut_short_is_made_whole_by_the_same_command(
    run, exported, tmp_path, monkeypatch, end
):
    """A disk that fills up while a file is written; a kill before one gets its name."""
    what, count = end.split()
    calls, output = [], tmp_path / "out"

    def full(self, data):
        calls.append(None)
        pathlib.Path(self).touch()
        if len(calls) == int(count):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original_write(self, data)

    def killed(source, target):
        if len(calls) == int(count):
            raise Killed
        calls.append(None)
        original_replace(source, target)

    original_write, original_replace = pathlib.Path.write_bytes, os.replace
    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        if what == "write":
            patch.setattr(pathlib.Path, "write_bytes", full)
            said = r"out: cannot be written \(no space .*\); nothing was exported; .* rerun"
            with pytest.raises(UserError, match=said):
                export_run(run, small_config(), checkpoint="best", output=output)
        else:
            patch.setattr(os, "replace", killed)
            patch.setattr(pathlib.Path, "unlink", lambda *_, **__: None)
            export_run(run, small_config(), checkpoint="best", output=output)
    assert "network.json" not in contents(output)
    assert (what == "kill") == bool(contents(output))
    export_run(run, small_config(), checkpoint="best", output=output)
    assert contents(output).keys() == contents(exported).keys()
    again, once = (
        json.loads((folder / "network.json").read_text()) for folder in (output, exported)
    )
    assert again | {"date": ""} == once | {"date": ""}  # one was made before midnight, perhaps
    masks, _ = load(output / "network.stablehlo")(noise((1, 8, 8, 1)))
    assert masks.shape == (1, 8, 8)
    with pytest.raises(UserError, match="exists and has files"):
        export_run(run, small_config(), checkpoint="best", output=output)


@pytest.mark.parametrize("name", ["load.py", "network.json", ".hidden"])
def test_a_file_of_the_name_of_an_export_is_not_written_over(run, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match="exists and has files"):
        export_run(run, small_config(), checkpoint="best", output=tmp_path)
    assert contents(tmp_path) == {name: b"mine"}


@pytest.mark.parametrize("output", ["file/below", "x" * 300])
def test_a_folder_that_cannot_be_made_is_one_line(run, tmp_path, output):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--output=.*: cannot be written \("):
        export_run(run, small_config(), checkpoint="best", output=tmp_path / output)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.random.default_rng(0).random((2, 8, 8, 1)), "type float64; expected uint8 or uint16"),
        (np.zeros((2, 8, 8, 1), np.float32), "type float32"),
        (np.zeros((2, 8, 8, 1), bool), "type bool"),
        (np.zeros((2, 8, 8, 1), np.int32), "type int32"),
        (np.zeros((2, 8, 8, 1), np.uint32), "type uint32"),
        (np.zeros((2, 8, 8, 1), np.int8), "type int8"),
        (np.zeros((8, 8), np.uint8), r"shape \(8, 8\); expected \[N, H, W, 1\]"),
        (np.zeros((2, 8, 8), np.uint8), r"shape \(2, 8, 8\); expected"),
        (np.zeros((8, 8, 1), np.uint8), r"shape \(8, 8, 1\); expected"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"shape \(2, 8, 8, 3\); expected"),
        (np.zeros((1, 2, 8, 8, 1), np.uint8), r"shape \(1, 2, 8, 8, 1\); expected"),
        (np.uint8(7), r"shape \(\); expected"),
        (np.zeros((0, 8, 8, 1), np.uint8), r"shape \(0, 8, 8, 1\): there are no pixels"),
        (np.zeros((2, 0, 8, 1), np.uint16), r"shape \(2, 0, 8, 1\): there are no pixels"),
    ],
    ids=lambda x: f"{x.dtype}{x.shape}" if hasattr(x, "dtype") else "",
)
def test_images_that_the_network_does_not_take_are_refused_in_one_line(exported, images, said):
    with pytest.raises(ValueError, match=said) as error:
        load(exported / "network.stablehlo")(images)
    assert "\n" not in str(error.value)


def test_pixels_of_the_other_byte_order_are_the_same_images(exported):
    network, images = load(exported / "network.stablehlo"), noise((1, 8, 8, 1), np.uint16)
    for expected, found in zip(network(images), network(images.astype(">u2")), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_the_program_says_in_one_line_what_is_wrong(exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("floats.npy", np.zeros((1, 8, 8, 1)))
    np.save("good.npy", np.zeros((1, 8, 8, 1), np.uint8))
    np.save("objects.npy", np.array([None]), allow_pickle=True)
    np.savez("many.npz", np.zeros(3))
    pathlib.Path("cut.npy").write_bytes(pathlib.Path("good.npy").read_bytes()[:150])
    for name, content in (("empty.npy", b""), ("other.npy", b"no array"), ("zip.npz", b"PK\3\4")):
        pathlib.Path(name).write_bytes(content)
    cases = {
        (): "usage: python load.py images.npy masks.npy",
        ("good.npy",): "usage: ",
        ("good.npy", "masks.npy", "more"): "usage: ",
        ("absent.npy", "masks.npy"): "error: absent.npy: cannot be read as .npy",
        ("floats.npy", "masks.npy"): "error: images of type float64; expected uint8",
        ("good.npy", "nowhere/masks.npy"): "error: ",
    }
    for name in ("cut.npy", "empty.npy", "other.npy", "objects.npy", "zip.npz", "many.npz", "."):
        cases[(name, "masks.npy")] = f"error: {name}: cannot be read as .npy"
    for arguments, said in cases.items():
        monkeypatch.setattr(sys, "argv", ["load.py", *arguments])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(exported / "load.py"), run_name="__main__")
        assert str(end.value).startswith(said)
        assert "\n" not in str(end.value)
    assert not pathlib.Path("masks.npy").exists()
    assert (exported / "load.py").read_bytes() == pathlib.Path(
        stablehlo_loader.__file__
    ).read_bytes()
