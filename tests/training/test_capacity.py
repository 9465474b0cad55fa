"""The size of a network, and what is refused before anything is built."""

import importlib

import jax
import jax.numpy as jnp
import pytest

from unet_jax import models
from unet_jax.core.errors import UserError
from unet_jax.data.dataset import PARTS, Dataset, Split
from unet_jax.distributed import devices, memory
from unet_jax.models.size import GIB, check_parameters, measure
from unet_jax.runs.experiment import check, resolve
from unet_jax.training.capacity import check_fits, fits

UNET = {
    "name": "unet", "classes": 1, "width": 4, "depth": 2, "padding": "same", "norm": "batch",
    "upsample": "transpose", "dropout": 0.0, "dtype": "float32",
}  # fmt: skip


def of_size(side: int, channels: int, classes: int) -> Dataset:
    split = Split(("a",), ((side, side),), lambda _: pytest.fail("nothing is read"))
    return Dataset(dict.fromkeys(PARTS, split), ("c",) * classes, channels, {})


def test_a_size_is_that_of_the_network():
    model = models.build(**UNET)
    size = measure(model, channels=3, side=16)
    image = jnp.zeros((1, 16, 16, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    assert size.parameters == models.parameter_count(shapes)
    # Two convolutions a level on the way down and up, and the head.
    values = 4 * 4 * 16**2 + 4 * 8 * 8**2 + 2 * 16 * 4**2 + 16**2
    assert size.activations == 4 * values
    assert size.largest == 4 * 4 * 16**2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "unet2", "segnet"])
def test_the_largest_network_of_the_ranges_is_refused(name):
    model = models.build(**{**UNET, "name": name, "width": 16384, "depth": 15})
    with pytest.raises(UserError, match=r"parameters, which take .* GiB.*; lower model\.width"):
        models.init(model, 3, 0)


def test_parameters_that_have_room_are_not_refused():
    check_parameters(31_037_698)
    with pytest.raises(UserError):
        check_parameters(10**13)


@pytest.mark.parametrize(
    ("changes", "training", "parts"),
    [
        (
            {"batch_size": 10**6, "model.width": 16},
            True,
            ("batch_size=1000000", "lower batch_size"),
        ),
        ({"data.size": 32768}, True, ("data.size=32768", "data.size")),
        ({"model.width": 8192}, True, ("model.width=8192", "parameters")),
        ({"model.width": 8192}, False, ("model.width=8192", "parameters")),
        ({"eval.batch_size": 10**6}, False, ("eval.batch_size=1000000", "lower eval.batch_size")),
    ],
)
def test_an_error_for_too_little_memory_names_the_fields_to_lower(config, changes, training, parts):
    config.update_from_flattened_dict(changes)
    check(config)
    with pytest.raises(UserError, match=r"takes at least .* GiB .* but this host") as error:
        check_fits(config, of_size(512, 3, 2), devices.local_mesh(), training=training)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    "experiment",
    ["voc", *(pytest.param(name, marks=pytest.mark.slow) for name in ("base", "isbi", "ph2"))],
)
def test_the_published_experiments_fit_into_one_chip(experiment, monkeypatch):
    """Of the smallest TPU; each at 572x572, the paper's window."""
    monkeypatch.setattr(memory, "memory_bytes", lambda _: 16 * GIB)
    config = importlib.import_module(f"configs.{experiment}").get_config()
    config.data.size = 572
    classes = 21 if experiment == "voc" else 2
    config = resolve(config, ["c"] * classes)
    mesh = devices.local_mesh(devices.local_mesh().devices.flat[:1].tolist())
    check_fits(config, of_size(572, 3, classes), mesh, training=True)


def test_a_step_is_sure_to_fit_with_three_times_its_lower_bound(config, monkeypatch):
    mesh = devices.local_mesh(jax.devices()[:1])
    size = measure(models.build(**config.model), channels=1, side=config.data.size)
    bound = 3 * 4 * size.parameters + 8 * size.activations
    for room, expected in ((3 * bound, True), (3 * bound - 1, False)):
        monkeypatch.setattr(memory, "memory_bytes", lambda _, room=room: room)
        assert fits(config, 8, 1, mesh) == expected
