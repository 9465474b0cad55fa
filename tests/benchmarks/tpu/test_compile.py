"""Tests of compiling steps for TPUs, if libtpu is installed, and of analysing them."""

import importlib.util
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_networks import all_losses, variants

from benchmarks.tpu import compile
from unet_jax.core.errors import UserError
from unet_jax.models.network import NETWORKS

FOUND = os.environ.get("TPU_LIBRARY_PATH") or importlib.util.find_spec("libtpu")
needs_libtpu = pytest.mark.skipif(
    not FOUND, reason=f"no {compile.required_libtpu()}, and no TPU_LIBRARY_PATH names it"
)
CHIP = compile.Chip("a chip", memory_gib=1, peak_tflops=100, bandwidth_gb=500, all_reduce_gb=1)


def command(*arguments: str) -> subprocess.CompletedProcess:
    # In a separate process, because libtpu reads its slice from variables only once.
    line = [sys.executable, "-m", "benchmarks.tpu", *arguments]
    return subprocess.run(line, capture_output=True, text=True)


@pytest.mark.slow
@needs_libtpu
def test_the_steps_of_a_network_compile_for_a_slice_of_tpus(tmp_path):
    fields = ("model.name=unet", "model.width=8", "model.depth=1", "model.dropout=0.1")
    arguments = ["--config=configs/isbi.py:weight_map", "--config.data.size=32"]
    arguments += [f"--config.{field}" for field in fields]
    out = tmp_path / "tpu.json"
    done = command(*arguments, "--batch=2", "--granularity=2", "--most=0", f"--out={out}")
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(out.read_text())
    assert report["batch_per_device"] == 2
    assert "largest_batch_per_device" not in report  # none was tried
    assert set(report["collectives"]) == {"all-reduce"}
    assert report["evaluate"]["collectives"] == {}
    # The gradients, float32, and a few numbers for each norm and for the loss.
    gradients, trained = 4 * report["parameters"], report["state_bytes"] - report["model_bytes"]
    assert gradients < report["all_reduce_bytes"] < 1.5 * gradients
    assert report["evaluate"]["all_reduce_bytes"] == 0
    assert trained >= 3 * gradients  # the EMA is the model
    for found in (report, report["evaluate"]):
        assert (
            found["memory_bytes"] > found["temporary_bytes"] >= 0
        )  # 0 if all fits into on-chip memory
        assert found["bytes_per_image"] > 0
        assert found["roofline_images_per_second"] > 0
    moved = sum(operation["written"] + operation["read"] for operation in report["operations"])
    assert 0 < moved < 2 * 2 * report["bytes_per_image"]
    assert "| operation | result | layer | pass |" in done.stdout
    # The backward pass has twice the operations of the forward pass.
    assert 2 < report["flops_per_image"] / report["evaluate"]["flops_per_image"] < 4


@pytest.mark.slow
@needs_libtpu
def test_every_network_and_loss_compiles_for_a_slice_of_tpus():
    """The losses with one network each for one logit and for more: a loss sees logits only."""
    small = {"model.width": 4, "model.depth": 2, "model.dropout": 0.1, "data.size": 16}
    small |= {"optim.ema_decay": 0.9, "loss.cldice_iterations": 2}
    cases = {
        name: small | {f"model.{field}": value for field, value in fields.items()}
        for name, fields in variants().items()
        if name in NETWORKS or fields.get("encoder") == "efficientnet_lite0"
    }
    for classes in (1, 3):
        losses = {"model.classes": classes, "loss.name": all_losses(classes)}
        cases[f"losses of {classes}"] = small | losses | {"model.depth": 1}
    done = subprocess.run(
        [sys.executable, "tests/compile_for_tpus.py"],
        input=json.dumps(cases),
        env=os.environ | {"PYTHONPATH": "."},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout).keys() == cases.keys()
    for trained, evaluated in json.loads(done.stdout).values():
        assert set(trained) == {"all-reduce"} and evaluated == {}


def test_an_unknown_chip_is_reported_in_one_line(capsys):
    assert compile.main(["--topology=v1:2x2", "--config=configs/isbi.py"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --topology=v1:2x2: no such chip")


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--topology=v5e:3x7", "--config=configs/isbi.py"], "--topology=v5e:3x7: "),
        (
            ["--config=configs/isbi.py", "--config.optim.accumulate=4", "--batch=6"],
            "--batch=6, --granularity=8: must be multiples of optim.accumulate=4",
        ),
    ],
)
def test_user_errors_are_one_line(arguments, line):
    done = command(*arguments)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert line in done.stderr.splitlines()[-1]


KINDS = st.sampled_from(["", "-start", "-done"])


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from([*compile.COLLECTIVES, "fusion", "copy"]), KINDS)))
def test_each_collective_is_counted_once(instructions):
    program = "\n".join(
        f"  %{name}{kind}.{i} = (f32[8]{{0:T(256)}}, f32[]) {name}{kind}(%{name}.{i}, %copy)"
        f', channel_id={i}, metadata={{op_name="jit(f)/all-reduce(x)"}}'
        for i, (name, kind) in enumerate(instructions)
    )
    expected = {
        name: sum(other == name and kind != "-done" for other, kind in instructions)
        for name in compile.COLLECTIVES
    }
    assert compile.collectives(program) == {name: n for name, n in expected.items() if n}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 300), st.integers(1, 20), st.integers(0, 300), st.floats(0, 1))
def test_the_largest_number_that_fits_is_found(capacity, step, most, share):
    asked, known = [], int(share * capacity)

    def fits(number):
        asked.append(number)
        return number <= capacity

    expected = max([n for n in range(step, most + 1, step) if n <= capacity], default=0)
    assert compile.largest(fits, step, most, known) == expected
    assert all(known // step * step < number <= most and number % step == 0 for number in asked)
    assert len(asked) == len(set(asked)) <= 2 * (most // step + 1).bit_length()


@pytest.mark.parametrize(
    ("message", "fitting"), [(None, True), ("RESOURCE_EXHAUSTED: 16.82G of 15.75G hbm", False)]
)
def test_a_batch_that_the_compiler_refuses_does_not_fit(message, fitting):
    def train(batch, side):
        assert (batch, side) == (24, 512)
        if message:
            raise jax.errors.JaxRuntimeError(message)
        return "a compiled step"

    assert compile.fits(SimpleNamespace(train=train), 24, 512) is fitting


def test_a_batch_that_does_not_fit_is_refused_in_a_line():
    def train(batch, side):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 25.37G of 15.75G hbm")

    config = SimpleNamespace(data=SimpleNamespace(size=2816))
    with pytest.raises(UserError, match="--batch=1: a training step of 2816x2816 pixels"):
        compile.measure(SimpleNamespace(train=train, config=config), CHIP, 1)


@pytest.mark.parametrize(("most", "expected"), [(16, "16, the largest that was tried"), (32, "24")])
def test_the_end_of_the_search_is_told(capsys, most, expected):
    compile.search("largest batch", lambda batch: batch <= 24, 8, most, 8)
    assert capsys.readouterr().out == f"largest batch: {expected}\n"


def test_other_compiler_errors_are_not_taken_for_lack_of_memory():
    def train(batch, side):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        compile.fits(SimpleNamespace(train=train), 8, 512)


@pytest.mark.parametrize(
    ("flops", "accessed", "expected"), [(1e12, 1e9, 100), (1e12, 10e9, 50), (4e12, 10e9, 25)]
)
def test_the_roofline_is_limited_by_the_scarcer_resource(flops, accessed, expected):
    assert compile.roofline(CHIP, flops, accessed) == expected


def test_figures_are_per_image_and_count_donated_memory_once():
    compiled = SimpleNamespace(
        memory_analysis=lambda: SimpleNamespace(
            argument_size_in_bytes=100,
            output_size_in_bytes=60,
            temp_size_in_bytes=1000,
            alias_size_in_bytes=50,
        ),
        cost_analysis=lambda: {"flops": 8e12, "bytes accessed": 4e9},
        as_text=lambda: "  %all-reduce.1 = f32[3] all-reduce(%x)",
    )
    assert compile.figures(compiled, 4, CHIP) == {
        "batch_per_device": 4,
        "memory_bytes": 1110,
        "temporary_bytes": 1000,
        "flops_per_image": 2e12,
        "bytes_per_image": 1e9,
        "collectives": {"all-reduce": 1},
        "all_reduce_bytes": 12,
        "roofline_images_per_second": 50,
    }


def test_without_libtpu_an_error_has_the_command_that_installs_it(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    (tmp_path / "libtpu").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(
        compile.metadata, "requires", lambda _: ["a", 'libtpu==1.2.*; extra == "tpu"']
    )
    if importlib.util.find_spec("libtpu").origin:
        pytest.skip("libtpu is installed")
    assert compile.main(["--config=configs/isbi.py"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "libtpu is not installed" in line and "--target tpu_library 'libtpu==1.2.*'`" in line


def test_an_unknown_chip_is_refused_before_libtpu_is_loaded():
    with pytest.raises(UserError, match="v9:2x2"):
        compile.describe_slice("v9:2x2")
