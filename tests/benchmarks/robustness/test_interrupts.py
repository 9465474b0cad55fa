import pytest

from benchmarks.robustness.interrupts import check_resumed, read_log, runs, steps_made


def write_log(folder, *starts: str) -> None:
    (folder / "demo-seed0.log").write_text("".join(f"run          demo\n{s}" for s in starts))


def test_a_start_that_resumes_from_too_early_a_step_is_detected(tmp_path):
    run = runs(tmp_path)[0]
    assert read_log(run) == ""
    first = "steps        48: 8 epochs\nstep 6/48  loss 1\nstep 7/48  loss 1\n"
    assert steps_made(first) == [6, 7]
    again = "steps        48; resumes from step {}\nstep 9/48  loss 1\n"
    killed = "Traceback\n"  # before it had restored anything
    write_log(tmp_path, first, killed, again.format(8), again.format(9))
    assert check_resumed(run) == 2
    write_log(tmp_path, first, killed, again.format(6))
    with pytest.raises(SystemExit, match="resumed from step 6 instead of 7"):
        check_resumed(run)
