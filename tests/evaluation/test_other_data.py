"""A finished run scores any labelled folder, and its own report stays as it is."""

import json
import re

import numpy as np
import pytest
from launched import refused, run_here
from made_cases import write_case
from made_files import noise, save
from made_runs import make_run, small_config
from pictures import _no_pictures as _no_pictures

from unet_jax.core.files import write_json


def make(folder, channels=1, names=("membrane", "cell"), **fields):
    """A run of other data, which are gone, with a report of its own."""
    config = small_config(data__root="/gone", model__dtype="float32", **fields)
    make_run(folder, config, channels, calm=True)
    write_json(folder / "report.json", {"split": "test"})
    content = {"train": ["a"], "validation": [], "test": []} | ({"classes": names} if names else {})
    write_json(folder / "split.json", content)
    return folder


def score(run, root, *more):
    code, output = run_here("--mode=eval", f"--workdir={run}", f"--data={root}", *more)
    assert code == 0, output
    return output


def listing(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_all_images_of_a_folder_are_scored(tmp_path):
    run, root = make(tmp_path / "run"), tmp_path / "clinic B"
    write_case(root, (0, 255, 255))
    before, data = listing(run), listing(root)
    output = score(run, root, "--checkpoint=last")
    assert "mask value 255 = cell" in output
    report = json.loads((run / "report-data-clinic B-last.json").read_text())
    assert report["split"] == "data-clinic B"
    assert report["classes"] == ["membrane", "cell"]
    assert list(report["per_image"]) == [f"case{i:02d}" for i in range(10)]
    assert any(str(root) in note for note in report["notes"])
    assert "clinic B" in (run / "report-data-clinic B-last.html").read_text()
    after = listing(run)
    assert {path: after[path] for path in before} == before
    new = {path.name for path in after.keys() - before.keys()}
    assert all(name.startswith("report-data-clinic B-last") for name in new)
    assert listing(root) == data


@pytest.mark.slow
def test_symmetries_and_ensembles_score_it_too(tmp_path):
    runs = [make(tmp_path / f"run{i}", data__augment=("mirror",)) for i in range(2)]
    root = tmp_path / "data"
    write_case(root / "test", (0, 1, 1))
    score(runs[0], root / "test", "--tta", f"--ensemble={runs[1]}", "--checkpoint=7")
    assert (runs[0] / "report-data-test-7-ensemble2-tta.json").exists()
    line = refused("--mode=eval", f"--workdir={runs[0]}", f"--data={root}")
    assert "has the splits test/; name a folder that has one of them as images/" in line


@pytest.mark.slow
def test_a_folder_may_lack_classes_and_colours(tmp_path):
    fields = {"model__classes": 3, "loss__name": "cross_entropy"}
    run, root = make(tmp_path / "run", 3, ("sky", "road", "tree"), **fields), tmp_path / "data"
    write_case(root, (0, 2, 2))  # grey images, for a run of colours
    assert "no pixel of road" in score(run, root, "--checkpoint=last")
    report = json.loads((run / "report-data-data-last.json").read_text())
    assert report["classes"] == ["sky", "road", "tree"]
    confusion = np.sum(report["confusion"], axis=1)
    assert confusion[1] == 0 < min(confusion[0], confusion[2])


@pytest.mark.parametrize("names", [None, pytest.param(("a", "b", "c"), marks=pytest.mark.slow)])
def test_an_older_run_knows_the_number_of_its_classes(tmp_path, names):
    run, root = make(tmp_path / "run", names=names), tmp_path / "data"
    write_case(root, (0, 255, 255))
    score(run, root, "--checkpoint=last")
    report = json.loads((run / "report-data-data-last.json").read_text())
    assert report["classes"] == ["background", "foreground"]


@pytest.mark.slow
def test_options_of_the_runs_own_folder_hold_unless_the_folder_states_others(tmp_path):
    run = make(tmp_path / "run", names=("background", "foreground"), data__name="folder")
    config = json.loads((run / "config.json").read_text())
    config["config"]["data"]["binary"] = "nonzero"
    write_json(run / "config.json", config)
    root = tmp_path / "data"
    write_case(root, (0, 5, 9))
    assert "mask value 5, 9 = foreground" in score(run, root, "--checkpoint=last")
    (root / "classes.txt").write_text("5 background\n9 foreground\n0 ignored\n")
    assert "mask value 5 = background" in score(run, root, "--checkpoint=last")


def test_what_does_not_suit_the_run_is_one_line(tmp_path):
    run, root = make(tmp_path / "run"), tmp_path / "data"
    write_case(root, (0, 1, 2))
    arguments = "--mode=eval", f"--workdir={run}", f"--data={root}"
    assert re.search(
        "class-0, class-1, class-2, but the run .* has membrane, cell", refused(*arguments)
    )
    write_case(root, (0, 255, 255))
    assert "--split=test" in refused(*arguments, "--split=test")
    assert "nowhere: no such folder" in refused(*arguments[:2], f"--data={tmp_path / 'nowhere'}")
    assert "is not a folder" in refused(*arguments[:2], f"--data={run / 'config.json'}")
    assert "--data" in refused("--mode=predict", f"--data={root}")
    save(root / "images/case00.png", noise((24, 24, 3)))
    assert "case00.png: 3 channels; the training images have 1" in refused(*arguments)
