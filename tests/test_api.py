"""The Python API: it predicts and evaluates what the commands do, and refuses in one line."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from launched import ROOT, run_here
from made_files import noise, save
from made_runs import make_run, small_config
from pictures import _no_pictures as _no_pictures

import unet_jax
from configs import folder as folder_config
from unet_jax import UserError
from unet_jax.core.intensities import Intensities
from unet_jax.data.files.masks import read_mask
from unet_jax.inference.images import to_images


def test_importing_the_package_imports_no_jax():
    code = "import sys, unet_jax; unet_jax.UserError; print('jax' in sys.modules, dir(unet_jax))"
    output = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert output.startswith("False") and "'load_run'" in output
    with pytest.raises(AttributeError, match="module 'unet_jax' has no attribute 'load_rum'"):
        unet_jax.load_rum  # noqa: B018


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """A run on grey images with two classes."""
    config = small_config(data__augment=("flip",), eval__threshold=0.3)
    return make_run(tmp_path_factory.mktemp("runs") / "grey", config, 1, steps=(3, 7), calm=True)


@pytest.fixture(scope="module")
def run(folder) -> unet_jax.Run:
    return unet_jax.load_run(folder)


def predicted_by_the_command(folder, wanted, output, *arguments):
    """Returns the mask file, and probabilities with the axis K last."""
    flags = [f"--workdir={folder}", f"--input={wanted}", f"--output={output}", "--probabilities"]
    code, said = run_here("--mode=predict", *flags, *arguments)
    assert code == 0, said
    probabilities = tifffile.imread(output / "probabilities" / f"{wanted.stem}.tif")
    (mask,) = output.glob(f"{wanted.stem}.*")
    return read_mask(mask) if mask.suffix == ".png" else tifffile.imread(mask), probabilities


def assert_equal(found: unet_jax.Prediction, mask, probabilities) -> None:
    assert (found.mask.dtype, found.probabilities.dtype) == (np.uint8, np.float32)
    np.testing.assert_array_equal(found.mask, mask)
    np.testing.assert_array_equal(found.probabilities, probabilities)
    assert 0 < found.mask.mean() and len(np.unique(found.mask)) > 1


def test_a_prediction_is_that_of_the_command(folder, run, tmp_path):
    """Bit for bit: of a file and of its pixels, whole, in tiles and with TTA."""
    image, path = noise((37, 50)), tmp_path / "a.png"
    save(path, image)
    for number, (arguments, options) in enumerate(
        [([], {}), (["--tile=24"], {"tile": 24}), (["--tta"], {"tta": True})]
    ):
        output = tmp_path / f"out{number}"
        mask, probabilities = predicted_by_the_command(folder, path, output, *arguments)
        for given_image in (path, str(path), image, image[..., None]):
            assert_equal(run.predict(given_image, **options), mask // 255, probabilities)


def test_batches_and_stacks_are_predicted_image_by_image(folder, run, tmp_path):
    stack, path = noise((3, 20, 24), np.uint16), tmp_path / "stack.tif"
    tifffile.imwrite(path, stack, photometric="minisblack")
    mask, probabilities = predicted_by_the_command(folder, path, tmp_path / "out")
    assert mask.shape == stack.shape
    for given_images in (path, stack[..., None], jax.numpy.asarray(stack[..., None])):
        assert_equal(run.predict(given_images), mask // 255, probabilities)
    assert run.predict(stack[:1, ..., None]).mask.shape == (1, 20, 24)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "fields"),
    [
        (3, {"model__classes": 3}),
        (3, {"model__classes": 2, "data__fit": "resize"}),
        (2, {"model__padding": "valid", "data__normalize": "zscore", "data__dtype": "float32"}),
    ],
)
def test_other_runs_predict_what_the_command_does(tmp_path, channels, fields):
    if channels == 2:
        values = {"limits": (0.0, 1.0), "mean": (0.4,), "std": (0.3,)}
        fields = fields | {f"data__{name}": value for name, value in values.items()}
    else:
        fields = fields | {"loss__name": "cross_entropy"}
    folder = make_run(tmp_path / "run", small_config(**fields), channels, calm=True)
    image = noise((37, 50, channels))
    image = (image / np.float32(255)) if channels == 2 else image
    path = tmp_path / "a.tif"
    kind = "rgb" if channels == 3 else "minisblack"
    tifffile.imwrite(path, image, photometric=kind, planarconfig="contig")
    mask, probabilities = predicted_by_the_command(folder, path, tmp_path / "out", "--tile=32")
    if probabilities.ndim == 3:
        probabilities = np.moveaxis(probabilities, 0, -1)
    mask = mask // 255 if probabilities.ndim == 2 else mask
    run = unet_jax.load_run(folder)
    for given_image in (path, image, image.astype(np.float64) if channels == 2 else image):
        assert_equal(run.predict(given_image, tile=32), mask, probabilities)


def test_a_grey_image_for_a_network_of_rgb_is_repeated(tmp_path):
    run = unet_jax.load_run(make_run(tmp_path / "run", small_config(model__depth=1), 3))
    image = noise((8, 9))
    expected = run.predict(np.repeat(image[..., None], 3, axis=2))
    np.testing.assert_array_equal(run.predict(image).probabilities, expected.probabilities)


def test_what_a_run_holds(folder, run, tmp_path):
    assert (run.folder, run.step, run.channels, run.checkpoint) == (folder, 7, 1, "best")
    assert run.classes == ("class-0", "class-1")
    assert run.config.model.width == 3
    assert run.report is None
    assert "kernel" not in repr(run) and "step=7" in repr(run)
    assert unet_jax.load_run(str(folder), checkpoint=3).step == 3
    (folder / "report.json").write_text(json.dumps({"name": "a"}))
    assert run.report == {"name": "a"}
    (folder / "report.json").unlink()
    image = noise((1, 8, 8, 1))
    logits = run.model.apply(run.variables, Intensities.of(run.config.data).network_input(image))
    expected = run.predict(image).probabilities
    np.testing.assert_allclose(jax.nn.sigmoid(logits[..., 0]), expected, atol=1e-5)
    assert unet_jax.build_model(run.config) == run.model


@pytest.mark.parametrize("classes", [1, 3])
def test_a_network_is_built_from_a_config(classes):
    config = folder_config.get_config()
    with pytest.raises(UserError, match=r"model\.classes=0: depends on the data; set it"):
        unet_jax.build_model(config)
    config.model.classes, config.model.name, config.loss.name = classes, "smp_unet", "auto"
    assert unet_jax.build_model(config).classes == classes
    config.model.width = 0
    with pytest.raises(UserError, match=r"^model\.width=0"):
        unet_jax.build_model(config)


def test_a_folder_is_evaluated_as_by_the_command(folder, run, tmp_path):
    for i in range(3):
        image = noise((20, 24), seed=i)
        save(tmp_path / "cells" / "images" / f"{i}.png", image)
        save(tmp_path / "cells" / "masks" / f"{i}.png", (image > 100).astype(np.uint8) * 255)
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match="is now of step 7, not of step 3; load the run again"):
        dataclasses.replace(run, step=3).evaluate(tmp_path / "cells", write=True)
    report = run.evaluate(tmp_path / "cells")
    assert sorted(folder.rglob("*")) == before
    code, said = run_here("--mode=eval", f"--workdir={folder}", f"--data={tmp_path / 'cells'}")
    assert code == 0, said
    written = json.loads((folder / "report-data-cells-best.json").read_text())
    assert json.loads(json.dumps(report)) == written
    (folder / "report-data-cells-best.json").unlink()
    assert run.evaluate(tmp_path / "cells", write=True) == report
    assert json.loads((folder / "report-data-cells-best.json").read_text()) == written
    with pytest.raises(UserError, match=r"--data=.*/absent: no such folder"):
        run.evaluate(tmp_path / "absent")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros(8, np.uint8), r"an array of shape \(8,\); an image is \[H, W\] or \[H, W, 1\]"),
        (np.uint8(7), r"an array of shape \(\); "),
        (np.zeros((0, 8), np.uint8), r"shape \(0, 8\) has no pixels"),
        (np.zeros((0, 8, 8, 1), np.uint8), "has no pixels"),
        (np.zeros((3, 8, 8), np.uint8), r"8 channels; .*; an image is \[H, W\] or \[H, W, 1\], a"),
        (np.zeros((8, 8, 3), np.uint8), "3 channels; the training images have 1"),
        (np.zeros((8, 8), np.float64), r"float32; .* on uint8 or uint16; .*; floats from 0 to 1"),
        (np.full((8, 8), np.nan), "64 pixels are not a number or infinite"),
        (np.zeros((8, 8), np.int64), "pixels of type int64; expected 8, 16 or 32-bit integers"),
        (
            np.zeros((8, 8), np.int16),
            "type int16; the run was trained on uint8 or uint16",
        ),
        (np.array([["a"]]), "pixels of type str"),
        ([[1, 2], [3]], "image: cannot be converted to an array"),
        ("absent.png", "absent.png: no such file"),
        ("tests", "tests: is a folder; give one of its files"),
        ("README.md", "README.md: not a .* image, or damaged"),
    ],
    ids=str,
)
def test_images_that_do_not_suit_the_run_are_refused_in_one_line(run, image, message):
    with pytest.raises(UserError, match=message) as error:
        run.predict(image)
    assert "\n" not in str(error.value)


SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 16]), max_size=5)
KINDS = ("bool", "u1", ">u2", "u4", "i1", "i8", "f2", ">f8", "c8", "O", "U3", "M8[s]")


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    shape=SHAPES,
    kind=st.sampled_from(KINDS),
    channels=st.integers(1, 3),
    dtype=st.sampled_from(["", "int8", "float32"]),
)
def test_any_array_is_a_batch_or_refused_in_one_line(shape, kind, channels, dtype):
    try:
        found = to_images(np.zeros(shape, kind), channels, dtype)
    except UserError as error:
        assert str(error).startswith("image: ") and "\n" not in str(error)
        return
    suits = {"": ("uint8", "uint16"), "int8": ("int8",), "float32": ("float32",)}
    assert found.dtype.name in suits[dtype] and found.dtype.isnative
    assert (found.ndim, found.shape[-1]) == (4, channels) and found.size
    height_and_width = tuple(shape[1:3] if len(shape) == 4 else shape[:2])
    assert found.shape[1:3] == height_and_width


def test_the_network_is_exported(run, tmp_path):
    assert run.export(tmp_path / "out", format="stablehlo").startswith("the network is in")
    assert (tmp_path / "out" / "network.stablehlo").exists()
    with pytest.raises(UserError, match="--format=onx: unknown format; there are bioimageio, onnx"):
        run.export(tmp_path / "other", format="onx")
    with pytest.raises(UserError, match="--cite: --format=onnx does not use it"):
        run.export(tmp_path / "other", cite=["A text, https://a.b"])
    assert not (tmp_path / "other").exists()


def test_a_run_stays_that_of_its_folder(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder.parent)
    run = unet_jax.load_run(folder.name)
    monkeypatch.chdir(tmp_path)
    assert run.folder == folder
    assert run.report is None or run.report["name"]


def test_a_missing_device_is_named_before_a_checkpoint_is_read(folder, monkeypatch):
    def missing(*_):
        raise UserError("JAX cannot compute on tpu")

    monkeypatch.setattr(unet_jax.api.devices, "local_mesh", missing)
    with pytest.raises(UserError, match="JAX cannot compute on tpu"):
        unet_jax.load_run(folder)


def test_a_stack_of_several_sizes_is_refused(run, tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for size in (8, 12):
            file.write(noise((size, size)), contiguous=False)
    with pytest.raises(UserError, match=r"a\.tif: has images of several sizes"):
        run.predict(tmp_path / "a.tif")


def test_what_is_no_run_is_refused(folder, run, tmp_path):
    with pytest.raises(UserError, match=r"has no config\.json, so it is not the folder of a run"):
        unet_jax.load_run(tmp_path)
    with pytest.raises(UserError, match="no checkpoint '5'"):
        unet_jax.load_run(folder, checkpoint=5)
    with pytest.raises(UserError, match="tile=0: must be at least 1 pixel"):
        run.predict(noise((8, 8)), tile=0)
    without = make_run(tmp_path / "run", small_config(data__augment=()), 1)
    with pytest.raises(UserError, match=r"--tta: .* neither mirrors nor rotates"):
        unet_jax.load_run(without).predict(noise((8, 8)), tta=True)


@pytest.mark.slow
def test_a_real_slice(real_data, run):
    path = real_data / "isbi/test-volume.tif"
    found = run.predict(path, tile=256)
    assert found.mask.shape == found.probabilities.shape == (30, 512, 512)
    first = run.predict(tifffile.imread(path, key=0), tile=256)
    np.testing.assert_allclose(first.probabilities, found.probabilities[0], atol=1e-5)
