"""Parts run within the time budget, and what they measured is on disk whatever happens."""

import json
import os
import signal
import sys
import threading
import time

import pytest

from benchmarks.accelerator import run
from benchmarks.accelerator.plan import KINDS, Part, full, smoke

PARTS = [Part("speed", "first", 60, {}), Part("memory", "second", 60, {})]


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """A function that runs `PARTS` with `content` instead of a process; returns code, results."""

    def start(contents, *flags):
        calls = iter(contents)

        def measure(self, part, scratch, seconds):
            content = next(calls)
            if callable(content):
                content = content()
            return run._entry(part, "complete") | content

        monkeypatch.setattr(run, "smoke", lambda: PARTS)
        monkeypatch.setattr(run, "full", lambda: PARTS)
        monkeypatch.setattr(run.Run, "_measure", measure)
        code = run.main([f"--out={tmp_path}", *flags])
        file = tmp_path / "results.json"
        return code, json.loads(file.read_text()), (tmp_path / "results.md").read_text()

    return start


DEVICE = {
    "summary": {
        "platform": "gpu",
        "devices": 1,
        "device": "Some GPU",
        "cores": 2,
        "torch": "PyTorch is not installed",
        "versions": {"jax": "0.1"},
    }
}


def test_results_of_all_parts_are_written(measured):
    rows = [{"rows": [{"ms": 3.0}], "summary": {"train": 1.25}}, {"rows": [{"peak_mib": 12345.6}]}]
    code, content, page = measured([DEVICE, *rows])
    assert code == 0
    assert [part["rows"] for part in content["parts"]] == [[{"ms": 3.0}], [{"peak_mib": 12345.6}]]
    assert content["device"]["device"] == "Some GPU"
    for text in ("Some GPU", "PyTorch is not installed", "train: 1.25", "| 12346 |", "second"):
        assert text in page


def test_parts_that_do_not_fit_are_named(measured):
    code, content, page = measured([DEVICE], "--minutes=0.1")
    assert code == 0
    assert [part["status"] for part in content["parts"]] == ["skipped: out of time"] * 2
    assert "first: skipped: out of time" in page


def test_a_failed_part_does_not_stop_the_others(measured):
    failed = {"status": "failed: the package grain is not installed"}
    code, content, page = measured([DEVICE, failed, {"rows": [{"ms": 3.0}]}])
    assert code == 1
    assert content["parts"][1]["status"] == "complete"
    assert failed["status"] in page


def test_results_are_on_disk_while_the_next_part_runs(measured, tmp_path):
    seen = []

    def second():
        seen.extend(json.loads((tmp_path / "results.json").read_text())["parts"])
        return {}

    measured([DEVICE, {"rows": [{"ms": 3.0}]}, second])
    assert seen[0]["rows"] == [{"ms": 3.0}]
    assert [part["status"] for part in seen] == ["complete", "running"]


def test_only_the_parts_asked_for_run(measured):
    _, content, _ = measured([DEVICE, {}], "--part=memory")
    assert [part["name"] for part in content["parts"]] == ["second"]


def test_without_an_accelerator_it_stops_in_one_line(measured, capsys):
    on_cpu = {"summary": DEVICE["summary"] | {"platform": "cpu"}}
    assert measured([on_cpu])[0] == 2
    error = capsys.readouterr().err
    assert "no GPU or TPU" in error
    assert error.count("\n") == 1
    assert measured([on_cpu, {}, {}], "--smoke")[0] == 0


@pytest.fixture
def slow_part(monkeypatch, tmp_path):
    """A run of one part whose process records a row and then hangs, beside a child of its own."""
    program = tmp_path / "python"
    program.write_text(
        '#!/bin/sh\n[ "$3" = probe ] && row="{}" || row=\'{"ms": 3}\'\n'
        'echo "{\\"rows\\": [$row], \\"summary\\": {\\"a\\": 1}}" > "$5"\n'
        '[ "$3" = probe ] && exit\nsleep 60 & echo $! > "$0.pid"\nsleep 60\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(run, "page", lambda content: "")
    monkeypatch.setattr(run, "GRACE", 2.0)
    monkeypatch.setattr(run, "smoke", lambda: [Part("speed", "hangs", 1.0, {})])
    monkeypatch.setattr(run, "LEAST", 0.0)
    monkeypatch.setattr(run.Run, "_environment", lambda *_: dict(os.environ))
    # The probe of this program describes no device.
    original = run.Run._measure

    def measure(self, part, scratch, seconds):
        found = original(self, part, scratch, seconds)
        return found | DEVICE if part.kind == "probe" else found

    monkeypatch.setattr(run.Run, "_measure", measure)
    return program


def has_ended(pid):
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def check(out, program, status):
    (part,) = json.loads((out / "results.json").read_text())["parts"]
    assert part["status"].startswith(status)
    assert part["rows"] == [{"ms": 3}]
    assert has_ended(int(program.with_name("python.pid").read_text()))
    assert sorted(path.name for path in out.iterdir()) == ["log.txt", "results.json", "results.md"]


def test_a_part_beyond_its_limit_is_ended_and_its_rows_are_kept(slow_part, tmp_path):
    assert run.main(["--smoke", f"--out={tmp_path / 'out'}"]) == 0
    check(tmp_path / "out", slow_part, "stopped: out of time")


def test_a_signal_ends_the_part_and_its_rows_are_kept(slow_part, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "smoke", lambda: [Part("speed", "hangs", 60.0, {})])
    before = signal.getsignal(signal.SIGTERM)
    stop = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
    stop.start()
    try:
        assert run.main(["--smoke", f"--out={tmp_path / 'out'}"]) == 75
    finally:
        signal.signal(signal.SIGTERM, before)
    check(tmp_path / "out", slow_part, "interrupted")


@pytest.mark.parametrize("plan", [full, smoke])
def test_every_plan_has_every_kind_of_part(plan):
    assert {part.kind for part in plan()} == set(KINDS)
    json.dumps([part.settings for part in plan()])


def test_missing_packages_are_named(monkeypatch):
    def distribution(name):
        if name in ("grain", "jax"):
            raise run.importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(run.importlib.metadata, "distribution", distribution)
    assert run.missing_packages() == ["jax", "grain"]


def test_the_files_to_carry_are_small():
    assert 0.5 < run.files_mib() < 16
