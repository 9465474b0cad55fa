"""Tests of profiling: a step's time is measured and assigned to layers."""

import json
import types

import jax
import pytest

from benchmarks import profile

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

PROGRAM = """
HloModule a, is_scheduled=true

%fused_computation.1 (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  %a = f32[2]{0} add(%p, %p), metadata={op_name="jit(f)/jvp(UNet)/UNet.core/head/add"}
  ROOT %b = f32[2]{0} add(%a, %a), metadata={op_name="jit(f)/jvp(UNet)/UNet.core/head/add"}
}

ENTRY %main (x: f32[2]) -> (f32[2], f32[2]) {
  %x = f32[2]{0} parameter(0)
  %own = f32[2,3]{1,0} sine(%x), metadata={op_name="jit(f)/mul" stack_frame_id=1}
  %fused = f32[2]{0} fusion(%x), kind=kLoop, calls=%fused_computation.1
  %silent = f32[3,4]{1,0:T(8,128)} fusion(%x, %own), kind=kCustom, calls=%nowhere
  %between = f32[2]{0} copy(%silent)
  %user = f32[2]{0} negate(%between), metadata={op_name="jit(f)/transpose(jvp(UNet))/up_0/neg"}
  %lost = f32[2]{0} copy(%fused)
  ROOT %t = (f32[2]{0}, f32[2]{0}) tuple(%user, %lost)
}
"""


def test_origins_come_from_operations_their_parts_or_their_users():
    found = profile.operations(PROGRAM)
    assert found["own"] == ("f32[2,3]", "jit(f)/mul")
    assert found["fused"] == ("f32[2]", "jit(f)/jvp(UNet)/UNet.core/head/add")
    assert found["silent"] == ("f32[3,4]", "jit(f)/transpose(jvp(UNet))/up_0/neg")
    assert found["lost"] == ("f32[2]", "")
    assert found["t"][0] == "(f32[2], f32[2])"


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (
            "jit(_fun)/transpose(jvp(UNet))/UNet.core/up_0/Conv_1/cond/branch_0_fun/slice",
            ("up_0/Conv_1", "backward"),
        ),
        ("jit(_fun)/jvp(UNet)/UNet.core/up_0/jit(relu)/max", ("up_0", "forward")),
        (
            "jit(_fun)/jvp(UNet)/UNet.core/down_0/Norm_1/BatchNorm_0/add",
            ("down_0/Norm_1", "forward"),
        ),
        ("jit(_fun)/jvp(SegNet)/up_3/Conv_2/add", ("up_3/Conv_2", "forward")),
        ("jit(_fun)/transpose(jvp(UNet))/UNet.core/head/dot_general", ("head", "backward")),
        ("jit(_fun)/jvp(UNet)/UNet.core/concatenate", ("elsewhere", "")),
        ("jit(_fun)/mul", ("elsewhere", "")),
        ("", ("elsewhere", "")),
    ],
)
def test_an_operation_has_a_layer_and_a_pass(origin, expected):
    assert profile.layer_and_pass(origin) == expected


def test_layers_sum_their_operations_and_are_sorted_by_time():
    times = {"own": 1.0, "fused": 2.0, "silent": 5.0, "user": 4.0, "from another program": 100.0}
    assert list(profile.by_layer(times, profile.operations(PROGRAM)).items()) == [
        ("up_0", {"backward": 9.0}),
        ("head", {"forward": 2.0}),
        ("elsewhere", {"": 1.0}),
    ]


def plane(name, **lines):
    """A profile's plane: events (name, nanoseconds, hlo_op or None) by line."""
    return types.SimpleNamespace(
        name=name,
        lines=[
            types.SimpleNamespace(
                name=line,
                events=[
                    types.SimpleNamespace(
                        name=event, duration_ns=ns, stats=[("hlo_op", op)] if op else []
                    )
                    for event, ns, op in events
                ],
            )
            for line, events in lines.items()
        ],
    )


HOST = plane("/host:CPU", python=[("launch", 9e6, "conv"), ("wait", 7e6, None)])


def test_on_a_gpu_all_kernels_of_an_operation_count_and_its_launches_do_not():
    kernels = [("transpose", 1e6, "conv"), ("gemm", 4e6, "conv"), ("add", 2e6, "fusion")]
    planes = [HOST, plane("/device:GPU:0", **{"Stream #1": 2 * kernels, "Stream #2": kernels[2:]})]
    assert profile.milliseconds(planes, executions=2) == {"conv": 5.0, "fusion": 3.0}


def test_on_a_tpu_operations_are_named_by_their_text_and_count_once():
    operations = [("%conv.1 = bf16[2]{0} convolution(%x)", 3e6, None)]
    lines = {"XLA Modules": [("step", 9e6, "conv.1")], "XLA Ops": operations}
    planes = [HOST, plane("/device:TPU:0", **lines), plane("/device:TPU:1", **lines)]
    assert profile.milliseconds(planes, executions=2) == {"conv.1": 3.0}


def test_on_a_cpu_a_delayed_execution_does_not_count():
    events = [("call", 1e6, "dot")] * 3 + [("call", 99e6, "dot")]
    assert profile.milliseconds([plane("/host:CPU", pool=events)], executions=4) == {"dot": 1.0}


@pytest.mark.slow
def test_a_step_of_an_experiment_is_profiled(tmp_path, monkeypatch, capsys):
    devices = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    out = tmp_path / "profile.json"
    fields = ["data.size=16", "model.width=2", "model.depth=1"]
    arguments = ["--config=configs/isbi.py:weight_map", f"--out={out}", "--top=3"]
    assert profile.main([*arguments, *(f"--config.{field}" for field in fields)]) == 0
    content = json.loads(out.read_text())
    layers = content["layers"]
    for layer in ("down_0/Conv_0", "down_0/Conv_1", "bottom/Conv_0", "upconv_0", "up_0/Conv_0"):
        assert layers[layer]["forward"] > 0
        assert layers[layer]["backward"] > 0
    by_operation = sum(operation["ms"] for operation in content["operations"])
    by_layer = sum(sum(passes.values()) for passes in layers.values())
    assert by_operation == pytest.approx(by_layer)
    assert content["step_ms"] > 0
    printed = capsys.readouterr().out
    assert "up_0/Conv_0" in printed
    assert content["operations"][0]["shape"] in printed


def test_a_wrong_config_is_reported_in_one_line(capsys):
    assert profile.main(["--config=configs/isbi.py:nothing"]) == 2
    assert "no such option" in capsys.readouterr().err
