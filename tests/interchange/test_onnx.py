"""Exported ONNX models in ONNX Runtime, beside the network in JAX."""

import json
import pathlib
import sys
from typing import Any

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from launched import refused, run_here
from made_networks import variants
from made_runs import make_run, random_variables, small_config
from ml_collections import ConfigDict

from unet_jax import models
from unet_jax.core.config import digest
from unet_jax.core.files import write_json
from unet_jax.interchange.onnx import build_model
from unet_jax.interchange.stablehlo import whole_images

SIZES = ((1, 1, 1), (3, 13, 22))
STORED: dict[str, dict[str, Any]] = {
    "int16 percentile": {
        "data__normalize": "percentile", "data__limits": (-300.0, 200.0), "data__dtype": "int16"
    },
    "uint16 limits": {
        "data__normalize": "limits", "data__limits": (10.0, 900.0) * 3, "data__dtype": "uint16",
        "data__input_range": "unit",
    },
    "float32 zscore": {
        "data__normalize": "zscore", "data__dtype": "float32", "data__limits": (0.0, 1.0),
        "data__mean": (0.2, 0.7, 0.1), "data__std": (0.3, 0.1, 0.2),
    },
    "resize": {"data__fit": "resize", "data__size": 16},
}  # fmt: skip


def cases() -> dict[str, dict[str, Any]]:
    """The fields of every registered network in few variants, and of inputs of every kind."""
    found = {
        name: {f"model__{field}": value for field, value in fields.items()}
        for name, fields in variants().items()
    }
    for fields in found.values():  # a deeper encoder has layers of every kind
        fields["model__depth"] = 3 if fields["model__name"] == "smp_unet" else 2
    found["stride"] = found["smp_unet"] | {"model__encoder": "resnet18", "model__stride": 4}
    found["classes"] = {"model__classes": 4}
    found["bfloat16"] = {"model__dtype": "bfloat16"}
    return found | {name: {"model__depth": 1} | fields for name, fields in STORED.items()}


CASES = cases()
FAST = ("unet", "float32 zscore")


def restore_random(monkeypatch, config: ConfigDict, channels: int) -> dict:
    """Random variables stand for those of a checkpoint."""
    variables = random_variables(config, channels, calm=True)
    restored = (7, channels, variables)
    monkeypatch.setattr("unet_jax.inference.predictor.restore", lambda *_: restored)
    return variables


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=[] if x in FAST else pytest.mark.slow) for x in CASES]
)
def test_the_model_gives_what_the_network_gives(monkeypatch, tmp_path, name):
    config = small_config(**{"model__classes": 1} | CASES[name])
    variables = restore_random(monkeypatch, config, 3)
    write_json(tmp_path / "config.json", {"config": config.to_dict()})
    if name not in STORED:  # compares logits, because probabilities near 0 and 1 hide differences
        monkeypatch.setattr(models, "probabilities", lambda logits: logits)
    model = build_model(tmp_path, config, "best")
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    # The model is float32, whatever the run's arithmetic is.
    network = models.build(**config.model.to_dict() | {"dtype": "float32"}, platform="cpu")
    program = jax.jit(whole_images(network, config, variables))
    rng = np.random.default_rng(0)
    for size in SIZES:
        images = rng.integers(0, 256, (*size, 3)).astype(np.float32)
        images = images / 255 if config.data.dtype == "float32" else images
        is_16bit = () if config.data.dtype else (np.bool_(False),)
        mask, expected = map(np.asarray, program(images, *is_16bit))
        found_mask, found = session.run(None, {"images": images.transpose(0, 3, 1, 2)})
        found = found.transpose(0, 2, 3, 1)
        assert (found_mask.dtype, found.dtype) == (np.uint8, np.float32)
        # A resized pixel may be rounded up there, and down here.
        error = 1e-2 if name == "resize" else 1e-5 * max(1, abs(expected).max())
        np.testing.assert_allclose(found, expected, rtol=0, atol=error)
        certain = margin(expected, config.eval.threshold) > 2 * error
        np.testing.assert_array_equal(found_mask[certain], mask[certain])
    operators = {node.op_type for node in model.graph.node}
    # Statistics of groups, and resizes that ONNX has no operator for, are computed in JAX's order.
    transposed = config.model.norm == "group" or name == "resize"
    assert "Transpose" not in operators or transposed


def margin(values: np.ndarray, threshold: float) -> np.ndarray:
    """How far each pixel is from another decision: [N, H, W, K] -> [N, H, W]."""
    if values.shape[-1] <= 2:
        return abs(values[..., -1] - threshold)
    second, first = np.moveaxis(np.sort(values, axis=-1)[..., -2:], -1, 0)
    return first - second


def export(run: pathlib.Path, output: pathlib.Path, name: str = "onnx") -> tuple[int, str]:
    return run_here("--mode=export", f"--format={name}", f"--workdir={run}", f"--output={output}")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    return make_run(tmp_path_factory.mktemp("onnx") / "run", small_config(model__depth=1), 1)


def test_the_command_writes_a_model_that_says_what_it_is(run, tmp_path):
    code, output = export(run, tmp_path / "out")
    assert code == 0, output
    assert f"the network is in {tmp_path}/out/network.onnx" in output
    model = onnx.load(tmp_path / "out" / "network.onnx")
    facts = {entry.key: entry.value for entry in model.metadata_props}
    config = small_config(model__depth=1)
    assert facts == {
        "name": config.name,
        "step": "7",
        "network": "unet",
        "classes": json.dumps(["class-0", "class-1"]),
        "channels": "1",
        "values": "uint8",
        "decision": "probability > 0.5",
        "config_digest": digest(config),
    }
    assert [x.version for x in model.opset_import] == [18]
    shapes = {
        x.name: [d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim]
        for x in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "images": ["n", 1, "h", "w"],
        "mask": ["n", "h", "w"],
        "probabilities": ["n", 1, "h", "w"],
    }
    # Each norm is part of a convolution, and the images are never transposed.
    found = {node.op_type for node in model.graph.node}
    assert not found & {"Transpose", "BatchNormalization", "Sqrt"}
    assert "exists and has files" in export(run, tmp_path / "out")[1]


def test_a_network_that_no_file_can_hold_is_one_line(run, tmp_path, monkeypatch):
    monkeypatch.setattr("unet_jax.interchange.onnx.LARGEST", 1000)
    line = refused(
        "--mode=export", "--format=onnx", f"--workdir={run}", f"--output={tmp_path / 'out'}"
    )
    assert "GiB, but an ONNX file holds 2; --format=stablehlo exports the network" in line


@pytest.mark.parametrize(
    ("name", "package"), [("onnx", "onnx"), ("onnx_float16", "onnxruntime"), ("onnx_int8", "onnx")]
)
def test_a_missing_package_is_one_line(run, tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    line = refused(
        "--mode=export", f"--format={name}", f"--workdir={run}", f"--output={tmp_path / 'out'}"
    )
    assert f"needs the package {package}; pip install -r requirements-export.txt" in line
    assert not (tmp_path / "out").exists()
