"""Every registered network and loss: gradients, devices and tiles.

The networks are `variants`, which come from the registry; each is trained with the sum of all
registered losses. Other files test the same networks: that a run resumes (training/test_resume.py),
exports (interchange/) and compiles for TPUs (benchmarks/tpu/test_compile.py). What each loss does
with logits, whatever network they are from, is tested in learning/test_every_loss.py.
"""

import jax
import numpy as np
import pytest
from made_data import make_split
from made_files import noise
from made_networks import all_losses, variants, with_network
from pictures import _no_pictures as _no_pictures
from shared_programs import _shared_programs as _shared_programs
from tiled import in_tiles, random_predictor
from training_steps import assert_trees_close, mesh_of, updates

from unet_jax import models
from unet_jax.learning.registry import LOSSES

VARIANTS = variants()


def test_the_variants_have_every_choice_of_every_network_and_the_sums_every_loss(documented):
    documented("unet_jax/models/link_unet.py")
    found = variants()
    for name, network in models.NETWORKS.items():
        own = [fields for fields in found.values() if fields["name"] == name]
        for field, values in network.choices.items():
            assert {fields.get(field, values[0]) for fields in own} == {*values}
    assert "link_unet" in found
    assert {*all_losses(1).split("+"), *all_losses(3).split("+")} == {*LOSSES}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_four_devices_train_as_one(config, variant):
    """Each network with every loss, and numbers of ignored pixels that differ between devices."""
    # Adam would turn the rounding of gradients that are almost 0 into whole steps.
    config.optim.name, config.optim.learning_rate = "sgd", 0.01
    loss = all_losses(3) if variant in models.NETWORKS else "cross_entropy"
    config = with_network(config, VARIANTS[variant], 3, loss)
    split = make_split(8, 16, seed=0)
    labels = split.read.args[1]
    for i in range(8):  # image i ignores i / 8 of its rows
        labels[i, : 2 * i] = 255
    (one, losses_of_one), (four, losses_of_four) = (
        updates(config, mesh_of(devices), split, steps=2) for devices in (1, 4)
    )
    np.testing.assert_allclose(losses_of_one, losses_of_four, rtol=1e-5)
    assert_trees_close(one.variables, four.variables, rtol=1e-3, atol=1e-5)
    start = models.init(models.build(**config.model), 1, config.seed)
    for path, before in jax.tree_util.tree_leaves_with_path(start["params"]):
        after = one.variables["params"]
        for part in path:
            after = after[part.key]
        # Without norms, a layer of so few channels may be 0 everywhere.
        assert config.model.norm == "none" or np.any(np.asarray(after) != before), path


# What they compute at a pixel depends on the size of the image, and so on that of the tile.
NOT_LOCAL = ({"norm": "group"}.items(), {"upsample": "bilinear_corners"}.items())
LOCAL = [x for x, fields in VARIANTS.items() if not any(y <= fields.items() for y in NOT_LOCAL)]


@pytest.mark.slow
@pytest.mark.parametrize("variant", LOCAL)
def test_tiles_are_the_whole_image(config, variant):
    """But for traces of what a tile does not see."""
    config = with_network(config, VARIANTS[variant], 1, "bce")
    one_network, image = random_predictor(config), noise((256, 192, 1))
    expected = in_tiles(one_network, image, 256)
    difference = np.abs(in_tiles(one_network, image, 128, overlap=96) - expected)
    assert expected.std() > 0.01
    assert np.median(difference) < 1e-5
    assert np.quantile(difference, 0.99) < 0.02
