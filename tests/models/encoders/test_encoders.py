"""The encoders are those whose weights are published."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from made_networks import images

from unet_jax import models
from unet_jax.interchange.torch_twin import smp as twin_smp
from unet_jax.models import torch_weights
from unet_jax.models.encoders.encoder import ENCODERS, STRIDES
from unet_jax.runs.pretrained import read_pretrained

CHANNELS = {
    "resnet18": (64, 64, 128, 256, 512),
    "resnet34": (64, 64, 128, 256, 512),
    "resnet50": (64, 256, 512, 1024, 2048),
    "efficientnet_lite0": (16, 24, 40, 112, 320),
}
# Without the classifier: torchvision's counts less 1000 (512 or 2048) + 1000; timm's less the last
# convolution 320 * 1280, its norm 2 * 1280 and 1000 * 1280 + 1000.
PARAMETERS = {
    "resnet18": 11_689_512 - 513_000,
    "resnet34": 21_797_672 - 513_000,
    "resnet50": 25_557_032 - 2_049_000,
    "efficientnet_lite0": 4_652_008 - 409_600 - 2_560 - 1_281_000,
}
SLOW = {"resnet34", "resnet50", "efficientnet_lite0"}
EACH = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CHANNELS]


@functools.cache
def shapes(name: str, levels: int = len(STRIDES)):
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    init = functools.partial(ENCODERS[name](levels).init, train=False)
    return jax.eval_shape(init, jax.random.key(0), image)


def randomised(name: str, depth: int) -> torch.nn.Module:
    """The twin with random weights of trained size, and all its statistics drawn."""
    torch.manual_seed(0)
    encoder, _ = twin_smp.make_encoder(name, 3, depth)
    for key, x in encoder.state_dict().items():
        if key.endswith("running_var"):
            x.uniform_(0.5, 2)
        elif key.endswith(("running_mean", "bias")):
            x.normal_(0, 0.1)
    return encoder.eval()


@pytest.mark.parametrize("name", CHANNELS)
def test_every_encoder_is_here_with_its_features_and_parameters(name):
    variables = shapes(name)
    assert models.parameter_count(variables) == PARAMETERS[name]
    image = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
    apply = functools.partial(ENCODERS[name]().apply, train=False)
    features = jax.eval_shape(apply, variables, image)
    expected = zip(STRIDES, CHANNELS[name], strict=True)
    assert [x.shape for x in features] == [(2, 64 // s, 96 // s, c) for s, c in expected]
    assert set(CHANNELS) == set(ENCODERS)


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("name", CHANNELS)
def test_fewer_levels_leave_the_later_layers_out(name, levels):
    some, whole = shapes(name, levels)["params"], shapes(name)["params"]
    assert set(some) < set(whole) and all(some[module] == whole[module] for module in some)


@pytest.mark.parametrize("name", EACH)
def test_features_are_the_twin_s(name):
    twin = randomised(name, len(STRIDES))
    variables = torch_weights.to_variables(twin.state_dict(), shapes(name))
    image = images(1, 2, 64, 96, 3)
    features = jax.jit(functools.partial(ENCODERS[name]().apply, train=False))(variables, image)
    with torch.no_grad():
        expected = twin(torch.tensor(image).permute(0, 3, 1, 2))
    for found, x in zip(features, expected, strict=True):
        scale = float(x.abs().max())
        np.testing.assert_allclose(found, x.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.slow
def test_real_weights_recognise_real_photographs():
    """With the classifier of the same file: ImageNet's Egyptian cat, espresso and missile."""
    skimage_data = pytest.importorskip("skimage.data")
    from PIL import Image

    found = read_pretrained("efficientnet_lite0", "efficientnet_lite0", len(STRIDES))
    assert found.left_out == ["bn2", "classifier", "conv_head"]
    encoder = ENCODERS["efficientnet_lite0"]
    raw = torch.load(found.file, weights_only=True)
    state = {encoder.torch_name(name): x for name, x in raw.items()}
    twin, _ = twin_smp.make_encoder("efficientnet_lite0", 3, len(STRIDES))
    assert twin.load_state_dict(state, strict=False).missing_keys == []
    twin.eval()
    apply = jax.jit(functools.partial(encoder().apply, train=False))

    def classify(features: np.ndarray) -> np.ndarray:
        weights = {name: state[name].numpy() for name in state if name.startswith(HEAD)}
        y = features @ weights["conv_head.weight"][:, :, 0, 0].T
        y = (y - weights["bn2.running_mean"]) / np.sqrt(weights["bn2.running_var"] + 1e-3)
        y = np.clip(y * weights["bn2.weight"] + weights["bn2.bias"], 0, 6).mean((0, 1))
        return y @ weights["classifier.weight"].T + weights["classifier.bias"]

    for name, classes in {"chelsea": {281, 282, 285}, "coffee": {967}, "rocket": {657}}.items():
        photograph = getattr(skimage_data, name)()
        top, left = ((size - min(photograph.shape[:2])) // 2 for size in photograph.shape[:2])
        side = min(photograph.shape[:2])
        square = Image.fromarray(photograph[top : top + side, left : left + side])
        pixels = np.asarray(square.resize((224, 224), Image.Resampling.BICUBIC), np.float32) / 255
        image = (pixels - encoder.mean) / np.float32(encoder.std)
        image = image.astype(np.float32)[None]
        logits = classify(np.asarray(apply(found.variables, image)[-1])[0])
        with torch.no_grad():
            last = twin(torch.tensor(image).permute(0, 3, 1, 2))[-1][0]
        np.testing.assert_allclose(logits, classify(last.permute(1, 2, 0).numpy()), atol=1e-4)
        assert logits.argmax() in classes


HEAD = ("conv_head", "bn2", "classifier")
