"""Tests of the config fields of a loss: which values and combinations are accepted."""

import functools
import math

import numpy as np
import pytest

from unet_jax.core.errors import UserError
from unet_jax.learning.losses import build, check, is_mean_over_pixels
from unet_jax.learning.registry import LOSSES

FIELDS = {
    "name": "bce",
    "weights": (),
    "class_weights": (),
    "dice_smooth": 1.0,
    "focal_gamma": 2.0,
}


def test_the_names_that_configs_use():
    assert set(LOSSES) >= {"bce", "cross_entropy", "dice", "focal"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "hinge"}, r"^loss\.name='hinge': 'hinge' is unknown; choose one of .*bce, "),
        ({"name": ""}, r"^loss\.name='': '' is unknown; choose"),
        ({"name": "bce+"}, r"^loss\.name='bce\+': '' is unknown; choose"),
        ({"name": "bce + dice"}, r"^loss\.name='bce \+ dice': 'bce ' is unknown; choose"),
        ({"name": "bce+dice+bce"}, r"^loss\.name='bce\+dice\+bce': bce is repeated; name it once"),
        ({"weights": (1.0, 2.0)}, r"^loss\.weights=.* loss\.name='bce': 2 given; give 1, "),
        (
            {"name": "bce+dice", "weights": (1.0,)},
            r"^loss\.weights=\(1\.0,\) with loss\.name='bce\+dice': 1 given; give 2, one for each",
        ),
        ({"weights": (-1.0,)}, r"^loss\.weights=\(-1\.0,\): must be finite.*; give"),
        ({"weights": (float("nan"),)}, r"^loss\.weights=\(nan,\): must be finite"),
        ({"weights": (float("inf"),)}, r"^loss\.weights=\(inf,\): must be finite"),
        ({"weights": ("1",)}, r"^loss\.weights=\('1',\): must be finite, non-negative numbers"),
        ({"weights": (0.0,)}, r"^loss\.weights=\(0\.0,\): .*not all 0"),
        ({"class_weights": (1.0, -1.0)}, r"^loss\.class_weights=\(1\.0, -1\.0\): must be finite"),
        ({"class_weights": (1.0, float("inf"))}, r"^loss\.class_weights=.* must be finite"),
        ({"class_weights": (0.0, 0.0)}, r"^loss\.class_weights=.*not all 0"),
        *(
            ({"name": name, field: value}, rf"^loss\.{field}={value}: must be a number in \[")
            for name, field, values in (
                ("bce+dice", "dice_smooth", (0.0, math.nan, math.inf)),
                ("focal", "focal_gamma", (-1.0, math.nan, math.inf)),
            )
            for value in values
        ),
    ],
)
def test_build_and_check_refuse_invalid_fields(changes, message):
    for refuse in (build, functools.partial(check, classes=1)):
        with pytest.raises(UserError, match=message) as caught:
            refuse(**FIELDS | changes)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "classes"),
    [("bce", 2), ("dice+bce", 3), ("cross_entropy", 1), ("focal+cross_entropy", 1)],
)
def test_check_refuses_a_loss_for_another_number_of_logits(name, classes):
    with pytest.raises(UserError) as caught:
        check(**FIELDS | {"name": name}, classes=classes)
    wrong, suitable = ("bce", "cross_entropy") if classes > 1 else ("cross_entropy", "bce")
    message = str(caught.value)
    assert message.startswith(f"loss.name={name!r} with model.classes={classes}: {wrong} is not")
    assert {suitable, "dice", "focal"} <= {*message.rpartition("choose from ")[2].split(", ")}


@pytest.mark.parametrize(
    ("name", "classes", "given", "wanted"),
    [("bce", 1, 1, 2), ("bce", 1, 3, 2), ("dice", 2, 3, 2), ("focal", 21, 20, 21)],
)
def test_check_refuses_a_wrong_number_of_class_weights(name, classes, given, wanted):
    with pytest.raises(UserError, match=r"^loss\.class_weights=.* with model\.classes=") as caught:
        check(**FIELDS | {"name": name, "class_weights": (1.0,) * given}, classes=classes)
    assert f": {given} given; give {wanted}, one for each class" in str(caught.value)


@pytest.mark.parametrize(
    ("classes", "changes"),
    [
        (1, {}),
        (1, {"name": "bce+dice", "weights": (0, 1), "class_weights": [1, 0.0]}),
        (1, {"name": "dice+focal", "dice_smooth": 1e-8, "focal_gamma": 0.0}),
        (2, {"name": "cross_entropy", "class_weights": (1.0, 2.0)}),
        (21, {"name": "focal+cross_entropy+dice", "weights": [1.0, 2.0, 0.5]}),
    ],
)
def test_check_accepts_valid_fields(classes, changes):
    check(**FIELDS | changes, classes=classes)


@pytest.mark.parametrize(
    ("name", "class_weights", "plain"),
    [
        ("bce", (), True),
        ("focal", (), True),
        ("bce+focal", (), True),
        ("dice", (), False),
        ("bce+dice", (), False),
        ("bce", (1.0, 3.0), False),
    ],
)
def test_only_a_mean_over_pixels_is_pooled_from_images(name, class_weights, plain):
    fields = {"weights": (), "dice_smooth": 1.0, "focal_gamma": 2.0}
    fields |= {"name": name, "class_weights": class_weights}
    loss = build(**fields)
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(2, 4, 5, 1)).astype(np.float32)
    label = rng.integers(0, 2, (2, 4, 5)).astype(np.uint8)
    label[0, :3] = 255
    each = [float(loss(logits[i : i + 1], label[i : i + 1])) for i in range(2)]
    pooled = np.average(each, weights=(label != 255).sum((1, 2)))
    same = float(loss(logits, label)) == pytest.approx(pooled, rel=1e-5)
    assert same == plain == is_mean_over_pixels(**fields)
