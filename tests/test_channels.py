"""Images of four channels from training to prediction, in the test's process."""

import json

import numpy as np
import pytest
import tifffile
from launched import run_here
from made_files import noise, save
from made_runs import make_run, predict_files, small_config
from pictures import _no_pictures as _no_pictures
from PIL import Image

from unet_jax.core.errors import EXIT_USER_ERROR
from unet_jax.data.files.masks import read_mask

FIELDS = (
    "--config=configs/folder.py",
    "--config.model.width=4",
    "--config.model.depth=1",
    "--config.data.size=16",
    "--config.batch_size=4",
    "--config.num_epochs=1",
)


def write_tif(path, pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unspecified"])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("channels")
    for i in range(8):
        mask = noise((16, 16), below=2, seed=i)
        pixels = noise((16, 16, 4), seed=i)
        pixels[..., 3] = mask * 200  # only the fourth channel shows the mask
        write_tif(folder / f"data/images/{i}.tif", pixels)
        save(folder / f"data/masks/{i}.png", mask * 255)
    return folder


@pytest.mark.slow
def test_four_channels_are_trained_inspected_predicted_and_exported(root):
    arguments = (*FIELDS, f"--config.data.root={root / 'data'}", f"--workdir={root / 'run'}")
    code, output = run_here(*arguments)
    assert code == 0, output
    names = ["red", "green", "blue", "channel 4"]
    assert f"note         images have 4 channels: {', '.join(names)}" in output
    report = json.loads((root / "run/report.json").read_text())
    assert report["channels"] == names
    assert "images have 4 channels" in (root / "run/report.md").read_text()
    code, output = run_here(*arguments, "--mode=inspect")
    assert code == 0, output
    assert json.loads((root / "run/inspection.json").read_text())["channels"] == names
    run = f"--workdir={root / 'run'}"
    files = (f"--input={root / 'data/images'}", f"--output={root / 'masks'}", "--overlays")
    code, output = run_here(run, "--mode=predict", *files)
    assert code == 0, output
    assert tifffile.imread(root / "masks/7.tif").shape == (16, 16)
    code, output = run_here(run, "--mode=export", f"--output={root / 'exported'}")
    assert code == 0, output
    assert "[n, h, w, 4]" in (root / "exported/network.json").read_text()


def test_prediction_takes_files_with_the_channels_of_the_training_images(tmp_path, capsys):
    config = small_config(model__depth=1)
    run, folder = make_run(tmp_path / "run", config, 4), tmp_path / "in"
    stack = noise((3, 4, 16, 16))
    write_tif(folder / "a.tif", np.moveaxis(stack[1], 0, -1))
    options = {"photometric": "minisblack", "metadata": {"axes": "ZCYX"}, "imagej": True}
    tifffile.imwrite(folder / "stack.tif", stack, **options)
    save(folder / "rgb.png", noise((16, 16, 3)))
    save(folder / "grey.png", noise((16, 16)))
    write_tif(folder / "float.tif", noise((16, 16, 4)).astype(np.float32))
    assert predict_files(run, config, folder, tmp_path / "out", overlays=True) == 3
    errors = capsys.readouterr().err
    assert "rgb.png: 3 channels; the training images have 4" in errors
    assert "grey.png: 1 channel; the training images have 4" in errors
    assert "float.tif: pixels of type float32" in errors
    masks = tifffile.imread(tmp_path / "out/stack.tif")
    assert masks.shape == (3, 16, 16)
    np.testing.assert_array_equal(masks[1], tifffile.imread(tmp_path / "out/a.tif"))
    assert (tmp_path / "out/overlays/stack/0002.png").exists()


def test_masks_lie_as_viewers_show_the_image(tmp_path):
    config = small_config(model__depth=1)
    run, pixels = make_run(tmp_path / "run", config, 3), noise((16, 12, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = np.ascontiguousarray(np.rot90(pixels, -1))
    save(tmp_path / "in/turned.png", pixels, exif=exif)
    save(tmp_path / "in/upright.png", upright)
    tags = [(274, 3, 1, 6, True)]
    tifffile.imwrite(tmp_path / "in/stored.tif", pixels, photometric="rgb", extratags=tags)
    assert predict_files(run, config, tmp_path / "in", tmp_path / "out", overlays=True) == 0
    expected = read_mask(tmp_path / "out/upright.png")
    assert expected.shape == (12, 16)
    for name in ("turned.png", "stored.tif"):
        np.testing.assert_array_equal(read_mask(tmp_path / "out" / name), expected)


@pytest.mark.parametrize("name", ["hue", "saturation", "randaugment"])
def test_transforms_of_colours_are_refused_before_training(root, name):
    arguments = (*FIELDS, f"--config.data.root={root / 'data'}", f"--workdir={root / 'other'}")
    code, output = run_here(*arguments, f"--config.data.augment=('flip', '{name}')")
    assert code == EXIT_USER_ERROR
    line = output.splitlines()[-1]
    assert f"data.augment: {name} changes colours of RGB images" in line
    assert "4 channels (red, green, blue, channel 4); leave it out" in line
    assert not (root / "other").exists()
