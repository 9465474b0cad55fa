"""A run in a bucket equals a local one, whatever happens to it, and can be read as one."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import cluster
import emulator
import numpy as np
import pytest
from launched import ROOT, history, in_the_repository, numbers, run_here
from made_data import TINY
from PIL import Image

import unet_jax
from unet_jax.core.bucket import copy_tree, list_objects, upload
from unet_jax.core.files import path_of
from unet_jax.reporting import report, sweep
from unet_jax.runs.checkpoint_files import COMMIT, remove_leftovers
from unet_jax.runs.lock import LOCK, locked

pytestmark = pytest.mark.slow
KILLS, SEED = 10, 0


@pytest.fixture(scope="module")
def folder(storage) -> pathlib.Path:
    return path_of(f"gs://{emulator.BUCKET}/runs")


@pytest.fixture(scope="module")
def run(folder, finished) -> pathlib.Path:
    """A finished run that was copied from a disk to the bucket."""
    upload(finished, folder / "run")
    for name in ("checkpoints", "best"):
        remove_leftovers(folder / "run" / name)
    return folder / "run"


def test_a_run_that_was_killed_ten_times_equals_an_undisturbed_local_one(
    folder, finished, stacks, tmp_path
):
    run, log = folder / "killed", tmp_path / "log"
    program = [sys.executable, "tests/kills_of_bucket_runs.py", str(KILLS), str(SEED)]
    kills = subprocess.run(
        [*program, str(run), str(log), *TINY, f"--config.data.root={stacks}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert kills.returncode == 0, kills.stdout + kills.stderr
    assert len(json.loads(kills.stdout.splitlines()[-1])) == KILLS, kills.stdout
    assert (run / "report.json").read_bytes() == (finished / "report.json").read_bytes()
    assert history(run) == history(finished)
    objects = [name.split("/") for name in list_objects(run)]
    for kind in ("checkpoints", "best"):
        steps = {parts[1] for parts in objects if parts[0] == kind}
        assert steps == {parts[1] for parts in objects if parts[0] == kind and parts[2] == COMMIT}
        assert steps == {path.name for path in (finished / kind).iterdir()}
    top = {parts[0] for parts in objects if not parts[0].startswith("events.")}
    local = {path.name for path in finished.iterdir() if "events" not in path.name} - {LOCK}
    assert top == {name for name in local if not name.startswith("report-")}  # of other tests


def test_a_run_in_a_bucket_is_evaluated_with_data_in_a_bucket(run, folder, stacks, tmp_path):
    before = numbers(run)
    upload(stacks, folder / "data")
    code, output = run_here(
        "--mode=eval", f"--workdir={run}", f"--config.data.root={folder / 'data'}"
    )
    assert code == 0, output
    assert "2 of 2 files" in output
    # This process has another number of devices.
    assert numbers(run) | {"device": before["device"]} == before
    assert unet_jax.load_run(str(run)).report == numbers(run)


def test_a_prediction_from_a_bucket_into_a_bucket(run, folder, finished, tmp_path):
    images, local_run = tmp_path / "images", tmp_path / "run"
    images.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 32), np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")
    upload(images, folder / "images")
    shutil.copytree(finished, local_run)
    kinds = ["--probabilities", "--overlays", "--geojson", "--gallery"]

    def predict(workdir, wanted, output) -> tuple[int, str]:
        flags = f"--workdir={workdir}", f"--input={wanted}", f"--output={output}"
        return run_here("--mode=predict", *flags, *kinds)

    masks = folder / "masks"
    code, output = predict(local_run, images, tmp_path / "masks")
    assert code == 0, output
    code, output = predict(run, folder / "images" / "*.png", masks)
    assert code == 0, output
    local = {
        path.relative_to(tmp_path / "masks").as_posix(): path.read_bytes()
        for path in (tmp_path / "masks").rglob("*")
        if path.is_file()
    }
    assert list(list_objects(masks)) == sorted(local)
    pages = ("gallery.html",)  # it names what was predicted
    assert all((masks / n).read_bytes() == data for n, data in local.items() if n not in pages)
    page = (masks / "gallery.html").read_text()
    assert str(folder / "images" / "*.png") in page
    assert "unet_jax/buckets" not in page
    (masks / "1.png").unlink()
    code, output = predict(run, folder / "images", masks)
    assert "2 of 3 files already have their outputs" in output
    assert (masks / "1.png").read_bytes() == local["1.png"]


def test_a_run_in_a_bucket_is_exported_compared_and_part_of_a_sweep(
    run, folder, finished, stacks, tmp_path, monkeypatch, capsys
):
    output = tmp_path / "exported"
    code, text = run_here("--mode=export", f"--workdir={run}", f"--output={output}")
    assert code == 0, text
    assert list(output.iterdir())
    page = tmp_path / "page.html"
    assert report.main([str(run), str(finished), f"--output={page}"]) == 0
    assert "run" in page.read_text()
    copy_tree(run, folder / "sweep" / "demo-seed0")

    def launch(arguments, log: pathlib.Path) -> int:
        code, text = run_here(*arguments[1:])
        with log.open("a") as file:
            file.write(text)
        return code

    monkeypatch.setattr(sweep, "launch", launch)
    flags = [*TINY, f"--config.data.root={stacks}", f"--workdir={folder / 'sweep'}"]
    with in_the_repository():
        assert sweep.main(flags) == 0
        assert sweep.main(flags) == 0
    assert "| demo | 1 |" in (folder / "sweep" / "sweep.md").read_text()
    log = (folder / "sweep" / "demo-seed0.log").read_text()
    assert log.count("resumes from step 12") == 2


def test_a_second_process_does_not_write_the_run(run, stacks):
    with locked(run):
        code, output = run_here(*TINY, f"--config.data.root={stacks}", f"--workdir={run}")
    assert code == 2
    assert "another process" in output
    assert not (run / LOCK).exists()


def test_two_hosts_train_in_a_bucket(folder, stacks):
    workdir = folder / "hosts"
    flags = [*TINY, f"--config.data.root={stacks}", f"--workdir={workdir}"]
    ends = cluster.finish(
        cluster.start_all(lambda port, host: ["launch.py", *flags, *cluster.flags(port, host)])
    )
    assert [end[0] for end in ends] == [0, 0], ends
    assert numbers(workdir)["step"] <= 12
    assert [line["step"] for line in history(workdir) if line["split"] == "train"] == [
        *range(1, 13)
    ]
