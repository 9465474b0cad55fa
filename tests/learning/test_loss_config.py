"""Tests of the config fields of a loss: which values and combinations are accepted."""

import functools
import math
import pathlib

import jax
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
        ({"name": "boundary", "boundary_pixels": 0}, r"^loss\.boundary_pixels=0: must be a whole"),
        ({"name": "cldice", "cldice_iterations": 101}, r"^loss\.cldice_iterations=101: must be a"),
        (
            {"name": "tversky", "tversky_beta": 0.0},
            r"^loss\.tversky_beta=0\.0: must be a n",
        ),
        *(
            ({"name": name, field: value}, rf"^loss\.{field}={value}: must be a number in \[")
            for name, field, values in (
                ("bce+dice", "dice_smooth", (0.0, math.nan, math.inf)),
                ("focal", "focal_gamma", (-1.0, math.nan, math.inf)),
                ("bce", "label_smoothing", (-0.1, 1.0, math.nan)),
                ("focal_tversky", "focal_tversky_gamma", (0.5, math.nan)),
                ("boundary", "boundary_weight", (-1.0, math.inf)),
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


def test_label_smoothing_without_a_term_that_smooths_is_refused():
    fields = FIELDS | {"label_smoothing": 0.1}
    check(**fields | {"name": "dice+bce"}, classes=1)
    with pytest.raises(
        UserError, match=r"^loss\.label_smoothing=0\.1 with loss\.name='focal': only"
    ):
        check(**fields | {"name": "focal"}, classes=1)


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
        *(
            (name, (), False)
            for name in ("boundary", "cldice", "focal_tversky", "lovasz", "tversky")
        ),
    ],
)
@pytest.mark.usefixtures("quick_compilation")
def test_only_a_mean_over_pixels_is_pooled_from_images(name, class_weights, plain):
    fields = {"weights": (), "dice_smooth": 1.0, "focal_gamma": 2.0}
    fields |= {"name": name, "class_weights": class_weights}
    loss = jax.jit(build(**fields))
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(2, 4, 5, 1)).astype(np.float32)
    label = (rng.random((2, 4, 5)) < 0.1).astype(np.uint8)
    label[0, :3] = 255
    each = [float(loss(logits[i : i + 1], label[i : i + 1])) for i in range(2)]
    pooled = np.average(each, weights=(label != 255).sum((1, 2)))
    same = float(loss(logits, label)) == pytest.approx(pooled, rel=1e-5)
    assert same == plain == is_mean_over_pixels(**fields)


def test_the_page_of_losses_lists_every_term_with_its_fields_and_their_defaults():
    page = (pathlib.Path(__file__).parents[2] / "docs" / "losses.md").read_text()
    rows = {
        line.split("`")[1]: line.rpartition("|")[0].rpartition("|")[2].strip()
        for line in page.splitlines()
        if line.startswith("| `") and not line.startswith("| `loss.name`")
    }
    assert set(rows) == set(LOSSES)
    tversky = LOSSES["tversky"].fields.keys()
    for name, row in rows.items():
        fields = dict(LOSSES[name].fields)
        if row.startswith("as `tversky`, "):
            row = row.removeprefix("as `tversky`, ")
            fields = {field: x for field, x in fields.items() if field not in tversky}
        shown = [
            f"`{field.removeprefix('loss.')}` {round(x.default, 3)}" for field, x in fields.items()
        ]
        assert row == ", ".join(shown), name
