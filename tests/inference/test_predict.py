"""Predictions of files: bad files, stacks, signals, large images, and agreement with evaluation."""

import pathlib
import signal

import jax
import numpy as np
import pytest
import tifffile
from made_files import noise, save
from made_runs import make_run, predict_files, random_variables, small_config

from unet_jax import models
from unet_jax.core.intensities import Intensities
from unet_jax.core.stop import Interrupted
from unet_jax.data.dataset import Dataset, Split
from unet_jax.data.files.images import read_image
from unet_jax.data.files.masks import read_mask
from unet_jax.data.files.pages import TiffPage
from unet_jax.distributed import devices
from unet_jax.evaluation.evaluator import Evaluator
from unet_jax.inference import cut as cut_module
from unet_jax.inference import predict as predict_module
from unet_jax.inference.ensemble import single_network
from unet_jax.inference.outputs import Outputs
from unet_jax.runs.progress import PixelProgress


@pytest.mark.parametrize("fit", ["crop", "resize"])
def test_what_is_too_wide_for_any_band_is_refused(run, tmp_path, monkeypatch, capsys, fit):
    monkeypatch.setattr(cut_module, "BAND_BYTES", 2**12)
    save(tmp_path / "in/a.png", noise((64, 300)))
    save(tmp_path / "in/b.png", noise((12, 12)))
    config = small_config(data__fit=fit)
    assert predict_files(run, config, tmp_path / "in", tmp_path / "out", side=32) == 1
    assert "300 pixels wide; a band of tiles of this width takes more" in capsys.readouterr().err
    assert (tmp_path / "out/b.png").exists()


def test_one_file_that_takes_all_memory_costs_no_other(run, tmp_path, monkeypatch, capsys):
    for name in "abc":
        save(tmp_path / f"in/{name}.png", noise((12, 12)))
    original = Outputs.write

    def write(self, *arguments):
        if self._source.stem == "b":
            raise MemoryError("Unable to allocate 128. GiB")
        original(self, *arguments)

    monkeypatch.setattr(Outputs, "write", write)
    assert predict_files(run, small_config(), tmp_path / "in", tmp_path / "out") == 1
    assert "b.png: there is not enough memory for it (Unable" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["a.png", "c.png"]


def test_a_signal_while_headers_are_read_ends_it(run, tmp_path, monkeypatch):
    save(tmp_path / "in/a.png", noise((12, 12)))
    save(tmp_path / "in/b.png", noise((12, 12)))
    scanned = []

    def scan(path):
        scanned.append(path)
        signal.raise_signal(signal.SIGTERM)
        return [(12, 12)]

    monkeypatch.setattr(predict_module, "scan_pages", scan)
    with pytest.raises(Interrupted):
        predict_files(run, small_config(), tmp_path / "in", tmp_path / "out")
    assert len(scanned) == 1


SIZES = [(20, 24), (24, 20), (17, 19), (30, 22), (21, 24), (20, 24), (9, 8)]


@pytest.mark.parametrize(
    ("fit", "padding", "channels", "classes"),
    [
        ("crop", "same", 3, 1),
        pytest.param("crop", "valid", 1, 3, marks=pytest.mark.slow),
        pytest.param("resize", "same", 1, 2, marks=pytest.mark.slow),
    ],
)
def test_a_prediction_is_what_evaluation_predicts(tmp_path, fit, padding, channels, classes):
    """Of more sizes than evaluation has shapes, so that some are padded."""
    fields = {"data__fit": fit, "model__padding": padding, "model__classes": classes}
    fields["model__depth"] = 1
    config = small_config(**fields)
    for i, size in enumerate(SIZES):
        shape = size if channels == 1 else (*size, channels)
        save(tmp_path / f"in/{i}.{'bmp' if i % 2 else 'png'}", noise(shape, seed=i))
    paths = sorted((tmp_path / "in").iterdir())
    labels = [np.zeros(size, np.uint8) for size in SIZES]
    split = Split(
        names=tuple(path.name for path in paths),
        sizes=tuple(SIZES),
        read=lambda i: (read_image(paths[i], channels), labels[i]),
    )
    names = tuple(map(str, range(max(2, classes))))
    dataset = Dataset({"test": split}, names, channels, {})
    mesh = devices.local_mesh(jax.devices()[:2])
    config.loss.name = "bce" if classes == 1 else "cross_entropy"
    network = single_network(models.build(**config.model), Intensities.of(config.data))
    evaluator = Evaluator(config, dataset, network, mesh)
    variables = devices.replicate(random_variables(config, channels, seed=7), mesh)

    run = make_run(tmp_path / "run", config, channels)
    assert predict_files(run, config, tmp_path / "in", tmp_path / "out", devices=2) == 0
    scores = list(evaluator.scores(variables, split, shown=range(len(SIZES))))
    assert len(scores) == len(SIZES)
    for score in scores:
        mask = read_mask(tmp_path / f"out/{score.index}.png")
        assert mask.shape == SIZES[score.index]
        factor = 255 if classes < 3 else 1
        np.testing.assert_array_equal(mask, score.prediction * factor)
    for index, expected, _ in evaluator.predictions(variables, split):
        found = tifffile.imread(tmp_path / f"out/probabilities/{index}.tif")
        if fit == "crop":
            planes = np.moveaxis(expected, -1, 0)
            np.testing.assert_allclose(found, planes if classes > 2 else planes[-1], atol=1e-5)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    return make_run(folder, small_config(), channels=1, steps=(3, 7))


def test_a_stack_of_16_bits_is_predicted_page_by_page(run, tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(PixelProgress, "advance", lambda _, pixels, name: done.append(pixels))
    stack = noise((5, 40, 30), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    for i, image in enumerate(stack):
        save(tmp_path / f"one/{i}.png", image)
    config = small_config()
    for wanted, output in (("a.tif", "out"), ("one", "each")):
        assert not predict_files(run, config, tmp_path / wanted, tmp_path / output, side=24)
    assert sum(done) == 2 * stack.size
    masks = tifffile.imread(tmp_path / "out/a.tif")
    probabilities = tifffile.imread(tmp_path / "out/probabilities/a.tif")
    assert masks.shape == probabilities.shape == stack.shape
    assert 0 < (masks == 255).mean() < 1
    np.testing.assert_array_equal(masks, (probabilities > 0.5) * 255)
    for i in range(5):
        np.testing.assert_array_equal(masks[i], read_mask(tmp_path / f"each/{i}.png"))


def test_bad_files_are_named_and_the_others_are_predicted(run, tmp_path, capsys):
    folder = tmp_path / "in"
    for name in ("a", "c", "e"):
        save(folder / f"{name}.png", noise((12, 12), seed=1))
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:60])  # the header is whole
    save(folder / "d.png", noise((12, 12, 3)))
    (folder / "f.png").write_text("no image")
    tifffile.imwrite(
        folder / "g.tif", noise((3, 40, 40)), photometric="minisblack", compression="zlib"
    )
    content = bytearray((folder / "g.tif").read_bytes())
    with tifffile.TiffFile(folder / "g.tif") as file:
        begin = file.pages[2].dataoffsets[0]
    content[begin : begin + 50] = bytes(50)
    (folder / "g.tif").write_bytes(content)
    config, output = small_config(eval__batch_size=2), tmp_path / "out"
    assert predict_files(run, config, folder, output, side=24) == 4
    there = sorted(p.relative_to(output).as_posix() for p in output.rglob("*") if p.is_file())
    extras = [f"probabilities/{name}.tif" for name in "ace"]
    assert there == ["a.png", "c.png", "e.png", "prediction.json", *extras]
    out, err = capsys.readouterr()
    assert [line.split(": ")[1] for line in sorted(err.splitlines())] == [
        str(folder / name) for name in ("b.png", "d.png", "f.png", "g.tif")
    ]
    assert "3 of 7 files are predicted" in out
    # The same command says it again, and makes what was mended.
    times = {path: path.stat().st_mtime_ns for path in output.glob("*.png")}
    save(folder / "b.png", noise((12, 12), seed=2))
    assert predict_files(run, config, folder, output, side=24) == 3
    assert "3 of 7 files already have their outputs" in capsys.readouterr().out
    assert (output / "b.png").exists()
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    # What was not asked for then is made now.
    assert predict_files(run, config, folder / "a.png", output, side=24, overlays=True) == 0
    assert (output / "overlays/a.png").exists()


def test_a_signal_ends_it_with_whole_files_only(run, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for name in "ab":
        path = tmp_path / f"in/{name}.tif"
        tifffile.imwrite(path, noise((4, 12, 12)), photometric="minisblack")
    original, written = Outputs.write, []

    def write(self, *arguments):
        written.append(self)
        if len(written) == 6:
            signal.raise_signal(signal.SIGTERM)
        original(self, *arguments)

    monkeypatch.setattr(Outputs, "write", write)
    with pytest.raises(Interrupted):
        predict_files(run, small_config(), tmp_path / "in", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").rglob("*.*") if p.is_file()) == [
        "a.tif",
        "a.tif",
        "prediction.json",
    ]
    monkeypatch.setattr(Outputs, "write", original)
    assert predict_files(run, small_config(), tmp_path / "in", tmp_path / "out") == 0
    assert tifffile.imread(tmp_path / "out/b.tif").shape == (4, 12, 12)


def test_a_large_image_is_read_and_written_in_bands(run, tmp_path, monkeypatch):
    """Of 64 bands of tiles no more than a few are in memory at any time."""
    monkeypatch.setattr("unet_jax.data.files.pages.MAX_PIXELS", 32 * 32)
    image = noise((1024, 96), np.uint16)
    tile = {"tile": (16, 16), "compression": "zlib", "photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "a.tif", image, **tile)
    held, read = [], []
    original = TiffPage.rows

    def rows(self, start, stop):
        found = original(self, start, stop)
        read.append((start, stop))
        held.append(len(self._pixels))
        return found

    monkeypatch.setattr(TiffPage, "rows", rows)
    decided = Outputs._decided

    def spied(self, *arguments):
        for band in decided(self, *arguments):
            ahead.append(read[-1][1] - sum(map(len, bands)))
            bands.append(band)
            yield band

    ahead, bands = [], []
    monkeypatch.setattr(Outputs, "_decided", spied)
    config = small_config(eval__batch_size=4)
    assert predict_files(run, config, tmp_path / "a.tif", tmp_path / "out", side=32) == 0
    assert read == sorted(read)
    assert len(read) > 50
    assert max(held) <= 32 + 16
    assert max(ahead) <= 5 * 32
    assert np.concatenate(bands).shape == (1024, 96)
    expected = tifffile.imread(tmp_path / "out/probabilities/a.tif") > 0.5
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out/a.tif"), expected * 255)


@pytest.mark.slow
def test_real_images_of_many_kinds(real_data, tmp_path):
    """ISBI's stack, DRIVE's TIFF, VOC's JPEG: one network of five classes sees them as RGB."""
    images = {
        "stack.tif": real_data / "isbi/test-volume.tif",
        "eye.tif": next((real_data / "drive/test/images").glob("*.tif")),
        "photo.jpg": next((real_data / "voc/VOCdevkit/VOC2012/JPEGImages").glob("*.jpg")),
    }
    (tmp_path / "in").mkdir()
    for name, path in images.items():
        (tmp_path / "in" / name).symlink_to(path.resolve())
    config = small_config(model__classes=5, model__depth=1, model__width=2)
    run, output = make_run(tmp_path / "run", config, channels=3), tmp_path / "out"
    pattern = tmp_path / "i*" / "*.[jt]*"
    assert predict_files(run, config, pattern, output, side=256, probabilities=False) == 0
    found = {path.relative_to(output / "in").as_posix() for path in (output / "in").iterdir()}
    assert found == {"stack.tif", "eye.tif", "photo.png"}
    for name, source in images.items():
        ids = output / "in" / name.replace("jpg", "png")
        ids = tifffile.imread(ids) if ids.suffix == ".tif" else read_mask(ids)
        shape = (30, 512, 512) if name == "stack.tif" else read_image(source, 3).shape[:2]
        assert ids.shape == shape
        assert 1 < len(np.unique(ids)) <= 5
