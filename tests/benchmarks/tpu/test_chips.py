"""Tests of the estimate for many chips, on a step with round figures."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.tpu import chips
from configs import voc

ARGUMENTS = ["--config=configs/voc.py", "--config.eval.batch_size=64"]
STEP = {
    "topology": "v5e:2x4",
    "config": ARGUMENTS,
    "batch_per_device": 16,
    "roofline_images_per_second": 160.0,
    "evaluate": {"roofline_images_per_second": 100.0},
    "collectives": {"all-reduce": 10},
    "all_reduce_bytes": 1_000_000_000,
    "state_bytes": 900_000_000,
    "model_bytes": 300_000_000,
}
CLUSTER = chips.Cluster(train=10_240, validation=640, core=10.0, score_ms=5.0)
CONFIG = voc.get_config()  # validates and saves every fifth epoch
CONFIG.eval.batch_size = 64


def test_the_times_are_those_of_the_formulae():
    times = chips.step_times(STEP, CLUSTER, 64)
    assert times["computation"] == pytest.approx(16 / 160)
    # 10 all-reduces pass 16 chips; twice 63/64 GB at 200 GB/s.
    assert times["all-reduces"] == pytest.approx(10 * 16e-6 + 2 * 63 / 64 / 200)
    assert times["input"] == pytest.approx(4 * 16 / (56 * 10))
    # 16 hosts score 40 images each; their 4 chips predict them in 10 batches of 1 image per chip.
    assert chips.validation_time(STEP, CONFIG, CLUSTER, 64) == pytest.approx(40 * 5e-3)
    slower = dataclasses.replace(CLUSTER, efficiency=0.1)
    assert chips.validation_time(STEP, CONFIG, slower, 64) == pytest.approx(10 / 10)
    assert chips.written_bytes(STEP, CONFIG) == pytest.approx(1.2e9 / 5)
    alone = chips.step_times(STEP, CLUSTER, 1)
    assert alone["all-reduces"] == 0
    assert alone["input"] == pytest.approx(16 / 560)


def test_an_epoch_names_what_it_loses_time_to():
    column = chips.estimate(STEP, CONFIG, CLUSTER, 64)
    steps = 10_240 // (64 * 16)
    assert column["steps per epoch"] == steps == 10
    # The images are read in 114 ms, while a step takes 110 ms; 1.2 GB take 6 s per five epochs.
    assert column["steps of an epoch, s"] == pytest.approx(10 * 64 / 560)
    assert column["epoch, s"] == pytest.approx(max(10 * 64 / 560 + 0.2 / 5, 1.2))
    assert column["lost to"] == "little"
    few = chips.estimate(STEP, CONFIG, dataclasses.replace(CLUSTER, train=512), 64)
    assert few["share of the training images in a batch"] == "200%"
    assert few["steps per epoch"] == 1
    assert few["lost to"] == "checkpoints 87%"
    starved = chips.estimate(STEP, CONFIG, dataclasses.replace(CLUSTER, cores=28), 64)
    assert starved["lost to"].startswith("input ")


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.integers(1, 512), st.integers(1, 10**6), st.integers(0, 10**4), st.floats(0.1, 10**4),
    st.floats(0.01, 1), st.floats(1, 10**4),
)  # fmt: skip
def test_an_epoch_takes_at_least_each_of_its_parts(count, train, validation, core, efficiency, mb):
    cluster = chips.Cluster(train, validation, core, 5.0, efficiency=efficiency, bucket_mb=mb)
    column = chips.estimate(STEP, CONFIG, cluster, count)
    parts = ("steps of an epoch, s", "writing per epoch, s")
    assert all(column[part] <= column["epoch, s"] for part in parts)
    share = float(column["computation's share of the time"].rstrip("%"))
    assert 0 <= share <= 100
    assert column["images/s"] <= 1.0001 * count * 160 * efficiency


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_the_command_prints_a_column_for_each_number_of_chips(tmp_path, capsys):
    file = tmp_path / "step.json"
    file.write_text(json.dumps(STEP))
    measured = ["--train=1318", "--validation=146", "--core=200", "--score_ms=2.4"]
    assert chips.main([str(file), *measured, "--chips", "1", "256"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "|  | 1 chips | 256 chips |"
    assert "| hosts | 1 | 64 |" in lines
    file.write_text(json.dumps({"topology": "v5e:2x4", "config": ARGUMENTS}))
    assert chips.main([str(file), *measured]) == 2
    assert capsys.readouterr().err.startswith(f"error: {file}: an earlier version wrote it")
