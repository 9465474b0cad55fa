"""The commands of the README: exit codes, what they print and leave."""

import json
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tifffile
from launched import (
    ROOT,
    WITHOUT_PICTURES,
    history,
    launch,
    numbers,
    refused,
    run_here,
    start,
)
from made_data import TINY
from made_files import save
from pictures import _no_pictures as _no_pictures
from PIL import Image

from configs import base
from unet_jax.core.config import digest, flatten
from unet_jax.core.errors import UserError
from unet_jax.runs.experiment import check, saved_config


def test_a_run_leaves_what_the_readme_says(finished):
    names = {p.name.split(".out.")[0] for p in finished.iterdir() if p.name != ".lock"}
    assert names == {
        "best",
        "checkpoints",
        "config.json",
        "events",
        "figures",
        "metrics.jsonl",
        "report.html",
        "report.json",
        "report.md",
        "split.json",
    }
    report = numbers(finished)
    assert list(report["per_image"]) == json.loads((finished / "split.json").read_text())["test"]
    page = (finished / "report.html").read_text()
    for heading in ("Images", "Learning curves", "Confusion", "Calibration", "Configuration"):
        assert f"<h2>{heading}</h2>" in page
    for picture in ("report-curves.png", "report-overlays.png"):
        assert (finished / "figures" / picture).read_bytes().startswith(b"\x89PNG")


def test_eval_needs_only_the_folder(finished):
    code, output = run_here("--mode=eval", f"--workdir={finished}", "--split=validation")
    assert code == 0, output
    report = json.loads((finished / "report-validation-best.json").read_text())
    best = [line for line in history(finished) if line["split"] == "validation"]
    lowest = min(line["loss"] for line in best)  # of a process with one device
    assert report["loss"] == pytest.approx(lowest, rel=1e-5)


def test_eval_changes_how_a_run_is_scored_but_not_the_run(finished):
    run = ("--mode=eval", f"--workdir={finished}", "--split=train")
    changed = ("--config.eval.metrics=default,boundary", "--config.eval.threshold=0.35")
    before = (finished / "config.json").read_bytes()
    code, output = run_here(*run, *changed, "--config.eval.nsd_pixels=3")
    assert code == 0, output
    report = json.loads((finished / "report-train-best.json").read_text())
    assert report["threshold"] == 0.35 and report["settings"] == {"nsd_pixels": [3]}
    for change in ("nsd_pixels: [2.0] in the run, [3]", "threshold: 0.5 in the run, 0.35"):
        assert f"unlike training, eval.{change} in this evaluation" in report["notes"]
    page = (finished / "report-train-best.html").read_text().split("<h2>Configuration")[1]
    assert re.search(r"eval\.threshold.*?0\.35.*?0\.5", page, re.DOTALL)
    assert re.search(r"eval\.metrics.*?boundary", page, re.DOTALL)
    for row in report["thresholds"][1:]:
        if row["threshold"] is not None:
            assert f"threshold {row['threshold']:.4f}, {row['rule']}: " in output
    assert "best Dice on validation: Dice " in output
    for field, value in (("eval.best", "dice"), ("model.width", 9), ("seed", 1)):
        line = refused(*run, f"--config.{field}={value}")
        assert "holds another experiment" in line and f"{field}: " in line
    assert "must be a number in [0, 1)" in refused(*run, "--config.eval.threshold=2.0")
    assert "an option of data.name=folder" in refused(*run, "--config.data.object_border=2")
    assert (finished / "config.json").read_bytes() == before


@pytest.mark.slow
def test_what_a_run_computed_in_is_recorded_and_kept(finished, stacks, tmp_path):
    """The config says `auto`: the machine on which the run begins decides."""
    saved = json.loads((finished / "config.json").read_text())
    assert saved["config"]["model"]["dtype"] == "float32"
    assert saved["digest"] == numbers(finished)["config_digest"]
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    saved["config"]["model"]["dtype"] = "bfloat16"  # as if it had begun on a GPU
    (folder / "config.json").write_text(json.dumps(saved))
    root = f"--config.data.root={stacks}"
    code, output = run_here(*TINY, root, "--mode=eval", f"--workdir={folder}")
    assert code == 0, output
    report, before = numbers(folder), numbers(finished)
    assert report["config_digest"] == digest(saved["config"]) != before["config_digest"]
    assert report["loss"] != before["loss"]
    assert report["loss"] == pytest.approx(before["loss"], rel=0.1)


def test_predict_needs_only_the_folder_and_goes_on_after_a_bad_file(finished, stacks, tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    stack = tifffile.imread(stacks / "train-volume.tif")
    save(folder / "a.png", stack[0])
    (folder / "b.png").write_text("no image")
    tifffile.imwrite(folder / "c.tif", stack[:3], photometric="minisblack")
    arguments = (f"--workdir={finished}", f"--input={folder}", f"--output={output}", "--tile=40")
    code, printed = run_here("--mode=predict", *arguments, "--probabilities", "--overlays")
    assert code == 1, printed
    assert f"error: {folder / 'b.png'}: " in printed
    assert "2 of 3 files are predicted" in printed
    mask = np.asarray(Image.open(output / "a.png"))
    masks = tifffile.imread(output / "c.tif")
    assert masks.shape == (3, 64, 64)
    np.testing.assert_array_equal(mask, masks[0])
    np.testing.assert_array_equal(
        masks, (tifffile.imread(output / "probabilities/c.tif") > 0.5) * 255
    )
    assert (output / "overlays/c/0002.png").exists()
    # The network was trained: cells are bright here.
    assert stack[0][mask == 255].mean() > stack[0][mask == 0].mean() + 20
    (folder / "b.png").unlink()
    code, printed = run_here("--mode=predict", *arguments)
    assert code == 0, printed
    assert "2 of 2 files already have their outputs" in printed
    line = refused(
        "--mode=predict", f"--workdir={finished}", f"--input={folder}", f"--output={folder}"
    )
    assert "would be inputs" in line


@pytest.mark.slow
def test_a_run_killed_at_any_moment_and_repeated_reports_the_same(finished, stacks, tmp_path):
    arguments = (*TINY, f"--config.data.root={stacks}", f"--workdir={tmp_path / 'run'}")
    process, rng = start(*arguments), random.Random(0)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(("step", "validation")) and rng.random() < 0.3:
            break
    time.sleep(rng.random() * 0.3)
    process.kill()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, output
    code, output = launch(*arguments, script=WITHOUT_PICTURES)
    assert code == 0, output
    assert numbers(tmp_path / "run") == numbers(finished)
    assert history(tmp_path / "run") == history(finished)


@pytest.mark.slow
def test_one_seed_gives_one_result_in_any_process(finished, stacks, tmp_path, monkeypatch):
    """Byte for byte: another process, with readers, which compiles everything anew."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    arguments = (*TINY, f"--config.data.root={stacks}", f"--workdir={tmp_path / 'run'}")
    code, output = launch(*arguments, "--config.data.workers=2", script=WITHOUT_PICTURES)
    assert code == 0, output
    for name in ("report.json", "split.json"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()
    assert history(tmp_path / "run") == history(finished)
    saved = [
        (folder / "checkpoints" / "12" / "checksums" / "metadata").read_bytes()
        for folder in (finished, tmp_path / "run")
    ]
    assert saved[0] == saved[1]


@pytest.mark.slow
def test_the_real_stacks_train_evaluate_and_report(real_data, tmp_path):
    code, output = run_here(
        "--config=configs/isbi.py:small",
        f"--config.data.root={real_data / 'isbi'}",
        f"--workdir={tmp_path}",
        "--config.data.size=64",
        "--config.model.width=4",
        "--config.model.depth=3",
        "--config.num_epochs=3",
        "--config.eval.every_epochs=3",
        "--config.optim.learning_rate=0.003",
    )
    assert code == 0, output
    report = numbers(tmp_path)
    assert list(report["per_image"]) == ["slice-01", "slice-15", "slice-24"]
    assert report["loss"] < 0.5  # the share of cells alone gives 0.53
    assert report["per_class"]["membrane"]["dice"] > 0.5
    assert report["trivial"]["aggregate"]["dice"]["mean"] == pytest.approx(0.886, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ((), ("--config", "configs/demo.py")),
        (("--config=configs/missing.py",), ("configs/missing.py", "no such file", "isbi.py")),
        (("--config=configs/isbi.py:tiny",), ("isbi.py:tiny", "small")),
        (("--config=configs/isbi.py", "--config.model.widht=3"), ("widht",)),
        (("--config=configs/isbi.py", "--config.batch_size=many"), ("batch_size=many", "whole")),
        (
            ("--config=configs/isbi.py", "--config.model.norm=layer"),
            ("model.norm", "'group' or"),
        ),
        (("--config=configs/isbi.py", "--mode=guess"), ("mode", "train|eval")),
        (("--confg=configs/isbi.py",), ("confg",)),
        (
            ("--config=configs/isbi.py", "--config.data.root=nowhere"),
            ("train-volume.tif", "nowhere", "https://", "configs/demo.py"),
        ),
        (("--mode=eval", "--workdir=nowhere"), ("nowhere", "config.json")),
        (("--config=configs/isbi.py", "--tta", "--split=x"), ("--split", "--mode=train", "eval")),
        (("--mode=predict", "--input=a", "--input=b"), ("--input", "2 times")),
        (("--config=configs/isbi.py", "--config.seed=4294967296"), ("seed=4294967296", "[0,")),
        (("--config=configs/isbi.py", "--config.model.depth=40"), ("model.depth=40", "[1, 15]")),
        (("--config=configs/demo.py", "--config.data.root=/dev/zero"), ("/dev/zero", "not a fold")),
        (("--config=configs/demo.py", "--workdir=~nobody-at-all/x"), ("~nobody-at-all", "unknown")),
        (("--config=configs/isbi.py", "--config.data.root=~nobody-at-all"), ("~nobody-at-all",)),
        (("--mode=predict", "--input=.", "--output=~nobody-at-all"), ("~nobody-at-all", "unknown")),
        (
            (*TINY, "--config.data.root={stacks}", "--workdir=/dev/null/x"),
            ("/dev/null/x", "not a folder"),
        ),
        (("--mode=predict", "--input=."), ("--workdir", "--input", "--output")),
        (("--mode=predict", "--input=.", "--output=.", "--tile=0"), ("--tile",)),
        (("--mode=export",), ("--mode=export needs --workdir and --output",)),
        (("--mode=export", "--output=o", "--format=tf"), ("--format=tf", "stablehlo")),
        (("--mode=eval", "--format=stablehlo"), ("--format", "--mode=eval", "only export")),
    ],
    ids=lambda x: " ".join(x)[-40:] if isinstance(x, tuple) else None,
)
def test_an_error_of_use_is_one_line(stacks, tmp_path, arguments, parts):
    arguments = [argument.format(stacks=stacks) for argument in arguments]
    if not any(argument.startswith("--workdir=") for argument in arguments):
        arguments.append(f"--workdir={tmp_path / 'run'}")
    line = refused(*arguments)
    for part in parts:
        assert part in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--confg=configs/isbi.py",),
        pytest.param(
            ("--config=configs/isbi.py", "--config.data.root=nowhere", "--workdir={tmp}/run"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["before jax", "of the data"],
)
def test_a_command_reports_an_error_of_use_in_one_line_with_exit_code_2(tmp_path, arguments):
    code, output = launch(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert code == 2
    assert re.fullmatch("error: .*\n", output)


def test_another_experiments_folder_is_refused(finished, stacks):
    before = {p: p.read_bytes() for p in finished.iterdir() if p.is_file()}
    line = refused(
        *TINY, f"--config.data.root={stacks}", f"--workdir={finished}", "--config.seed=1"
    )
    assert "seed: 0 in the run, 1 in the config" in line
    assert {p: p.read_bytes() for p in finished.iterdir() if p.is_file()} == before


@pytest.mark.parametrize("own", [False, True], ids=["its config.json", "a config"])
def test_eval_makes_no_data(finished, stacks, tmp_path, own):
    """Whatever the folder of data that a run of others names."""
    run, missing = tmp_path / "run", tmp_path / "elsewhere" / "stacks"
    shutil.copytree(finished, run)
    saved = json.loads((run / "config.json").read_text())
    saved["config"]["data"] |= {"root": str(missing), "download": True}
    (run / "config.json").write_text(json.dumps(saved))
    config = (*TINY, f"--config.data.root={missing}") if own else ()
    line = refused("--mode=eval", f"--workdir={run}", *config)
    assert f"train-volume.tif and train-labels.tif not found in the folder {missing}" in line
    assert not missing.parent.exists()


def test_each_run_of_an_ensemble_is_read(finished):
    runs = ["--ensemble=nowhere", "--ensemble=elsewhere"]
    assert "nowhere" in refused("--mode=eval", f"--workdir={finished}", *runs)


@pytest.mark.parametrize("mode", ["eval", "predict"])
@pytest.mark.parametrize("others", [("{}",), ("./{}/",), ("other", "./other")])
def test_a_run_is_in_an_ensemble_only_once(tmp_path, monkeypatch, mode, others):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    files = ["--input=.", "--output=masks"] if mode == "predict" else []
    runs = [f"--ensemble={other.format('run')}" for other in others]
    line = refused(f"--mode={mode}", "--workdir=run", *files, *runs)
    assert line.startswith(f"error: --ensemble={pathlib.Path(others[-1].format('run'))}: ")
    assert "given twice" in line


def test_the_flags_load_no_jax():
    """`--help` and a mistyped flag are answered immediately."""
    code = (
        "import sys, launch\n"
        "try: launch.parse_flags(['launch.py', '--confg=3'])\n"
        "except SystemExit as end: assert end.code == 2\n"
        "try: launch.parse_flags(['launch.py', '--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'jax' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("error: Unknown command line flag 'confg'")


@pytest.mark.parametrize(
    "change",
    [
        {"loss.unheard_of": 1},
        {"classes": 2},
        {"": 2},
        {"model": 3},
        {"batch_size": None},
        {"batch_size": "4"},
        {"batch_size": [4]},
        {"data.augment": 3},
        {"x" * 10_000: 3},
    ],
)
def test_a_saved_config_that_is_none_of_ours_is_refused(change):
    fields = flatten(base.get_config())
    assert flatten(saved_config(fields)) == fields
    with pytest.raises(UserError, match="an incompatible version") as error:
        saved_config(fields | change)
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [[["flip"]], [{}], [3]])
def test_a_saved_config_of_odd_values_is_refused(value):
    fields = flatten(base.get_config())
    with pytest.raises(UserError, match=r"data\.augment=.*unknown"):
        check(saved_config(fields | {"data.augment": value}))
