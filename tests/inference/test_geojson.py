"""The GeoJSON of a prediction has the mask's regions, exactly."""

import json

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from made_annotations import convert
from made_files import noise, save
from made_runs import make_run, predict_files, small_config

from unet_jax.core.files import read_json, write_json
from unet_jax.data.files.masks import read_mask
from unet_jax.inference import geojson
from unet_jax.inference.outputs import Extras, Outputs
from unet_jax.reporting.colours import palette

NAMES = ("background", "cell", "wall")


def write(tmp_path, ids: list[np.ndarray], source, step: int = 4) -> list[dict]:
    """The features that are written of masks, from probabilities in bands of `step` rows."""
    sizes = [mask.shape for mask in ids]
    options = {"channels": 1, "classes": NAMES, "threshold": 0.5}
    out = Outputs(tmp_path / "out", "a", source, sizes, Extras(geojson=True), **options)
    assert not out.exist()
    with out.opened():
        for mask in ids:
            values = np.eye(3, dtype=np.float32)[mask]
            out.write(mask.shape, iter(np.split(values, range(step, len(mask), step))))
    assert out.exist()
    content = json.loads((tmp_path / "out/a.geojson").read_text())
    assert content["type"] == "FeatureCollection"
    return content["features"]


@settings(max_examples=10, deadline=None)
@given(size=st.tuples(st.integers(1, 12), st.integers(1, 12)), seed=st.integers(0, 2**20))
def test_it_converts_back_to_the_mask(tmp_path_factory, size, seed):
    tmp_path = tmp_path_factory.mktemp("geojson")
    mask = noise(size, seed=seed, below=3)
    mask[0, 0] = 1  # a mask without an object cannot be converted alone
    image = save(tmp_path / "images/a.png", noise(size))
    features = write(tmp_path, [mask], image)
    names = sorted({entry["properties"]["classification"]["name"] for entry in features})
    assert names == sorted(NAMES[i] for i in np.unique(mask) if i)
    labels = tmp_path / "out/a.geojson"
    assert convert("qupath", labels, tmp_path / "back", f"--images={image.parent}") == 0
    expected = mask if "cell" in names else (mask > 0).astype(np.uint8)
    np.testing.assert_array_equal(read_mask(tmp_path / "back/masks/a.png"), expected)


def test_a_feature_is_an_annotation_of_qupath(tmp_path):
    mask = np.zeros((5, 6), np.uint8)
    mask[1:4, 1:5], mask[2, 2:4] = 2, 0
    (feature,) = write(tmp_path, [mask], save(tmp_path / "a.png", noise(mask.shape)))
    assert feature == {
        "type": "Feature",
        "geometry": {
            "type": "Polygon",
            "coordinates": [
                [[1, 1], [5, 1], [5, 4], [1, 4], [1, 1]],
                feature["geometry"]["coordinates"][1],
            ],
        },
        "properties": {
            "objectType": "annotation",
            "classification": {"name": "wall", "color": palette()[2].tolist()},
        },
    }
    hole = feature["geometry"]["coordinates"][1]
    assert hole[0] == hole[-1]
    assert sorted(hole[1:]) == [[2, 2], [2, 3], [4, 2], [4, 3]]


def test_regions_of_a_stack_state_their_page(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", noise((3, 8, 9)), photometric="minisblack")
    masks = [np.full((8, 9), i, np.uint8) for i in (1, 0, 2)]
    features = write(tmp_path, masks, tmp_path / "a.tif")
    assert [entry["geometry"]["plane"]["z"] for entry in features] == [0, 2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return make_run(folder, small_config(), channels=1)


def test_a_missing_file_is_made_and_names_are_those_of_the_run(run, tmp_path, capsys):
    save(tmp_path / "in/a.png", noise((12, 12)))
    output, options = tmp_path / "out", {"probabilities": False, "geojson": True}
    predict_files(run, small_config(), tmp_path / "in", output, **options | {"geojson": False})
    assert not (output / "a.geojson").exists()
    mask = read_mask(output / "a.png")
    assert 0 < (mask > 0).mean() < 1

    def names() -> set[str]:
        features = read_json(output / "a.geojson")["features"]
        return {entry["properties"]["classification"]["name"] for entry in features}

    predict_files(run, small_config(), tmp_path / "in", output, **options)
    assert names() == {"class-1"}  # an earlier version recorded no names
    write_json(run / "split.json", {"classes": ["around", "cell of É"]})
    (output / "a.geojson").unlink()
    predict_files(run, small_config(), tmp_path / "in", output, **options)
    assert names() == {"cell of É"}
    capsys.readouterr()
    predict_files(run, small_config(), tmp_path / "in", output, **options)
    assert "1 of 1 files already have their outputs" in capsys.readouterr().out
    np.testing.assert_array_equal(read_mask(output / "a.png"), mask)


def test_a_mask_too_large_to_outline_is_one_line(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(geojson, "MAX_PIXELS", 200)
    save(tmp_path / "in/a.png", noise((20, 12)))
    save(tmp_path / "in/b.png", noise((12, 12)))
    assert predict_files(run, small_config(), tmp_path / "in", tmp_path / "out", geojson=True) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "a.png: 12x20 pixels; --geojson takes masks of at most 200 pixels" in lines[0]
    assert (tmp_path / "out/b.geojson").exists()
    assert not (tmp_path / "out/a.png").exists()
