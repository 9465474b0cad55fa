"""Networks exported to PyTorch: names, equal logits, and a loader that needs PyTorch alone."""

import ast
import io
import json
import os
import pathlib
import re
import runpy
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
from launched import ROOT
from made_files import noise
from made_networks import variants as made_variants
from made_runs import make_run, small_config
from milesial import milesial

import unet_jax
from unet_jax import models
from unet_jax.core.config import digest
from unet_jax.core.errors import UserError
from unet_jax.core.fields import add_defaults
from unet_jax.core.files import write_json
from unet_jax.core.intensities import Intensities
from unet_jax.interchange import forms, pytorch
from unet_jax.interchange.pytorch_export import export_run
from unet_jax.interchange.torch_twin import smp, source, torchscript, twin, variants
from unet_jax.runs.checkpoints import Checkpoints

torch.set_num_threads(1)  # more threads do not pay at these sizes
MILESIAL = {"model__width": 2, "model__depth": 4, "data__input_range": "unit"}


def config_of(**fields):
    """As `small_config`, with the options of the network."""
    name = fields.get("model__name", "unet")
    config = add_defaults(small_config(model__name=name), models.NETWORKS[name].options)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
    config.loss.name = "bce" if config.model.classes == 1 else "cross_entropy"
    return config


def export(run: pathlib.Path, config, output: pathlib.Path) -> pathlib.Path:
    line = export_run(run, config, checkpoint="best", output=output)
    assert f"python {output}/load.py images.npy masks.npy" in line
    return output


def run_with(folder: pathlib.Path, config, variables) -> pathlib.Path:
    checkpoints = Checkpoints(folder, 9, config.to_dict())
    checkpoints.save(7, {"model": variables})
    checkpoints.close()
    write_json(folder / "config.json", {"digest": digest(config), "config": config.to_dict()})
    return folder


def assert_equal_predictions(run: unet_jax.Run, folder: pathlib.Path, images, atol=1e-4) -> None:
    """Logits and probabilities to 1e-4, and the masks where no probability is at the threshold."""
    code = runpy.run_path(str(folder / "load.py"))
    network, fields = code["load"]()
    if not fields["resized_to"]:
        x = code["scale"](torch.tensor(images.astype(np.float32)), images.dtype.name, fields)
        with torch.no_grad():
            found = network(x).movedim(1, -1).numpy()
        intensities = Intensities.of(run.config.data)
        expected = np.asarray(run.model.apply(run.variables, intensities.network_input(images)))
        assert expected.std() > 0.05
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    masks, probabilities = code["predict"](network, fields, images)
    prediction = run.predict(images)
    binary = prediction.probabilities.ndim == 3
    values = probabilities[..., -1] if binary else probabilities
    np.testing.assert_allclose(values, prediction.probabilities, atol=atol)
    top = np.sort(probabilities, axis=-1)
    close = abs(values - fields["threshold"]) if binary else top[..., -1] - top[..., -2]
    np.testing.assert_array_equal(masks[close > 2 * atol], prediction.mask[close > 2 * atol])


@pytest.mark.slow
@pytest.mark.parametrize("bilinear", [False, True], ids=["transpose", "bilinear"])
def test_milesial_s_network_is_imported_and_exported_without_a_change(bilinear, tmp_path):
    reference = milesial(bilinear, classes=1, width=2)
    state = {name: x.numpy() for name, x in reference.state_dict().items()}
    upsample = "bilinear_corners" if bilinear else "transpose"
    config = small_config(**MILESIAL, model__classes=1, model__upsample=upsample)
    variables = pytorch.to_variables(tmp_path, state, forms.recognise(tmp_path, state), config, 1)
    run = run_with(tmp_path / "run", config, variables)
    output = export(run, config, tmp_path / "out")
    again = torch.load(output / "network.pth", weights_only=True)
    assert again.keys() == state.keys()
    for name, x in reference.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(again[name], x), name
    reference.load_state_dict(again, strict=True)
    images = noise((2, 37, 51, 1))
    assert_equal_predictions(unet_jax.load_run(run), output, images)
    fields = json.loads((output / "network.json").read_text())
    assert fields["names_of"] == "milesial/Pytorch-UNet"
    assert fields["normalization"]["range"] == [0, 1]
    assert fields["window"] == {"multiple": 16, "margin": 92, "trained_on": 16}
    with torch.no_grad():  # at such sizes nothing is padded
        expected = reference(torch.tensor(images[:, :32, :48]).movedim(-1, 1) / 255)
        code = runpy.run_path(str(output / "load.py"))
        network, _ = code["load"]()
        x = code["scale"](torch.tensor(images[:, :32, :48]).float(), "uint8", fields)
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["resnet18", "efficientnet_lite0"])
def test_smp_s_network_is_imported_and_exported_without_a_change(encoder, tmp_path):
    torch.manual_seed(0)
    reference = smp.SmpUNet(3, 2, encoder, width=4).state_dict()
    if encoder == "efficientnet_lite0":
        reference = {k.replace("encoder.", "encoder.model.", 1): x for k, x in reference.items()}
    state = {name: x.numpy() for name, x in reference.items()}
    form = forms.recognise(tmp_path, state)
    fields = {name.replace(".", "__"): x for name, x in forms.fields_of(state, form).items()}
    config = config_of(data__size=32, **fields)
    variables = pytorch.to_variables(tmp_path, state, form, config, 3)
    run = run_with(tmp_path / "run", config, variables)
    output = export(run, config, tmp_path / "out")
    again = torch.load(output / "network.pth", weights_only=True)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], x) for name, x in reference.items())
    assert_equal_predictions(unet_jax.load_run(run), output, noise((1, 45, 70, 3)))


CASES = (
    *((3, "uint8", network) for network in made_variants().values()),
    (1, "uint16", {"classes": 3, "norm": "group"}),
    (1, "int16", {"data__limits": (-300.0, 200.0), "data__normalize": "percentile"}),
    (2, "float32", {"data__mean": (0.2, 0.7), "data__std": (0.3, 0.1)}),
    (3, "uint8", {"data__fit": "resize", "classes": 3}),
)
SMALLEST = {"eval__threshold": 0.3, "norm": "none", "dtype": "bfloat16", "depth": 1, "width": 2}


@pytest.mark.parametrize(
    ("channels", "dtype", "fields"),
    [(1, "uint8", SMALLEST), *(pytest.param(*case, marks=pytest.mark.slow) for case in CASES)],
    ids=str,
)
def test_logits_are_equal_at_odd_sizes(channels, dtype, fields, tmp_path):
    full = {name if "__" in name else f"model__{name}": x for name, x in fields.items()}
    if dtype in ("int16", "float32"):
        full["data__dtype"] = dtype
    if dtype == "float32":
        full |= {"data__normalize": "zscore", "data__limits": (0.0, 1.0) * 2}
    exported_dtype = full.pop("model__dtype", "float32")
    config = config_of(**{"model__depth": 3 if "encoder" in fields else 2} | full)
    run = make_run(tmp_path / "run", config, channels, calm=True)
    config.model.dtype = exported_dtype  # the exported network computes in float32
    try:
        twin.network_of(channels, **config.model)
    except UserError as error:  # a network without a twin cannot be exported
        with pytest.raises(UserError, match="has no PyTorch twin"):
            export_run(run, config, checkpoint="best", output=tmp_path / "out")
        assert "has no PyTorch twin" in str(error)
        return
    output = export(run, config, tmp_path / "out")
    images = noise((2, 29, 43, channels), np.uint16 if dtype[-2:] == "16" else np.uint8)
    images = images / np.float32(255) if dtype == "float32" else images.astype(dtype)
    atol = 1e-2 if config.data.fit == "resize" else 1e-4  # a pixel may be rounded up or down
    assert_equal_predictions(unet_jax.load_run(run), output, images, atol)
    if dtype != "uint16":  # TorchScript takes the values of one type, as ONNX does
        assert_equal_torchscript(torchscript.build_model(run, config, "best"), output, images)


def assert_equal_torchscript(model: bytes, folder: pathlib.Path, images: np.ndarray) -> None:
    """TorchScript gives what `load.py` gives, for any number of images of any size."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        script = torch.jit.load(io.BytesIO(model))
    code = runpy.run_path(str(folder / "load.py"))
    for x in (images, images[:1, :9, :40]):
        expected_mask, expected = code["predict"](*code["load"](), x)
        mask, found = script(torch.tensor(x.astype(np.float32)).movedim(-1, 1))
        np.testing.assert_allclose(found.movedim(1, -1), expected, atol=1e-6)
        assert mask.dtype == torch.uint8
        assert (mask.numpy() != expected_mask).mean() < 1e-3
    with zipfile.ZipFile(io.BytesIO(model)) as archive:  # a package is public
        assert not any(str(ROOT).encode() in archive.read(name) for name in archive.namelist())


@pytest.mark.slow
def test_the_loader_needs_nothing_of_this_project(tmp_path, monkeypatch):
    config = small_config()
    output = export(make_run(tmp_path / "run", config, 1), config, tmp_path / "exported")
    images = noise((3, 20, 24, 1))
    np.save(tmp_path / "images.npy", images)
    absent = "import sys, runpy; sys.modules |= dict.fromkeys(('unet_jax', 'configs', 'jax')); "
    code = absent + "del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    for arguments, said in [
        (["images.npy", "masks.npy"], ""),
        (["images.npy"], "usage: python load.py images.npy masks.npy"),
        (["absent.npy", "masks.npy"], "error: absent.npy: cannot be read as .npy"),
    ]:
        done = subprocess.run(
            [sys.executable, "-c", code, "exported/load.py", *arguments],
            cwd=tmp_path,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            capture_output=True,
            text=True,
        )
        assert (done.returncode != 0) == bool(said), done.stderr
        assert done.stderr.startswith(said) and done.stderr.count("\n") == bool(said)
    module = runpy.run_path(str(output / "load.py"))
    masks, _ = module["predict"](*module["load"](), images)
    np.testing.assert_array_equal(np.load(tmp_path / "masks.npy"), masks)
    page = (ROOT / "docs" / "pytorch.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    names = {"images": images}
    exec("\n".join(blocks), names)
    np.testing.assert_array_equal(names["masks"], masks)
    del sys.modules["load"]
    for wrong, said in [
        (images / 255, "type float64; expected uint8 or uint16"),
        (images[0], r"shape \(20, 24, 1\); expected \[N, H, W, 1\]"),
        (images[:0], r"shape \(0, 20, 24, 1\); expected"),
    ]:
        with pytest.raises(ValueError, match=said):
            module["predict"](*module["load"](), wrong)


TWINS = (
    twin.UNet,
    twin.SegNet,
    variants.AttentionUNet,
    variants.ResidualUNet,
    variants.UNetPlusPlus,
    smp.SmpUNet,
)


@pytest.mark.parametrize("network", TWINS, ids=lambda network: network.__name__)
def test_the_source_has_what_it_uses_and_imports_no_project(network):
    name = source.Name(network.__module__, network.__name__)
    text = source.standalone(f"{source.__package__}.loader", name)
    tree = ast.parse(text)
    imported, defined = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imported |= {a.asname or a.name.partition(".")[0] for a in node.names}
            top = getattr(node, "module", None) or node.names[0].name
            assert top.partition(".")[0] in {*sys.stdlib_module_names, "numpy", "torch"}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            assert node.name not in defined
            defined.add(node.name)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert imported <= used  # no import is left over
    assert text.count(f"{network.__name__}(**fields") == 1
    names: dict = {}
    exec(compile(text, "load.py", "exec"), names | {"__file__": "load.py"})


def test_what_cannot_be_exported_is_refused(documented, tmp_path, monkeypatch):
    config = small_config(model__depth=1)
    run = make_run(tmp_path / "run", config, 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "load.py").write_text("mine")
    with pytest.raises(UserError, match="out: exists and has files"):
        export_run(run, config, checkpoint="best", output=tmp_path / "out")
    documented("unet_jax/models/link_unet.py")
    link = small_config(model__depth=1, model__name="link_unet")
    link_run = make_run(tmp_path / "link", link, 1)
    with pytest.raises(UserError, match=r"model\.name=link_unet: has no PyTorch twin; there are"):
        export_run(link_run, link, checkpoint="best", output=tmp_path / "new")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="--format=pytorch: needs PyTorch: pip install torch"):
        export_run(run, config, checkpoint="best", output=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_form_follows_from_the_network():
    def form(**fields):
        return forms.exported_form(small_config(model__depth=4, **fields).model)

    assert form() is forms.MILESIAL
    assert form(model__upsample="bilinear_corners") is forms.MILESIAL
    for other in (
        {"model__upsample": "bilinear"},
        {"model__norm": "group"},
        {"model__padding": "valid"},
        {"model__deep_supervision": True},
        {"model__name": "attention_unet"},
        {"model__name": "unet2"},
    ):
        assert form(**other) is forms.TWIN
