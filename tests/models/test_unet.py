"""Networks as a whole: sizes, paths, modes; and what `unet_jax.models` says of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_networks import NETWORKS, images, make, shapes, variables_of

from unet_jax import models
from unet_jax.core.errors import UserError
from unet_jax.core.intensities import Intensities
from unet_jax.models.blocks import ConvBlock, UpConv
from unet_jax.models.kernels.pixel_pairs import unpair


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({}, 31_037_698),
        ({"upsample": "bilinear_corners"}, 17_263_042),  # milesial/Pytorch-UNet, bilinear=True
        # 32 ... 512 channels and 1024 in the centre.
        pytest.param({"width": 32, "depth": 5}, 31_100_546, marks=pytest.mark.slow),
        # The U-Net's, and 9 C^2 + C for the convolutions of C = 64, 128, 256, 512 channels.
        ({"name": "unet2"}, 31_037_698 + 3_133_440 + 960),
        # Encoder and decoder: 9 C D + D + 2 D for a convolution from C to D channels and its
        # norm, in the order of the network; the head: 9 * 64 * 2 + 2.
        ({"name": "segnet"}, 15_279_170),
        pytest.param({"name": "segnet", "depth": 5}, 29_444_162, marks=pytest.mark.slow),
        # The U-Net's, and C^2 + C + 1 for the gate of a level of C = 64, 128, 256, 512 channels:
        # two C x C/2 kernels, C/2 biases, and C/2 weights and a bias for the coefficients.
        ({"name": "attention_unet"}, 31_037_698 + 348_160 + 960 + 4),
        # The U-Net's, and 2 C + 2 for the auxiliary heads of C = 128, 256, 512 channels.
        ({"deep_supervision": True}, 31_037_698 + 1_798),
        # The five levels of the encoder, of 1, 3, 4, 6 and 6 blocks, and the U-Net's decoder and
        # head. A level of n blocks from C to D channels has 9 C D and (2 n - 1) 9 D^2 for the 3x3
        # convolutions, C D for the shortcut, and 2 D for each norm.
        pytest.param(
            {"name": "residual_unet"},
            75_840 + 820_992 + 4_461_056 + 27_276_288 + 109_078_528 + 12_190_530,
            marks=pytest.mark.slow,
        ),
        # The U-Net's encoder and head, and the columns j = 1 ... 4 of the decoder. Node (i, j) of C
        # channels has 8 C^2 + C, and 9 (j + 1) C^2 + 9 C^2 + 4 C.
        (
            {"name": "unet_plus_plus"},
            18_847_168 + 130 + 12_190_400 + 3_786_944 + 1_086_400 + 254_272,
        ),
    ],
)
def test_parameter_count_of_the_published_networks(fields, count):
    model = make(**{"width": 64, "depth": 4, "norm": "batch"} | fields)
    assert models.parameter_count(shapes(model)) == count


@pytest.mark.parametrize("network", NETWORKS)
def test_logits_are_float32_and_of_the_label_s_size(network):
    model = make(depth=1, classes=3, norm="batch", **NETWORKS[network])
    variables = shapes(model)
    for size in ((1, 1), (17, 8)):
        image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
        logits = jax.eval_shape(model.apply, variables, image)
        assert logits.shape == (2, *size, 3)
        assert logits.dtype == jnp.float32


@pytest.mark.parametrize(
    ("network", "size"),
    [("transpose", (1, 1)), ("unet2", (5, 7)), ("segnet", (5, 7))],
)
def test_odd_sizes_are_zero_padded_at_the_bottom_and_the_right(network, size):
    model = make(depth=1, norm="batch", **NETWORKS[network])
    variables = variables_of(model)
    image = images(0, 2, *size, 3)
    padded = np.zeros((2, size[0] + 1, size[1] + 1, 3), np.float32)
    padded[:, : size[0], : size[1]] = image
    apply = jax.jit(model.apply)
    expected = apply(variables, padded)[:, : size[0], : size[1]]
    logits = apply(variables, image)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    assert np.all(np.isfinite(logits)) and np.std(logits) > 0


@pytest.mark.parametrize(
    ("norm", "network", "depth"),
    [
        ("batch", "transpose", 1),
        pytest.param("none", "unet2", 1, marks=pytest.mark.slow),
        pytest.param("batch", "segnet", 2, marks=pytest.mark.slow),
        pytest.param("none", "attention_unet", 2, marks=pytest.mark.slow),
        pytest.param("batch", "residual_unet", 2, marks=pytest.mark.slow),
        pytest.param("batch", "unet_plus_plus", 2, marks=pytest.mark.slow),
    ],
)
def test_bfloat16_stays_inside(norm, network, depth):
    exact = make(depth=depth, norm=norm, **NETWORKS[network])
    model = make(depth=depth, norm=norm, dtype="bfloat16", **NETWORKS[network])
    assert shapes(model) == shapes(exact)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(model))} == {jnp.dtype("float32")}
    variables = variables_of(model)
    image = images(0, 2, 8, 8, 3)
    logits = jax.jit(model.apply)(variables, image)
    expected = jax.jit(exact.apply)(variables, image)
    assert logits.dtype == jnp.float32
    error = np.max(np.abs(logits - expected)) / np.max(np.abs(expected))
    assert 1e-5 < error < 0.05  # rounded to 8 bits somewhere, and nothing worse


@functools.cache
def skip_gradient(network: str):
    """A network without norms, its variables, and its logits' gradient by the parameters."""
    model = make(depth=2, **NETWORKS[network])
    image, weight = images(0, 1, 8, 8, 3), images(1, 1, 8, 8, 2)

    @jax.jit
    def gradient(params):
        def score(params):
            return jnp.vdot(jnp.asarray(model.apply({"params": params}, image)), weight)

        return jax.grad(score)(params)

    return variables_of(model)["params"], gradient


@pytest.mark.parametrize(
    "network",
    [
        "transpose",
        *(
            pytest.param(network, marks=pytest.mark.slow)
            for network in ("valid", "unet2", "attention_unet", "residual_unet", "deep")
        ),
    ],
)
@pytest.mark.parametrize("level", [0, 1])
def test_each_level_has_its_skip(level, network):
    params, gradient = skip_gradient(network)
    # The block whose result comes up to this level gives zeros, whatever is below it. Then the
    # level's way to the logits is its skip alone.
    below = "bottom" if level == 1 else f"up_{level + 1}"
    cut = {**params, below: jax.tree.map(np.zeros_like, params[below])}
    result = gradient(cut)
    for inner in range(level + 1):
        assert all(np.any(leaf) for leaf in jax.tree.leaves(result[f"down_{inner}"]))
    for deeper in range(level + 1, 2):
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(result[f"down_{deeper}"]))


@pytest.mark.parametrize(
    ("upsample", "width", "depth"),
    [
        ("transpose", 3, 1),
        ("transpose", 2, 3),
        ("nearest", 2, 3),
        ("bilinear", 4, 1),
        ("bilinear_corners", 4, 2),
    ],
)
def test_depth_and_width_set_the_levels(upsample, width, depth):
    params = shapes(make(width=width, depth=depth, upsample=upsample, classes=5))["params"]
    names = {"bottom", "head"}
    for level in range(depth):
        names |= {f"down_{level}", f"up_{level}"}
        names |= {f"upconv_{level}"} if upsample == "transpose" else set()
        kernels = [layer["kernel"] for layer in params[f"down_{level}"].values()]
        assert {kernel.shape[-1] for kernel in kernels} == {width * 2**level}
    assert set(params) == names
    bottom = max(layer["kernel"].shape[-1] for layer in params["bottom"].values())
    assert bottom == width * 2 ** (depth if upsample == "transpose" else depth - 1)
    assert params["head"]["kernel"].shape == (1, 1, width, 5)


def test_a_strided_convolution_pools_the_second_u_net():
    model = make(name="unet2", width=2, depth=1)
    params = variables_of(model)["params"]
    params["pool_0"]["bias"] = images(1, 2)
    x = images(0, 1, 6, 4, 3)

    def block(name, features, x):
        return ConvBlock(features, norm="none").apply({"params": params[name]}, x, False)

    skip = block("down_0", 2, x)
    # Each window is centred on an even row and column, with a zero beyond the edge.
    framed = np.pad(skip, ((0, 0), (1, 0), (1, 0), (0, 0)))
    pooled = np.zeros((1, 3, 2, 2)) + params["pool_0"]["bias"]
    for row, column in np.ndindex(3, 2):
        window = framed[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
        pooled[:, row, column] += np.einsum("nhwc,hwcf->nf", window, params["pool_0"]["kernel"])
    up = UpConv(2).apply({"params": params["upconv_0"]}, block("bottom", 4, pooled))
    up = block("up_0", 2, jnp.concatenate([skip, up], axis=-1))
    expected = up @ params["head"]["kernel"][0, 0] + params["head"]["bias"]
    logits = model.apply({"params": params}, x)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_an_unknown_network_is_refused():
    with pytest.raises(KeyError):
        make(name="vnet")


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"name": "unet2", "padding": "valid"},
            "padding='valid': unet2 .* or model.name='unet' or 'attention_unet'$",
        ),
        (
            {"name": "segnet", "padding": "valid"},
            "padding='valid': segnet .* choose 'same', ",
        ),
        (
            {"name": "unet2", "upsample": "nearest"},
            "upsample='nearest': unet2 .* choose 'tr",
        ),
        (
            {"name": "segnet", "upsample": "bilinear"},
            "upsample='bilinear': segnet .* choose 'tr",
        ),
        (
            {"padding": "valid", "upsample": "bilinear"},
            "'valid' with .*'bilinear': .* choose 'tr",
        ),
        (
            {"padding": "valid", "upsample": "bilinear_corners"},
            "'valid' with .*'bilinear_corners': .* choose 'tr",
        ),
    ],
)
def test_a_choice_that_a_network_does_not_have_is_refused(fields, line):
    with pytest.raises(UserError, match=line) as error:
        make(**fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", models.NETWORKS)
def test_input_channels_follow_from_the_shapes_of_the_variables(name, channels=2):
    model = make(depth=1, name=name, norm="batch")
    leaves = jax.tree_util.tree_leaves_with_path(shapes(model, channels))
    found = {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}
    assert model.in_channels(found) == channels


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float32", "float32"), ("bfloat16", "bfloat16"), ("auto", "float32")],
)
def test_dtype_auto_is_float32_on_the_cpu(dtype, expected):
    assert make(dtype=dtype).dtype == jnp.dtype(expected)


@pytest.mark.parametrize("backend", ["gpu", "tpu"])
def test_dtype_auto_is_bfloat16_on_accelerators(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert make(dtype="auto").dtype == jnp.bfloat16
    assert make(dtype="float32").dtype == jnp.float32


@pytest.mark.parametrize(("dtype", "largest"), [(np.uint8, 255), (np.uint16, 65535)])
@pytest.mark.parametrize(
    ("input_range", "expected"), [("symmetric", [-1, -0.6, 1]), ("unit", [0, 0.2, 1])]
)
def test_scale_spreads_the_type_s_range(dtype, largest, input_range, expected):
    values = np.array([0, largest // 5, largest], dtype)
    scaled = models.scale(jnp.asarray(values), Intensities(input_range))
    assert scaled.dtype == jnp.float32
    np.testing.assert_allclose(scaled, expected, rtol=0, atol=1e-6)
    first = models.scale(jnp.asarray(values[:1]), Intensities(input_range))
    np.testing.assert_array_equal(first, scaled[:1])


def test_probabilities_of_one_logit_are_a_sigmoid():
    logits = np.array([[-2.0], [0.0], [3.0]])
    expected = 1 / (1 + np.exp(-logits))
    result = models.probabilities(jnp.asarray(logits, jnp.float32))
    assert result.shape == (3, 1)
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_probabilities_of_three_logits_are_a_softmax():
    logits = np.array([[[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]], [[5.0, -5.0, 0.0], [100.0, 0, 0]]])
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    result = models.probabilities(jnp.asarray(logits, jnp.float32))
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-7)


def test_init_follows_from_the_seed_alone():
    model = make(width=1, depth=1, norm="batch", upsample="nearest")
    first, again, other = (models.init(model, 1, seed) for seed in (7, 7, 8))
    expected = shapes(model, channels=1)
    assert jax.tree.structure(first) == jax.tree.structure(expected)
    assert set(first) == {"params", "batch_stats"}
    for leaf, like in zip(jax.tree.leaves(first), jax.tree.leaves(expected), strict=True):
        assert isinstance(leaf, np.ndarray)
        assert (leaf.shape, leaf.dtype) == (like.shape, like.dtype)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), first, other)
    for path, value in jax.tree_util.tree_leaves_with_path(changed):
        assert value == (path[-1].key == "kernel"), jax.tree_util.keystr(path)


def convolution_flop(params, depth: int, size: int) -> int:
    """2 x (kernel's numbers) x (positions it is applied at), summed over the convolutions."""
    total = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        block, kind = path[0].key, path[-1].key
        if kind != "kernel":
            continue
        level = {"bottom": depth, "head": 0}.get(block)
        if level is None:
            # A transposed convolution is applied once for each of its input's pixels.
            level = int(block.rpartition("_")[2]) + block.startswith("upconv")
        total += 2 * leaf.size * (size >> level) ** 2
    return total


@pytest.mark.parametrize(
    ("width", "depth", "size", "upsample"),
    [
        pytest.param(64, 4, 512, "transpose", marks=pytest.mark.slow),
        (16, 1, 256, "transpose"),
        (16, 2, 256, "nearest"),
    ],
)
def test_forward_gflop_is_that_of_the_convolutions(width, depth, size, upsample):
    model = make(width=width, depth=depth, norm="batch", upsample=upsample)
    variables = shapes(model)
    expected = convolution_flop(variables["params"], depth, size) / 1e9
    gflop = models.forward_gflop(model, variables, size, channels=3)
    assert gflop == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("network", ["transpose", "valid", "unet2", "segnet", "pairs"])
def test_the_last_layer_of_a_bfloat16_network_is_float32(network):
    """Its logits are those of a float32 layer on the features that bfloat16 layers left."""
    fields = NETWORKS.get(network, {}) | {"dtype": "bfloat16", "depth": 1, "norm": "batch"}
    model = make(**fields, classes=1, platform="tpu" if network == "pairs" else "cpu")
    variables = variables_of(model)
    method = "core" if network == "valid" else None
    logits, captured = jax.jit(
        functools.partial(
            model.apply, method=method, capture_intermediates=True, mutable=["intermediates"]
        )
    )(variables, images(0, 1, 48, 48, 3))
    (features,) = captured["intermediates"]["up_0"]["__call__"]
    assert features.dtype == jnp.bfloat16 and logits.dtype == jnp.float32
    if network == "pairs":
        features = unpair(features)
    head = variables["params"]["head"]
    expected = jax.lax.conv_general_dilated(
        features.astype(jnp.float32),
        head["kernel"],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(logits, expected + head["bias"], rtol=1e-5, atol=1e-5)
    assert len(np.unique(models.probabilities(logits))) > 2**8
