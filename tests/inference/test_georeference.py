"""Masks lie where their images do: the tags of GeoTIFF and the resolution come back."""

import warnings

import numpy as np
import pytest
import tifffile
from made_files import noise
from made_runs import make_run, predict_files, small_config

from unet_jax.data.files import pages
from unet_jax.inference.outputs import Extras, Outputs

GEO = {
    33550: (12, 3, (0.5, 0.25, 0.0)),
    33922: (12, 6, (0.0, 0.0, 0.0, 440720.0, 3751320.1, 0.0)),
    34735: (3, 12, (1, 1, 0, 2, 1024, 0, 1, 1, 1026, 34737, 7, 0)),
    34736: (12, 1, (6378137.0,)),
    34737: (2, 8, "WGS 84|"),
}
TRANSFORM = {34264: (12, 16, tuple(float(i) for i in range(16)))}
RESOLUTION = {"resolution": ((72, 1), (30001, 417)), "resolutionunit": "CENTIMETER"}
KEPT = (282, 283, 296, *GEO, *TRANSFORM)


def write(path, tags, images=1, side=(20, 16), **options):
    extra = [(code, *entry, False) for code, entry in tags.items()]
    options = {"photometric": "minisblack", "metadata": None, "contiguous": False} | options
    with tifffile.TiffWriter(path) as file:
        for seed in range(images):
            file.write(noise(side, seed=seed), extratags=extra, **options)
    return path


def tags_of(path) -> list[dict]:
    """The tags of each page that a mask keeps; warnings of tifffile are errors."""
    with warnings.catch_warnings(), tifffile.TiffFile(path) as file:
        warnings.simplefilter("error")
        found = [page.aspage().tags for page in file.pages]
        return [
            {code: (tags[code].dtype, tags[code].count, tags[code].value)
             for code in KEPT if code in tags}
            for tags in found
        ]  # fmt: skip


def masks_of(source, tmp_path, classes=1):
    sizes = pages.scan_pages(source)
    extras, names = Extras(probabilities=True), "abc"[: max(2, classes)]
    out = Outputs(
        tmp_path / "out", "a", source, sizes, extras, classes=names, channels=1, threshold=0.5
    )
    with out.opened():
        for size in sizes:
            out.write(size, [np.full((*size, classes), 0.7, np.float32)])
    return tmp_path / "out/a.tif", tmp_path / "out/probabilities/a.tif"


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("tags", [GEO, TRANSFORM | {34735: GEO[34735]}, {}])
@pytest.mark.parametrize("images", [1, 3])
def test_tags_and_resolution_come_back(tmp_path, tags, images, classes, caplog):
    source = write(tmp_path / "a.tif", tags, images, **RESOLUTION)
    expected = tags_of(source)
    assert expected[0].keys() == {282, 283, 296, *tags}
    for path in masks_of(source, tmp_path, classes):
        assert tags_of(path) == expected
    assert not caplog.records


def test_a_streamed_prediction_keeps_them(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "MAX_PIXELS", 300)
    config = small_config()
    run = make_run(tmp_path / "run", config, 1)
    source = write(tmp_path / "big.tif", GEO, side=(40, 24), rowsperstrip=8, **RESOLUTION)
    assert predict_files(run, config, source, tmp_path / "out", side=16) == 0
    for path in ("big.tif", "probabilities/big.tif"):
        assert tags_of(tmp_path / "out" / path) == tags_of(source)
    with tifffile.TiffFile(tmp_path / "out/big.tif") as file:
        assert file.is_geotiff
        assert file.pages.first.geotiff_tags["ModelPixelScale"] == [0.5, 0.25, 0.0]


@pytest.mark.parametrize(
    ("tags", "options"),
    [
        ({33550: (2, 5, "0.5m")}, {}),
        ({34735: (12, 1, (1.0,))}, {}),
        ({34737: (2, 0, "zone é|".encode())}, {}),
        ({}, {"resolution": ((0, 1), (5, 1)), "resolutionunit": "INCH"}),
        ({42113: (2, 2, "0")}, {}),
    ],
)
def test_tags_that_break_the_standard_cost_no_mask(tmp_path, tags, options):
    source = write(tmp_path / "a.tif", tags, **options)
    mask, _ = masks_of(source, tmp_path)
    assert tifffile.imread(mask).min() == 255
    with tifffile.TiffFile(mask) as file:
        assert 42113 not in file.pages.first.tags
