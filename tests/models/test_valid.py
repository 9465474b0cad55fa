"""The unpadded U-Net: its sizes, its mirrored margin, and tiles that equal the whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unet_jax.models.unet import UNet, margin, valid_input_size


def make(**fields) -> UNet:
    return UNet(
        **{"classes": 2, "width": 3, "depth": 2, "padding": "valid", "norm": "none"} | fields
    )


def variables_of(model: UNet) -> dict:
    """Random values for everything, the variances positive."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        values = rng.normal(0, 0.4, leaf.shape).astype(leaf.dtype)
        return np.abs(values) + 0.5 if path[-1].key in ("var", "scale") else values

    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    return jax.tree_util.tree_map_with_path(
        draw, jax.eval_shape(model.init, jax.random.key(0), image)
    )


def images(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def mirrored(image: np.ndarray, depth: int) -> np.ndarray:
    """The image with its margin and what the poolings need, by numpy."""
    pads = [
        (margin(depth), valid_input_size(size, depth) - margin(depth) - size)
        for size in image.shape[1:3]
    ]
    return np.pad(image, ((0, 0), *pads, (0, 0)), "reflect")


@functools.cache
def core(model: UNet):
    return jax.jit(functools.partial(model.apply, method="core"))


@pytest.mark.parametrize(
    ("output", "depth", "size"),
    [(388, 4, 572), (389, 4, 588), (512, 4, 700), (4, 4, 188), (1, 4, 188), (2, 1, 18), (3, 1, 20)],
)
def test_valid_input_sizes(output, depth, size):
    assert valid_input_size(output, depth) == size


@pytest.mark.slow
def test_572_pixels_give_388_logits_as_in_the_paper():
    model = make(width=64, depth=4)
    assert margin(4) == 92
    tile = jax.ShapeDtypeStruct((1, 572, 572, 3), jnp.float32)
    init = functools.partial(model.init_with_output, method="core")
    logits, _ = jax.eval_shape(init, jax.random.key(0), tile)
    assert logits.shape == (1, 388, 388, 2)


@pytest.mark.parametrize("depth", [1, 2])
def test_the_core_takes_every_valid_size_and_needs_no_smaller_one(depth):
    model = make(width=1, depth=depth)
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    for output in (1, 4, 13, 30):
        size = valid_input_size(output, depth)
        image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
        logits = jax.eval_shape(core(model), variables, image)
        assert logits.shape[1] == size - 2 * margin(depth)
        assert output <= logits.shape[1] < output + 2**depth


def test_parameters_do_not_depend_on_the_padding():
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    same, valid = (
        jax.eval_shape(make(padding=padding).init, jax.random.key(0), image)
        for padding in ("same", "valid")
    )
    assert same == valid


@pytest.mark.parametrize(
    ("upsample", "norm"),
    [("transpose", "batch"), pytest.param("nearest", "none", marks=pytest.mark.slow)],
)
def test_tiles_equal_the_whole(upsample, norm):
    model = make(norm=norm, upsample=upsample)
    variables = variables_of(model)
    image = images(0, 2, 33, 38, 3)
    whole = np.asarray(jax.jit(model.apply)(variables, image))
    surrounded = mirrored(image, depth=2)
    size = valid_input_size(12, depth=2)
    scale = np.std(whole)

    def error(top, left):
        tile = surrounded[:, top : top + size, left : left + size]
        logits = core(model)(variables, tile)
        return np.max(np.abs(logits - whole[:, top : top + 12, left : left + 12])) / scale

    assert np.all(np.isfinite(whole)) and scale > 0
    for top, left in [(0, 0), (4, 24), (20, 8), (8, 12)]:
        assert error(top, left) < 1e-5
    for top, left in [(2, 0), (0, 1), (3, 6)]:  # other pixels meet in the poolings
        assert error(top, left) > 1e-3


def test_the_margin_is_mirrored(size=(2, 5)):
    model = make(norm="batch")
    variables = variables_of(model)
    image = images(0, 2, *size, 3)
    logits = np.asarray(jax.jit(model.apply)(variables, image))
    expected = core(model)(variables, mirrored(image, depth=2))[:, : size[0], : size[1]]
    assert logits.shape == (2, *size, 2)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.std(expected))


def test_logits_move_with_the_image_where_no_mirrored_pixel_is_seen():
    model = make()
    variables = variables_of(model)
    image = images(0, 1, 64, 60, 3)
    moved = np.roll(image, (4, 8), axis=(1, 2))
    apply = jax.jit(model.apply)
    before, after = apply(variables, image), apply(variables, moved)
    edge = margin(2)
    inside = np.asarray(before[:, edge : 64 - edge - 4, edge : 60 - edge - 8])
    there = after[:, edge + 4 : 64 - edge, edge + 8 : 60 - edge]
    assert inside.shape == (1, 20, 12, 2)
    np.testing.assert_allclose(there, inside, rtol=1e-4, atol=1e-4 * np.std(inside))
    assert not np.allclose(after, before, rtol=1e-2)


@pytest.mark.parametrize("place", [4, 5])
def test_a_logit_sees_its_margin_and_no_more(place):
    model = make(depth=1, width=4)
    variables = variables_of(model)
    size = valid_input_size(10, depth=1)

    @jax.jit
    def gradient(image, place):
        def logit(image):
            return model.apply(variables, image, method="core")[0, place, place].sum()

        return jax.grad(logit)(image)

    slopes = np.asarray(gradient(images(0, 1, size, size, 3), place))
    # The logits of a pooling window see the same pixels: 2^depth and a margin to either side.
    for axes in [(0, 2, 3), (0, 1, 3)]:
        seen = np.flatnonzero(np.any(slopes != 0, axis=axes))
        np.testing.assert_array_equal(seen, np.arange(4, 4 + 2 + 2 * margin(1)))


def test_the_skip_s_pixels_are_those_of_the_logit():
    model = make(depth=1, width=4)
    params = variables_of(model)["params"]
    # Nothing comes from below: what is left are two blocks of two convolutions.
    params = params | {"upconv_0": jax.tree.map(np.zeros_like, params["upconv_0"])}
    size = valid_input_size(10, depth=1)

    @jax.jit
    def gradient(image):
        def logit(image):
            return model.apply({"params": params}, image, method="core")[0, 3, 6].sum()

        return jax.grad(logit)(image)

    slopes = np.asarray(gradient(images(0, 1, size, size, 3)))
    for place, axes in [(3, (0, 2, 3)), (6, (0, 1, 3))]:
        centre = place + margin(1)
        seen = np.flatnonzero(np.any(slopes != 0, axis=axes))
        np.testing.assert_array_equal(seen, np.arange(centre - 4, centre + 5))
