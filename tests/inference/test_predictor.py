"""A stream of images through the network."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_files import noise
from made_runs import make_run, random_variables, small_config

from unet_jax import models
from unet_jax.core.errors import UserError
from unet_jax.core.intensities import Intensities
from unet_jax.distributed import devices as parallel
from unet_jax.inference.ensemble import single_network
from unet_jax.inference.predictor import PIXELS, Predictor, decide, load


def make(config, devices: int = 1, channels: int = 1) -> Predictor:
    mesh, network = parallel.local_mesh(jax.devices()[:devices]), models.build(**config.model)
    return Predictor(
        single_network(network, Intensities.of(config.data)),
        random_variables(config, channels),
        networks=[network],
        channels=channels,
        batch_size=config.eval.batch_size,
        mesh=mesh,
    )


def tile(shape, dtype=np.uint8, seed: int = 0) -> types.SimpleNamespace:
    return types.SimpleNamespace(image=noise((*shape, 1), dtype, seed), surrounded=False)


@pytest.mark.parametrize("devices", [1, 4])
def test_images_of_many_shapes_and_types_come_back_in_order(devices):
    config = small_config(data__input_range="unit", eval__batch_size=3)
    predictor, apply = make(config, devices), jax.jit(models.build(**config.model).apply)
    variables = random_variables(config, 1)
    shapes = [(8, 12)] * 7 + [(12, 8)] * 2 + [(8, 12)] * 4
    tiles = [tile(shape, seed=i) for i, shape in enumerate(shapes)]
    tiles.append(tile((8, 12), np.uint16, seed=99))
    results = list(predictor.stream(tiles))
    assert [t for t, _ in results] == tiles
    for found, probabilities in results:
        top = np.iinfo(found.image.dtype).max
        logits = apply(variables, found.image[None] / np.float32(top))
        expected = 1 / (1 + np.exp(-np.asarray(logits)[0]))
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities, expected, rtol=1e-4, atol=1e-6)


def test_no_more_is_read_ahead_than_two_batches():
    predictor = make(small_config(eval__batch_size=3))
    asked = []

    def tiles():
        for i in range(20):
            asked.append(i)
            yield tile((8, 8))

    stream = predictor.stream(tiles())
    for done in range(1, 10):
        next(stream)
        assert done <= len(asked) <= -(-done // 3) * 3 + 4
    assert len(asked) > 9  # the next batch was under way


def test_few_images_are_not_filled_up_but_the_last_of_many_are(monkeypatch):
    predictor, sizes = make(small_config(eval__batch_size=6), devices=2), []
    spread = parallel.spread

    def counted(images, mesh):
        sizes.append(len(images))
        return spread(images, mesh)

    monkeypatch.setattr(parallel, "spread", counted)
    assert len(list(predictor.stream([tile((8, 8))] * 3))) == 3
    assert len(list(predictor.stream([tile((8, 8))] * 8))) == 8
    assert sizes == [4, 6, 6]


def test_large_images_make_small_batches():
    predictor = make(small_config(eval__batch_size=8), devices=2)
    side = int(PIXELS**0.5)
    assert predictor.batch_size(side, side) == 8
    assert predictor.batch_size(8, 8) == 8
    assert predictor.batch_size(2 * side, side) == 4
    assert predictor.batch_size(side, 3 * side) == 2
    assert predictor.batch_size(9 * side, side) == 2  # one a device


def test_the_threshold_is_for_two_classes():
    one = np.array([[0.2, 0.5, 0.7]], np.float32)[..., None]
    assert decide(one, 0.5).tolist() == [[0, 0, 1]]
    assert decide(one, 0.1).tolist() == [[1, 1, 1]]
    assert decide(np.array([[[0.2, 0.5, 0.3]]]), 0.9).tolist() == [[1]]
    two = np.concatenate([1 - one, one], axis=-1)
    for threshold in (0.1, 0.5, 0.55):  # one rule for two classes, of one logit or of two
        assert decide(two, threshold).tolist() == decide(one, threshold).tolist()
    assert decide(one, 0.5).dtype == np.uint8


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("unet", 1),
        pytest.param("unet2", 3, marks=pytest.mark.slow),
        *(
            pytest.param(name, 3, marks=pytest.mark.slow)
            for name in ("segnet", "attention_unet", "residual_unet", "unet_plus_plus", "smp_unet")
        ),
    ],
)
def test_a_run_is_loaded_without_its_data(tmp_path, name, channels):
    config = small_config(model__name=name, model__classes=2, model__depth=1)
    make_run(tmp_path, config, channels, steps=(3, 5))
    mesh = parallel.local_mesh(jax.devices()[:1])
    image = types.SimpleNamespace(image=noise((8, 8, channels)), surrounded=False)
    for which, expected in (("best", 5), ("3", 3)):
        steps, _, predictor = load({tmp_path: config}, which, mesh)
        assert (steps, predictor.channels) == ([expected], channels)
        ((_, found),) = predictor.stream([image])
        variables = random_variables(config, channels, seed=expected)
        scaled = models.scale(jax.numpy.asarray(image.image[None]), Intensities())
        logits = jax.jit(models.build(**config.model).apply)(variables, scaled)
        np.testing.assert_allclose(found, jax.nn.softmax(logits)[0], atol=1e-5)


def test_a_run_without_checkpoints_is_named(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}: has no readable checkpoint"):
        load({tmp_path: small_config()}, "best", parallel.local_mesh())


@pytest.mark.slow
def test_several_runs_and_symmetries_share_their_verdict(tmp_path):
    """Of images that need not be square, by two networks of different depths."""
    configs = [small_config(model__depth=depth, data__size=8 * depth) for depth in (1, 2)]
    runs = {
        make_run(tmp_path / str(place), config, 1, steps=(place + 3,)): config
        for place, config in enumerate(configs)
    }
    image = tile((8, 12))
    each = []
    for place, config in enumerate(configs):
        variables = random_variables(config, 1, place + 3)
        apply = jax.jit(models.build(**config.model).apply)
        for mirror in (False, True):
            for turns in range(4):
                pixels = image.image[:, ::-1] if mirror else image.image
                seen = models.scale(
                    jnp.asarray(np.rot90(pixels, turns)[None].copy()), Intensities()
                )
                found = np.rot90(models.probabilities(apply(variables, seen))[0], -turns)
                each.append(found[:, ::-1] if mirror else found)
    steps, _, predictor = load(runs, "best", parallel.local_mesh(), symmetries=True)
    assert (steps, predictor.multiple) == ([3, 4], 4)
    ((_, found),) = predictor.stream([image])
    np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-5)


def test_symmetries_that_a_run_did_not_draw_are_refused(tmp_path):
    """Of a further run too, and before anything is read."""
    turned, plain = small_config(), small_config(data__augment=("rotation",))
    runs = {tmp_path / "a": turned, tmp_path / "b": plain}
    run = make_run(tmp_path / "a", turned, 1)
    for wrong in ({tmp_path / "b": plain}, runs):
        with pytest.raises(UserError, match=f"--tta: {tmp_path / 'b'} was .*data.augment=rotation"):
            load(wrong, "best", parallel.local_mesh(), symmetries=True)
    assert run == tmp_path / "a"


@pytest.mark.slow
def test_runs_on_other_channels_are_no_ensemble(tmp_path):
    config = small_config()
    runs = {make_run(tmp_path / str(n), config, channels=n): config for n in (1, 3)}
    with pytest.raises(UserError, match="3 channels, those of the first run 1"):
        load(runs, "best", parallel.local_mesh())
