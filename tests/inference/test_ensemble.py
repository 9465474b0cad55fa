import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import small_config

from unet_jax import models
from unet_jax.core.errors import UserError
from unet_jax.core.intensities import Intensities
from unet_jax.data.augment import randaugment, transforms
from unet_jax.data.augment.warp import Warp
from unet_jax.data.fit import Fit
from unet_jax.inference import ensemble

ALL_EIGHT = ensemble.Symmetries(ensemble.MIRRORS, ensemble.MIRRORS)


@pytest.mark.parametrize("classes", [1, 5])
@given(count=st.sampled_from([1, 3]), seed=st.integers(0, 2**16))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_probabilities_are_averaged(classes, count, seed):
    logits = 3 * np.random.default_rng(seed).normal(size=(count, 2, 3, classes))
    mean = np.mean([models.probabilities(jnp.asarray(single)) for single in logits], axis=0)
    averaged = models.probabilities(ensemble.average(jnp.asarray(logits)))
    np.testing.assert_allclose(averaged, mean, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("classes", [1, 3])
def test_certain_networks_have_finite_averages(classes):
    logits = np.full((2, 1, classes), -200, np.float32)
    logits[:, :, 0] = 200
    assert np.isfinite(ensemble.average(jnp.asarray(logits))).all()
    contrary = np.stack([logits[0], -logits[1]])
    averaged = models.probabilities(ensemble.average(jnp.asarray(contrary)))
    expected = 0.5 if classes == 1 else [0.5, 0.25, 0.25]
    np.testing.assert_allclose(averaged[0], expected, rtol=1e-5)


def symmetries(array: np.ndarray) -> list[np.ndarray]:
    """The eight of an array [N, H, W, C], by turning, with and without a mirror before."""
    both = (array, array[:, :, ::-1])
    return [np.rot90(image, turns, axes=(1, 2)) for image in both for turns in range(4)]


def corner_minded(factor: float, images: jax.Array, surrounded: bool = False) -> jax.Array:
    """A network that no symmetry leaves as it is; it sees whole images."""
    height, width = images.shape[1:3]
    rows, columns = jnp.arange(height)[:, None, None], jnp.arange(width)[:, None]
    return factor * jnp.cumsum(images, axis=1) / 9 - 0.3 * rows + 0.1 * columns**2


@pytest.mark.parametrize(
    "shape", [(2, 4, 4, 1), pytest.param((1, 6, 3, 3), marks=pytest.mark.slow)]
)
def test_all_eight_symmetries_are_averaged_in_place(shape):
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    # Of each of the eight images, the logits are turned back by the symmetry that undoes it.
    back = []
    for mirrored in (False, True):
        for turns in range(4):
            image = np.rot90(images[:, :, ::-1] if mirrored else images, turns, axes=(1, 2))
            logits = np.rot90(corner_minded(2.0, jnp.asarray(image)), -turns, axes=(1, 2))
            back.append(logits[:, :, ::-1] if mirrored else logits)
    assert len({logits.tobytes() for logits in back}) == 8
    expected = ensemble.average(jnp.asarray(np.stack(back)))
    found = ensemble.over_symmetries(corner_minded, ALL_EIGHT)(2.0, jnp.asarray(images))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "names",
    [
        ("mirror",),
        ("flip",),
        ("quarter_turn",),
        ("mirror", "quarter_turn", "noise"),
        (),
    ],
)
def test_training_symmetries_are_those_that_the_augmentation_draws(names):
    image = np.arange(9, dtype=np.uint8).reshape(1, 3, 3, 1)
    transform = transforms.build(names, {"noise": 0.0, "outside": "black"}, fit=Fit("crop", 3))
    example = {"image": image[0], "label": image[0, ..., 0], "index": 0}
    drawn = {
        transform(example, np.random.default_rng(seed))["image"].tobytes() for seed in range(200)
    }
    mirrors, transposed = ensemble.training_symmetries(names)
    averaged = [np.flip(image, axes).tobytes() for axes in mirrors]
    averaged += [np.flip(image.swapaxes(1, 2), axes).tobytes() for axes in transposed]
    assert {*averaged} == drawn and len(averaged) == len(drawn)


def test_randaugment_mirrors_and_turns_nothing():
    for operation in randaugment.OPERATIONS.values():
        for strength in (-1.0, 1.0):
            part = operation(strength, 64)
            if isinstance(part, Warp):  # at most 30 degrees, or sheared by 0.3
                assert np.abs(part.matrix - np.eye(2)).max() <= 0.5


@pytest.mark.parametrize("names", [(), ("rotation", "hue"), ("randaugment",)])
def test_a_run_without_training_symmetries_is_refused(names):
    assert ensemble.training_symmetries(names) == ensemble.NONE
    config = small_config(data__augment=names)
    ensemble.run_network(pathlib.Path("run"), config, symmetries=False)
    drawn = ", ".join(names) or r"\(\)"
    line = rf"^--tta: run was trained with data\.augment={drawn}, .* leave --tta out, or train with"
    with pytest.raises(UserError, match=line):
        ensemble.run_network(pathlib.Path("run"), config, symmetries=True)


def test_flip_and_quarter_turn_are_averaged_over_all_eight():
    assert ensemble.training_symmetries(("flip", "quarter_turn")) == ALL_EIGHT


@pytest.mark.parametrize("names", [("mirror",), ("flip",), ("quarter_turn",)])
def test_only_training_symmetries_are_averaged(names):
    images = np.random.default_rng(0).normal(size=(1, 4, 4, 1)).astype(np.float32)
    mirrors, transposed = ensemble.training_symmetries(names)
    each = []
    for rows, axes in [(False, axes) for axes in mirrors] + [(True, axes) for axes in transposed]:
        seen = images.swapaxes(1, 2) if rows else images
        logits = np.flip(corner_minded(2.0, jnp.asarray(np.flip(seen, axes))), axes)
        each.append(logits.swapaxes(1, 2) if rows else logits)
    found = ensemble.over_symmetries(corner_minded, ensemble.training_symmetries(names))(
        2.0, images
    )
    expected = ensemble.average(jnp.asarray(np.stack(each)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    everything = ensemble.over_symmetries(corner_minded, ALL_EIGHT)(2.0, images)
    assert not np.allclose(found, everything)


def test_a_turned_image_has_turned_probabilities():
    images = np.random.default_rng(1).normal(size=(1, 4, 6, 1)).astype(np.float32)
    network = jax.jit(ensemble.over_symmetries(corner_minded, ALL_EIGHT))
    found = [np.asarray(network(1.0, image)) for image in symmetries(images)]
    for turned, expected in zip(found, symmetries(found[0]), strict=True):
        np.testing.assert_allclose(turned, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("surrounded", [False, True])
def test_each_network_of_an_ensemble_has_its_own_variables_and_input_range(surrounded):
    fields = {"name": "unet", "width": 4, "depth": 1, "norm": "batch", "padding": "valid"}
    rest = {"upsample": "transpose", "dropout": 0.0, "dtype": "float32", "classes": 1}
    networks = [models.build(**fields, **rest) for _ in range(2)]
    variables = [models.init(model, 1, seed) for seed, model in enumerate(networks)]
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 24, 1), dtype=np.uint8)
    ranges = (Intensities("symmetric"), Intensities("unit"))
    functions = [ensemble.single_network(*pair) for pair in zip(networks, ranges, strict=True)]
    method = "core" if surrounded else None
    each = [
        jax.jit(functools.partial(model.apply, method=method))(
            own, models.scale(jnp.asarray(images), scale)
        )
        for model, own, scale in zip(networks, variables, ranges, strict=True)
    ]
    network = functools.partial(ensemble.ensemble_network(functions), surrounded=surrounded)
    found = jax.jit(network)(variables, images)
    assert found.shape == ((2, 4, 8, 1) if surrounded else (2, 20, 24, 1))
    np.testing.assert_allclose(found, ensemble.average(jnp.stack(each)), rtol=1e-5, atol=1e-6)
    symmetric = ensemble.over_symmetries(ensemble.ensemble_network(functions), ALL_EIGHT)
    symmetric = functools.partial(symmetric, surrounded=surrounded)
    assert jax.eval_shape(symmetric, variables, images).shape == found.shape
