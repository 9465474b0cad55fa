"""Tests of importing PyTorch checkpoints: the runs' logits equal PyTorch's."""

import contextlib
import json
import pathlib
import re
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from launched import last_of_each, run_here
from milesial import UNet, milesial, randomise
from pictures import _no_pictures as _no_pictures
from torch import nn

from benchmarks.pytorch import matched
from unet_jax import models
from unet_jax.core.intensities import Intensities
from unet_jax.interchange import forms, pytorch
from unet_jax.interchange.torch_twin import convert, twin
from unet_jax.runs.checkpoints import Checkpoints
from unet_jax.runs.commandline import load_config
from unet_jax.runs.log import read_history
from unet_jax.runs.tensor_files import read_state_dict

# ml_collections loads configs with a deprecated function.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

torch.set_num_threads(1)  # more threads do not pay at these sizes
FIELDS = {
    False: ("--config.model.upsample=transpose", "--config.data.input_range=unit"),
    True: ("--config.model.upsample=bilinear_corners", "--config.data.input_range=unit"),
}


@pytest.fixture
def run(stacks, tmp_path):
    """A function (content of a file, further arguments) -> exit code; imports into `run`."""

    def import_it(content, *further, name="weights.pth"):
        path = tmp_path / name
        if content is not None:
            torch.save(content, path)
        arguments = [
            "--config=configs/demo.py",
            f"--workdir={tmp_path / 'run'}",
            f"--config.data.root={stacks}",
            "--config.data.size=32",
            "--config.model.width=2",
            "--config.model.depth=4",
            "--config.num_epochs=1",
            "--config.optim.schedule=constant",
            "--config.log.every_steps=1",
        ]
        return pytorch.main([str(path), *last_of_each((*arguments, *further))])

    return import_it


def imported(folder: pathlib.Path):
    """Returns a run's model, its config, and the variables of its last checkpoint."""
    fields = json.loads((folder / "config.json").read_text())["config"]
    model = models.build(**fields["model"])
    image = jax.ShapeDtypeStruct((1, 16, 16, 1), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    checkpoints = Checkpoints(folder, 1, {}, read_only=True)
    step, variables, *_ = checkpoints.restore_model("best", shapes)
    assert step == 0 and checkpoints.latest_step() == 0
    checkpoints.close()
    return model, fields, variables


def picture(*size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, *size, 1), dtype=np.uint8)


def error_line(capsys) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.slow
@pytest.mark.parametrize("bilinear", [True, False])
def test_logits_equal_milesial_s(bilinear, run, tmp_path, capsys):
    # Older versions have biases before batch norms.
    reference = milesial(bilinear, classes=2, width=4, bias=not bilinear)
    content = reference.state_dict() | {"mask_values": [0, 255]}
    arguments = (
        "--config.model.width=4",
        "--config.model.classes=2",
        "--config.loss.name=auto",
        *FIELDS[bilinear],
    )
    assert run(content, *arguments) == 0
    image = picture(32, 48)
    with torch.no_grad():
        logits = reference(torch.tensor(image).permute(0, 3, 1, 2) / 255)
    expected = logits.permute(0, 2, 3, 1).numpy()
    model, fields, variables = imported(tmp_path / "run")
    scaled = models.scale(jnp.asarray(image), Intensities(fields["data"]["input_range"]))
    logits = jax.jit(model.apply)(variables, scaled)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    output = capsys.readouterr().out
    count = sum(
        x.numel()
        for name, x in reference.named_parameters()
        if not re.search(r"double_conv\.[03]\.bias", name)
    )
    assert f"{count / 1e6:.2f} M parameters, named as in milesial/Pytorch-UNet" in output
    assert "note         mask_values" in output and "without" not in output
    assert f"python launch.py --mode=eval --workdir={tmp_path / 'run'}" in output


def test_a_bias_before_a_batch_norm_has_no_effect_in_training():
    older = milesial(bias=True)
    newer = UNet(1, 1)
    arrays = {name: x.numpy() for name, x in older.state_dict().items()}
    state = pytorch.without_redundant_biases(arrays)
    newer.load_state_dict({name: torch.tensor(x) for name, x in state.items()})
    image = torch.tensor(picture(32, 32)).permute(0, 3, 1, 2) / 255
    for model in (older, newer):
        model.train()
    torch.testing.assert_close(older(image), newer(image), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(older.eval()(image), newer.eval()(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["unet", "unet bilinear corners", "unet group", "segnet"])
def test_the_twin_s_names_are_recognised(name, tmp_path):
    fields = matched.model_fields(name, classes=1)
    reference = randomise(twin.build(1, **fields))
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    flags = [f"--config.model.{field}={value}" for field, value in fields.items()]
    config = load_config(["--config=configs/base.py", *flags])
    state, _ = read_state_dict(tmp_path / "weights.pth")
    form = forms.recognise(tmp_path, state)
    assert form is forms.TWIN
    variables = pytorch.to_variables(tmp_path, state, form, config, channels=1)
    again = convert.to_state_dict(variables, reference)
    for key, x in reference.state_dict().items():
        assert key.endswith("num_batches_tracked") or torch.equal(again[key], x), key


def test_all_misfits_are_reported_by_their_names_in_the_file(run, tmp_path, capsys):
    state = milesial().state_dict()
    del state["outc.conv.bias"]
    state["inc.double_conv.4.running_var"] = state["inc.double_conv.4.running_var"].double()
    state["up4.up.weight"] = torch.zeros(4, 2, 3, 3)
    state["attention.weight"] = torch.zeros(1)
    state["down4.maxpool_conv.1.double_conv.0.weight"] = torch.zeros(32, 16, 1, 1)
    assert run(state, *FIELDS[False]) == 2
    line = error_line(capsys)
    for part in (
        "weights.pth: state_dict: 5 tensors do not fit: ",
        "outc.conv.bias is missing",
        "attention.weight is unknown",
        "inc.double_conv.4.running_var is float64 [2], expected float32 [2]",
        "up4.up.weight is float32 [4, 2, 3, 3], expected float32 [4, 2, 2, 2]",
        "down4.maxpool_conv.1.double_conv.0.weight is float32 [32, 16, 1, 1], expected float32 [32",
    ):
        assert part in line
    assert "this file needs" not in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("model", "flags"),
    [
        (
            lambda: milesial(True, classes=2, width=4),
            "--config.data.input_range=unit --config.loss.name=auto --config.model.classes=2 "
            "--config.model.upsample=bilinear_corners --config.model.width=4",
        ),
        (
            lambda: UNet(3, 1, width=2),
            "--config.data.input_range=unit; it is for 3 channels, the data set has 1",
        ),
        (
            lambda: twin.build(1, **matched.model_fields("unet nearest", 1)),
            "--config.model.depth=2 --config.model.upsample=nearest|bilinear|bilinear_corners "
            "--config.model.width=4",
        ),
        (
            lambda: twin.build(1, **matched.model_fields("unet group", 1)),
            "--config.model.depth=2 --config.model.norm=group --config.model.width=4",
        ),
        (
            lambda: twin.build(1, **matched.model_fields("unet none", 3)),
            "--config.loss.name=auto --config.model.classes=3 --config.model.depth=2 "
            "--config.model.norm=none --config.model.width=4",
        ),
        (
            lambda: twin.build(1, **matched.model_fields("segnet", 1)),
            "--config.model.depth=2 --config.model.name=segnet --config.model.width=4",
        ),
        (
            lambda: twin.build(1, **matched.model_fields("unet2", 1)),
            "--config.model.depth=2 --config.model.name=unet2 --config.model.width=4",
        ),
    ],
    ids=["bilinear", "channels", "nearest", "group", "none", "segnet", "unet2"],
)
def test_an_error_lists_the_fields_that_fit_the_file(model, flags, run, capsys):
    assert run(model().state_dict()) == 2
    assert error_line(capsys).endswith(f"; this file needs {flags}")


@pytest.mark.parametrize("upsample", ["nearest", "bilinear", "bilinear_corners"])
def test_any_resizing_fits_tensors_without_transposed_convolutions(upsample):
    fields = matched.model_fields("unet", 1) | {"upsample": upsample}
    state = twin.build(1, **fields).state_dict()
    flags = [f"--config.model.{field}={value}" for field, value in fields.items()]
    config = load_config(["--config=configs/base.py", *flags])
    assert pytorch.advice(state, forms.TWIN, config) == []


def test_settings_that_tensors_do_not_show_are_reported(run, capsys):
    content = milesial(True).state_dict()
    assert run(content, "--config.model.upsample=nearest") == 0
    output = capsys.readouterr().out
    fields = "--config.data.input_range=unit --config.model.upsample=bilinear_corners"
    assert f"milesial/Pytorch-UNet uses {fields}; without" in output


class Code:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (Code(), "holds a print"),
        ({"outc.conv.weight": Code()}, "holds a print"),
        (UNet(1, 1), "holds a "),
        ([torch.zeros(1)], "holds a list"),
        (torch.zeros(1), "holds a Tensor"),
        ({}, "it is empty"),
        ({"state_dict": {}, "epoch": 1}, "it is empty"),
        ({"epoch": 1, "lr": torch.zeros(1)}, "'epoch' is a int"),
        ({3: torch.zeros(1)}, "3 is a Tensor"),
        ({"a": torch.zeros(2).to_sparse()}, "'a' is a Tensor"),
        ({"a": torch.zeros(2, device="meta")}, "'a' is a Tensor"),
        ({"encoder.0.weight": torch.zeros(1)}, "such as encoder.0.weight are neither"),
        ({"model": {}, "state_dict": {}}, "contains both state_dict and model"),
    ],
)
def test_other_content_is_refused_in_one_line(content, part, run, tmp_path, capsys):
    assert run(content) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert part in line and "weights.pth" in line
    assert not (tmp_path / "run").exists()


def damage(how: str, whole: bytes) -> bytes:
    middle = whole.index(milesial().state_dict()["outc.conv.bias"].numpy().tobytes())
    return {
        "empty": b"",
        "short": whole[: len(whole) // 2],
        "a flipped bit in a tensor": whole[:middle]
        + bytes([whole[middle] ^ 1])
        + whole[middle + 1 :],
        "text": b"weights\n",
        "zip": b"PK\x05\x06" + bytes(18),
    }[how]


@pytest.mark.parametrize("how", ["empty", "short", "a flipped bit in a tensor", "text", "zip"])
def test_a_damaged_file_is_refused_in_one_line(how, run, tmp_path, capsys):
    torch.save(milesial().state_dict(), tmp_path / "whole.pth")
    (tmp_path / "weights.pth").write_bytes(damage(how, (tmp_path / "whole.pth").read_bytes()))
    assert run(None, *FIELDS[False]) == 2
    assert "weights.pth: is damaged or was not written by torch.save" in error_line(capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--config.model.widht=3",), "widht"),
        (("--config.model.norm=layer",), "model.norm"),
        (("--config=configs/missing.py",), "configs/missing.py"),
        (
            (
                "--config.data.name=isbi",
                "--config.data.root=nowhere",
                "--config.data.download=False",
            ),
            "nowhere",
        ),
    ],
)
def test_a_wrong_config_is_reported_in_one_line(arguments, part, run, capsys):
    assert run(milesial().state_dict(), *arguments) == 2
    assert part in error_line(capsys)


def test_a_network_with_its_code_is_refused_in_one_line(run, tmp_path, capsys):
    convolution = nn.Conv2d(1, 1, 1)
    with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(convolution), str(tmp_path / "weights.pth"))
    assert run(None) == 2
    assert "weights.pth: is damaged or was not written by torch.save (" in error_line(capsys)


def test_a_missing_pytorch_is_reported(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "weights.pth").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run(None) == 2
    assert "weights.pth: reading it needs PyTorch: pip install torch" in error_line(capsys)


def test_the_old_command_is_the_new_one():
    from benchmarks import import_torch

    assert import_torch.main is pytorch.main


def test_a_missing_file_is_reported(run, capsys):
    assert run(None) == 2
    assert "weights.pth: no such file" in error_line(capsys)


def test_a_folder_with_checkpoints_is_refused(run, tmp_path, capsys):
    assert run(milesial().state_dict(), *FIELDS[False]) == 0
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    capsys.readouterr()
    assert run(milesial().state_dict(), *FIELDS[False]) == 2
    assert "run: already has checkpoints" in error_line(capsys)
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


def succeeds(*arguments: str) -> str:
    code, output = run_here(*arguments)
    assert code == 0, output
    return output


@pytest.mark.slow
def test_the_printed_commands_evaluate_and_continue_training(run, tmp_path, capsys):
    """Both the weights and their EMA start from those of the file."""
    more = ("--config.optim.ema_decay=0.9", "--config.optim.learning_rate=1e-7")
    assert run(milesial().state_dict(), *FIELDS[False], *more) == 0
    _, _, variables = imported(tmp_path / "run")
    output = capsys.readouterr().out
    evaluate, train = (
        re.search(rf"{what} +python launch.py (.*)", output)[1].split()
        for what in ("evaluate", "train")
    )

    succeeds(*evaluate, "--split=validation")
    report = json.loads((tmp_path / "run" / "report-validation-best.json").read_text())
    assert report["step"] == 0

    assert "resumes from step 0" in succeeds(*train)
    history = read_history(tmp_path / "run")
    validation = [line for line in history if line["split"] == "validation"]
    assert [line["step"] for line in validation] == [0, 12]
    assert validation[0]["loss"] == pytest.approx(report["loss"], rel=1e-6)
    with contextlib.closing(Checkpoints(tmp_path / "run", 1, {}, read_only=True)) as checkpoints:
        step, trained = checkpoints.restore_latest({"model": variables, "trained": variables})
        assert step == history[-2]["step"] > 0
    for item in trained.values():
        jax.tree.map(
            lambda found, x: np.testing.assert_allclose(found, x, rtol=0, atol=1e-4),
            item["params"],
            variables["params"],
        )
