import json

import pytest

from benchmarks import peaks


def test_a_row_has_medians_and_ranges():
    values = ((300.4, 5.0), (200.2, 7.0), (250.0, 6.0))
    keys = ("peak_memory_mib", "first_step_seconds")
    row = {"start": "JAX", "runs": [dict(zip(keys, run, strict=True)) for run in values]}
    assert peaks.summary(row) == {
        "start": "JAX",
        "peak, MiB": "250 (200-300)",
        "first step, s": "6 (5-7)",
    }


@pytest.mark.slow
def test_each_start_is_measured_in_a_process_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(peaks, "STARTS", [start for start in peaks.STARTS if start[2] == ""])
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "other"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # both are set by the command
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    size = ["--width=2", "--depth=1", "--batch=1", "--size=8", "--repeats=1"]
    peaks.main([*size, f"--out={tmp_path / 'peaks.json'}"])
    rows = json.loads((tmp_path / "peaks.json").read_text())["rows"]
    assert [row["start"] for row in rows] == [start for start, *_ in peaks.STARTS]
    assert all(0 < run["peak_memory_mib"] < 1000 for row in rows for run in row["runs"])
    assert not (tmp_path / "other").exists()
