"""Sweeps as processes, over the demo experiment at a size of seconds."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from launched import in_the_repository, last_of_each, run_here
from made_data import TINY
from made_files import refused
from pictures import _no_pictures as _no_pictures
from shared_programs import _shared_programs as _shared_programs

from unet_jax.metrics import bootstrap
from unet_jax.reporting import sweep

ROOT = pathlib.Path(__file__).parents[2]
SMALL = ("--config.num_epochs=1", "--config.model.width=2", "--config.model.depth=1")
CONFIG, *OVERRIDES = last_of_each((*TINY, *SMALL))


def start(*arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "unet_jax.sweep", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def launch_here(arguments: list[str], log: pathlib.Path) -> int:
    """A run of a sweep in this process."""
    assert arguments[0] == str(sweep.LAUNCHER)
    code, output = run_here(*arguments[1:])
    log.write_text(output)
    return code


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_failed_run_and_after_a_stop(stacks, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "sweep"
    arguments = [
        "--config=configs/missing.py",
        CONFIG,
        "--seeds=0,1",
        f"--workdir={folder}",
        f"--config.data.root={stacks}",
        *OVERRIDES,
    ]
    process = start(*arguments)
    running = folder / "demo-seed0" / "metrics.jsonl"
    while not running.exists() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 75, output
    assert not (folder / "demo-seed1").exists()

    monkeypatch.setattr(sweep, "launch", launch_here)
    with in_the_repository():
        assert sweep.main(arguments) == 1
    output = capsys.readouterr().out
    content = json.loads((folder / "sweep.json").read_text())
    assert content["failed"] == ["missing-seed0", "missing-seed1"]
    assert "no such file" in (folder / "missing-seed0.log").read_text()
    (row,) = content["rows"]
    assert row["name"] == "demo"
    assert row["runs"] == [{"seed": 0, "fold": None}, {"seed": 1, "fold": None}]
    reports = [json.loads((folder / f"demo-seed{s}/report.json").read_text()) for s in (0, 1)]
    dice = [report["aggregate"]["dice"]["mean"] for report in reports]
    assert row["metrics"]["dice"] == dice
    assert dice[0] != dice[1]
    assert f"| demo | 2 | {sum(dice) / 2:.4f} ({min(dice):.4f} – {max(dice):.4f}) [" in output
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_stop_while_a_run_still_starts_stops_the_sweep_too(stacks, tmp_path):
    process = start(CONFIG, "--seeds=0,1", f"--workdir={tmp_path}", f"--config.data.root={stacks}")
    while not (tmp_path / "demo-seed0.log").exists() and process.poll() is None:
        time.sleep(0.1)
    time.sleep(0.5)  # the run imports its libraries and does not heed signals yet
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 75, output
    assert not (tmp_path / "demo-seed1.log").exists()


CHILD = """
import os, signal, sys, time
from unet_jax.core.stop import StopSignal
heard = []
with StopSignal() as stop:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *got: (heard.append(got[0]), stop._record(*got)))
    print("ready" if os.getpgrp() == os.getpid() else "in its parent's group", flush=True)
    while not stop.requested:
        time.sleep(0.01)
    time.sleep(1)  # to save takes a while
print(*map(int, heard), flush=True)
sys.exit(75)
"""

PARENT = """
import pathlib, sys
from unet_jax.reporting.launching import launch
code = launch(["-c", sys.argv[1]], pathlib.Path(sys.argv[2]))
print("code", code, flush=True)
"""


def wait_until(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def parent(log: pathlib.Path, *before: str) -> subprocess.Popen:
    """A process, in a group of its own, that has launched another one, which is ready."""
    process = subprocess.Popen(
        [*before, sys.executable, "-c", PARENT, CHILD, str(log)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    wait_until(lambda: log.exists() and log.read_text())
    return process


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_what_a_whole_group_gets_reaches_the_run_once(tmp_path, number):
    """As Ctrl-C from a terminal: the run can save."""
    process = parent(tmp_path / "log")
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=300)
    assert output == "code 75\n"
    assert (tmp_path / "log").read_text() == f"ready\n{int(number)}\n"


@pytest.mark.slow
def test_under_nohup_a_sweep_and_its_run_outlive_the_terminal(tmp_path):
    process = parent(tmp_path / "log", "nohup")
    os.killpg(process.pid, signal.SIGHUP)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert output == "code 75\n"
    assert (tmp_path / "log").read_text().endswith(f"ready\n{int(signal.SIGTERM)}\n")


def test_a_killed_sweep_stops_its_run(tmp_path):
    """On Linux."""
    process = parent(tmp_path / "log")
    process.kill()
    wait_until(lambda: (tmp_path / "log").read_text().count("\n") == 2)
    process.communicate()
    # Linux sends it once for each thread of the parent that was still alive.
    assert {*(tmp_path / "log").read_text().split()} == {"ready", str(int(signal.SIGTERM))}


@pytest.mark.slow
def test_ctrl_z_pauses_the_run_too(tmp_path):
    process = parent(tmp_path / "log")
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    (run,) = map(int, children.read_text().split())

    def states() -> str:
        stats = (pathlib.Path(f"/proc/{pid}/stat").read_text() for pid in (process.pid, run))
        return "".join(stat.rpartition(")")[2].split()[0] for stat in stats)

    os.killpg(process.pid, signal.SIGTSTP)
    wait_until(lambda: states() == "TT")
    os.killpg(process.pid, signal.SIGCONT)
    wait_until(lambda: "T" not in states())
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert output == "code 75\n"


@pytest.mark.parametrize("place", ["/dev/null/x", "~nobody-of-this-name/x"])
def test_a_sweep_whose_folder_cannot_be_made_ends_in_a_line(capsys, place):
    assert sweep.main(["--config=a.py", f"--workdir={place}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {place}: ")


def test_the_folder_of_a_sweep_may_be_in_the_home_folder(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sweep, "launch", lambda *_: 0)
    assert sweep.main(["--config=a.py", "--workdir=~/runs"]) == 0
    assert (tmp_path / "runs" / "sweep.json").exists()


def report(folder: pathlib.Path, **means: float) -> None:
    folder.mkdir(parents=True)
    aggregate = {name: {"mean": value, "pooled": value / 2} for name, value in means.items()}
    (folder / "report.json").write_text(json.dumps({"aggregate": aggregate}))


def test_the_best_mean_over_seeds_comes_first(tmp_path):
    for name, values in {"a": (0.5, 0.6), "b": (0.9, 0.4), "c": (0.7,)}.items():
        for seed, value in enumerate(values):
            report(tmp_path / f"{name}-seed{seed}", dice=value, iou=1 - value)
    runs = [sweep.Run(f"{name}.py", seed) for name in "abcd" for seed in (0, 1)]
    rows = sweep.table(tmp_path, runs)
    assert [row["name"] for row in rows] == ["c", "b", "a"]
    assert rows[1]["metrics"] == {"dice": [0.9, 0.4], "iou": [pytest.approx(0.1), 0.6]}
    sweep.write_table(tmp_path, rows, ["d-seed0"])
    page = (tmp_path / "sweep.md").read_text()
    assert "| b | 2 | 0.6500 (0.4000 – 0.9000) | 0.3500 (0.1000 – 0.6000) |" in page
    assert "| c | 1 | 0.7000 | 0.3000 |" in page
    assert "Failed: d-seed0" in page


@pytest.mark.parametrize("metric", ["dice", "loss"])
def test_a_config_without_a_defined_score_is_last(tmp_path, metric):
    report(tmp_path / "a-seed0", **{metric: 0.4})
    aggregate = {metric: {"mean": None, "pooled": None}}
    (tmp_path / "b-seed0").mkdir()
    (tmp_path / "b-seed0" / "report.json").write_text(json.dumps({"aggregate": aggregate}))
    rows = sweep.table(tmp_path, [sweep.Run(f"{name}.py", 0) for name in "ba"])
    assert [row["name"] for row in rows] == ["a", "b"]
    sweep.plot(rows)


def with_interval(folder: pathlib.Path, values: dict[str, float]) -> None:
    """A run's report of Dice on these images."""
    mean = sum(values.values()) / len(values)
    dice = {"mean": mean, "pooled": mean, "interval": [mean - 0.1, mean + 0.1]}
    folder.mkdir(parents=True)
    rows = {name: {"dice": value} for name, value in values.items()}
    (folder / "report.json").write_text(
        json.dumps({"aggregate": {"dice": dice}, "per_image": rows})
    )


def test_seeds_have_an_interval_over_their_shared_images(tmp_path):
    rng = np.random.default_rng(0)
    values = {seed: rng.random(5).tolist() for seed in (0, 1)}
    for seed, column in values.items():
        names = [f"image-{i}" for i in range(5)]
        with_interval(tmp_path / f"a-seed{seed}", dict(zip(names, column, strict=True)))
        with_interval(tmp_path / f"fold-seed{seed}", {f"of-{seed}-{i}": 0.5 for i in range(5)})
    with_interval(tmp_path / "single-seed0", {"image-0": 0.5})
    runs = [sweep.Run(f"{name}.py", seed) for name in ("a", "fold", "single") for seed in (0, 1)]
    rows = {row["name"]: row for row in sweep.table(tmp_path, runs)}
    both = np.mean([values[0], values[1]], axis=0)
    expected = bootstrap.mean_intervals(both[:, None])[0]
    assert rows["a"]["intervals"]["dice"] == pytest.approx(expected)
    assert rows["fold"]["intervals"]["dice"] is None
    assert rows["single"]["intervals"]["dice"] == pytest.approx([0.4, 0.6])
    sweep.write_table(tmp_path, list(rows.values()), [])
    page = (tmp_path / "sweep.md").read_text()
    assert "| single | 1 | 0.5000 [0.4000, 0.6000] |" in page
    assert f") [{expected[0]:.4f}, {expected[1]:.4f}] |" in page
    assert "| fold | 2 | 0.5000 (0.5000 – 0.5000) |" in page
    assert "the 95 % confidence interval of the mean over the runs" in page


def test_each_fold_is_a_run_of_its_own(monkeypatch, tmp_path, capsys):
    def train(arguments, log):
        folder = pathlib.Path(arguments[-1].removeprefix("--workdir="))
        seed, fold = (
            next(int(a.split("=")[1]) for a in arguments if a.startswith(f"--config.{field}="))
            for field in ("seed", "data.fold")
        )
        report(folder, iou=0.5 + seed / 10 + fold / 100)
        return 0

    monkeypatch.setattr(sweep, "launch", train)
    arguments = ["--config=a.py", f"--workdir={tmp_path}", "--seeds=0,2", "--folds=0,3"]
    assert sweep.main(arguments) == 0
    (row,) = json.loads((tmp_path / "sweep.json").read_text())["rows"]
    assert row["metrics"]["iou"] == pytest.approx([0.5, 0.53, 0.7, 0.73])
    assert [(run["seed"], run["fold"]) for run in row["runs"]] == [(0, 0), (0, 3), (2, 0), (2, 3)]
    assert (tmp_path / "a-seed2-fold3").is_dir()
    assert "| a | 4 | 0.6150 (0.5000 – 0.7300) |" in capsys.readouterr().out


def test_many_classes_are_ranked_by_the_pooled_mean_iou(tmp_path):
    report(tmp_path / "a-seed0", mean_iou=0.4, pixel_accuracy=0.9)
    report(tmp_path / "b-seed0", mean_iou=0.6, pixel_accuracy=0.8)
    rows = sweep.table(tmp_path, [sweep.Run("a.py", 0), sweep.Run("b.py", 0)])
    assert [(row["name"], row["metrics"]["mean_iou"]) for row in rows] == [
        ("b", [0.3]),
        ("a", [0.2]),
    ]


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        '{"aggregate": 3}',
        '{"aggregate": {}}',
        '{"aggregate": {"iou": 3}}',
        '{"aggregate": {"iou": {"pooled": 0.5}}}',
        '{"aggregate": {"iou": {"mean": "0.5"}}}',
        '{"aggregate": {"iou": {"mean": NaN}}}',
        '{"aggregate": {"iou": {"mean": 1e999}}}',
        '{"aggregate": {"iou": {"mean": %s}}}' % ("1" * 400),
        '{"aggregate": {"iou": {"mean": %s}}}' % ("[" * 100_000),
        '{"aggregate"',
    ],
)
def test_what_is_no_report_is_named(tmp_path, content):
    (tmp_path / "a-seed0").mkdir()
    (tmp_path / "a-seed0" / "report.json").write_text(content)
    refused(lambda folder: sweep.table(folder, [sweep.Run("a.py", 0)]), tmp_path, "report.json")


def test_a_sweep_without_a_report_yet_has_a_table_all_the_same(tmp_path):
    sweep.write_table(tmp_path, [], ["a-seed0"])
    assert json.loads((tmp_path / "sweep.json").read_text()) == {"rows": [], "failed": ["a-seed0"]}


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("configs/ph2.py:unet,bce", "ph2-unet-bce"),
        ("configs/isbi.py", "isbi"),
        ("/a/b c/isbi.py:small", "isbi-small"),
    ],
)
def test_a_runs_folder_is_named_after_its_config(config, name):
    assert sweep.name_of(config) == name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=a.py", "--workdir=w", "--seeds=1,x"], "--seeds: '1,x': give whole numbers"),
        (["--config=a.py", "--workdir=w", "--folds="], "--folds: '': give whole numbers"),
        (["--config=a.py", "--config=b/a.py", "--workdir=w"], "given twice"),
        (["--config=a.py", "--workdir=w", "--folds=1,1"], "given twice"),
        (["--config=a.py", "--workdir=w", "--speed=3"], "--speed=3"),
        (["--workdir=w"], "--config"),
    ],
)
def test_wrong_use_is_refused(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        sweep.main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_config_that_each_run_would_plan_anew_is_refused(tmp_path, capsys):
    arguments = ["--config=configs/folder.py:auto", f"--workdir={tmp_path / 'sweep'}"]
    with in_the_repository():
        assert sweep.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "configs/folder.py:auto: leaves batch_size, " in line and "config.json" in line
    assert not (tmp_path / "sweep").exists()


def test_platform_and_parent_are_passed_to_every_run(tmp_path, monkeypatch):
    launched, passed = [], ["--platform=cpu", "--init_from=runs/a:best"]
    monkeypatch.setattr(sweep, "launch", lambda arguments, _: launched.append(arguments) or 0)
    assert sweep.main([CONFIG, "--seeds=0,1", f"--workdir={tmp_path}", *passed]) == 0
    assert len(launched) == 2 and all({*passed} <= {*flags} for flags in launched)


@pytest.mark.slow
def test_every_run_starts_from_the_parent(finished, stacks, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "launch", launch_here)
    arguments = [CONFIG, "--seeds=0,1", f"--workdir={tmp_path}", f"--init_from={finished}"]
    overrides = ["--config.num_epochs=1", f"--config.data.root={stacks}"]
    with in_the_repository():
        assert sweep.main([*arguments, *last_of_each((*TINY[1:], *overrides))]) == 0
    for seed in (0, 1):
        report = json.loads((tmp_path / f"demo-seed{seed}" / "report.json").read_text())
        assert report["initial"]["parent"]["folder"] == str(finished)
        assert {*report["initial"]["modules"].values()} == {"taken"}
    step = report["initial"]["parent"]["step"]
    assert f"Initial weights of demo: {finished}, step {step}." in (
        (tmp_path / "sweep.md").read_text()
    )
