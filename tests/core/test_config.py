"""The configs that are there, what `check` refuses, and what two experiments share."""

import functools
import importlib
import json
import pathlib
import re
import string

import pytest
from ml_collections import ConfigDict

import configs
from configs import base
from unet_jax import models
from unet_jax.core.config import differences, digest, flatten
from unet_jax.core.errors import UserError
from unet_jax.data.augment.transforms import TRANSFORMS
from unet_jax.learning import losses, optim
from unet_jax.runs.experiment import check, resolve
from unet_jax.runs.options import selected_options

FOLDER = pathlib.Path(configs.__file__).parent
FILES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
VARIANTS = [
    "isbi:small",
    "isbi:small,elastic,weight_map",
    "isbi:small,pretrained",
    "isbi:flips,dropout,randaugment,black",
    "carvana:sample",
    "drive:native,small,bce",
    "drive:bce_dice",
    "drive:native,small,pretrained",
    "drive:native,bce_dice_cldice",
    "ph2:unet2,dice",
    "ph2:attention_unet,bce,deep,small",
    "ph2:segnet,focal,small",
    "ph2:unet,focal,augmented,small",
    "voc:trainaug,ce_dice",
    "voc:weighted,small",
]
EXPERIMENTS = [*FILES, *VARIANTS]
FIELDS = flatten(base.get_config())
FREE = {"name", "data.root", "data.download", "data.workers", "cpu_devices", "plan.minutes"}
FREE |= {"eval.batch_size", "eval.metrics", "log.every_steps"}
FREE |= {"checkpoint.every_epochs", "checkpoint.keep", "optim.patience", "model.remat"}

STRENGTHS = [
    field
    for field in FIELDS
    if field.startswith("augment.") and field not in ("augment.outside", "augment.elastic_grid")
]


def get(experiment: str) -> ConfigDict:
    name, _, variant = experiment.partition(":")
    module = importlib.import_module(f"configs.{name}")
    return module.get_config(variant) if variant else module.get_config()


def base_with(changes: dict) -> ConfigDict:
    config = base.get_config()
    config.update_from_flattened_dict(changes)
    return config


def altered(field: str):
    """Another value of the field's type."""
    value = base_with({}).to_dict()
    for key in field.split("."):
        value = value[key]
    if isinstance(value, str):
        return f"{value}-other"
    if isinstance(value, bool):
        return not value
    return (*value, *(value[:1] or (0.5,))) if isinstance(value, tuple) else value + 1


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_config_is_an_experiment(experiment):
    config = get(experiment)
    check(config)
    options = selected_options(flatten(config))
    assert set(flatten(config)) == {*FIELDS, *options}  # nothing else has fields
    classes = [f"class-{k}" for k in range(max(2, config.model.classes))]
    config = resolve(config, classes)
    losses.build(**config.loss)
    encoder = models.build(**config.model).encoder_modules
    optim.build(config.optim, optim.build_schedule(config.optim, config.num_epochs, 1), encoder)


def test_the_published_experiments_exist():
    wanted = {"base", "demo", "isbi", "drive", "carvana", "voc", "ph2", "folder"}
    assert wanted <= set(FILES)
    assert digest(get("isbi")) != digest(get("isbi:small"))


def test_each_config_has_a_name_of_its_own():
    names = [get(experiment).name for experiment in EXPERIMENTS]
    assert len(set(names)) == len(names)


def test_getting_a_config_does_not_change_another():
    changed = base.get_config()
    changed.model.width = 3
    assert base.get_config().model.width == FIELDS["model.width"] != 3


@pytest.mark.parametrize("name", ["isbi", "drive", "carvana", "voc", "ph2"])
def test_an_unknown_variant_is_refused(name):
    with pytest.raises(UserError, match=rf"configs/{name}.py:tiny: no such .*; "):
        get(f"{name}:tiny")


@pytest.mark.parametrize(
    ("classes", "logits", "loss"), [(["a", "b"], 1, "bce"), (["a", "b", "c"], 3, "cross_entropy")]
)
def test_automatic_values_are_resolved_from_the_data(classes, logits, loss):
    config = get("folder")
    resolved = resolve(config, classes)
    assert (resolved.model.classes, resolved.loss.name) == (logits, loss)
    assert (config.model.classes, config.loss.name) == (0, "auto")
    assert digest(resolve(resolved, classes)) == digest(resolved)


def test_two_classes_may_have_two_logits():
    config = base_with({"model.classes": 2, "loss.name": "cross_entropy"})
    assert resolve(config, ["a", "b"]).model.classes == 2


@pytest.mark.parametrize("logits", [1, 2, 4])
def test_a_number_of_logits_that_the_data_do_not_have_is_refused(logits):
    name = "bce" if logits == 1 else "cross_entropy"
    config = base_with({"model.classes": logits, "loss.name": name})
    with pytest.raises(UserError, match=r"has 3 classes \(a, b, c\); set it to 3, or to 0"):
        resolve(config, ["a", "b", "c"])


def test_a_weight_map_is_of_two_classes():
    config = base_with({"data.border_weight": 10.0, "model.classes": 0, "loss.name": "auto"})
    assert resolve(config, ["a", "b"]).data.border_weight == 10
    with pytest.raises(UserError, match=r"^data\.border_weight=10\.0: .*has 3; set it to 0"):
        resolve(config, ["a", "b", "c"])


def test_windows_with_foreground_are_of_crops():
    check(base_with({"data.foreground": 0.5, "data.fit": "crop"}))
    with pytest.raises(UserError, match=r"^data\.foreground=0\.5: .*data\.fit=resize .*crop"):
        check(base_with({"data.foreground": 0.5, "data.fit": "resize"}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data.name", "imagenet"),
        ("model.name", "vnet"),
        ("data.fit", "pad"),
        ("data.input_range", "standard"),
        ("model.norm", "layer"),
        ("model.padding", "reflect"),
        ("model.upsample", "bicubic"),
        ("model.dtype", "float16"),
        ("loss.name", "hinge"),
        ("optim.name", "lion"),
        ("optim.schedule", "linear"),
        ("data.augment", ("flip", "spin")),
        ("batch_size", 0),
        ("num_epochs", 0),
        ("data.size", 0),
        ("data.crops_per_image", 0),
        ("data.foreground", 1.1),
        ("model.classes", -1),
        ("model.width", 0),
        ("model.depth", 0),
        ("eval.every_epochs", 0),
        ("eval.batch_size", -4),
        ("log.every_steps", 0),
        ("checkpoint.every_epochs", 0),
        ("checkpoint.keep", 0),
        ("seed", -1),
        ("data.workers", -1),
        ("data.border_weight", -0.5),
        ("data.border_sigma", 0.0),
        ("optim.warmup_epochs", -0.5),
        ("optim.momentum", -0.1),
        ("optim.weight_decay", -1e-4),
        ("optim.clip_norm", -1.0),
        ("optim.encoder_rate", -0.1),
        ("optim.encoder_rate", 1001.0),
        ("optim.frozen_epochs", -0.5),
        ("optim.frozen_norm", "decoder"),
        ("optim.learning_rate", -1e-3),
        ("optim.step_epochs", 0.0),
        ("optim.step_factor", 0.0),
        ("model.dropout", -0.1),
        ("model.dropout", 1.0),
        ("optim.ema_decay", -0.1),
        ("optim.ema_decay", 1.0),
        ("loss.weights", (1.0, -2.0)),
        ("loss.class_weights", (1.0, -2.0)),
        ("loss.dice_smooth", 0.0),
        ("loss.focal_gamma", -1.0),
        ("eval.threshold", -0.1),
        ("eval.threshold", 1.0),
        ("augment.outside", "mirror"),
        ("augment.elastic_grid", 1),
        ("augment.rotation_degrees", 181.0),
        ("augment.shift", 1.5),
        ("augment.scale", 3.5),
        ("augment.shear", 0.95),
        ("augment.elastic_pixels", 1001.0),
        ("augment.brightness", 1.5),
        ("augment.contrast", 1.5),
        ("augment.gamma", 9.5),
        ("augment.hue", 0.6),
        ("augment.saturation", 1.5),
        ("augment.blur", 100.5),
        ("augment.noise", 1.5),
        ("augment.randaugment_number", 101),
        ("augment.randaugment_magnitude", 10.5),
        *((field, -1) for field in STRENGTHS if field.endswith("_number")),
        *((field, -0.5) for field in STRENGTHS if not field.endswith("_number")),
    ],
)
def test_check_names_the_field_of_a_bad_value(field, value):
    with pytest.raises(UserError, match=rf"^{re.escape(field)}=") as caught:
        check(base_with({field: value}))
    bad = value[-1] if isinstance(value, tuple) else value
    assert repr(bad) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "field",
    [
        "data.border_weight",
        "data.border_sigma",
        "optim.learning_rate",
        "optim.step_epochs",
        "optim.step_factor",
        "optim.warmup_epochs",
        "optim.momentum",
        "optim.weight_decay",
        "optim.clip_norm",
        "optim.ema_decay",
        "optim.encoder_rate",
        "optim.frozen_epochs",
        "loss.dice_smooth",
        "loss.focal_gamma",
        "model.dropout",
        "eval.threshold",
        *(field for field in STRENGTHS if not field.endswith("_number")),
    ],
)
def test_check_refuses_nan(field):
    with pytest.raises(UserError, match=rf"^{re.escape(field)}="):
        check(base_with({field: float("nan")}))


def test_a_field_that_is_none_of_base_s_is_named_with_the_nearest():
    config = base.get_config()
    config.model.widht = 3
    with pytest.raises(UserError, match=r"^model\.widht: no such field; .* model\.width"):
        check(config)
    config = base.get_config()
    del config.model.width
    with pytest.raises(UserError, match=r"^model\.width: the config lacks this field"):
        check(config)


def test_poolings_that_leave_no_pixel_of_a_window_are_refused():
    check(base_with({"model.depth": 4, "data.size": 16}))
    with pytest.raises(UserError, match=r"^model\.depth=5 with data\.size=31: .* 32 pixels"):
        check(base_with({"model.depth": 5, "data.size": 31}))


@pytest.mark.parametrize(
    "changes",
    [
        {"loss.name": "bce", "model.classes": 2},
        {"loss.name": "cross_entropy", "model.classes": 1},
        {"loss.name": "dice+cross_entropy", "model.classes": 1},
    ],
)
def test_check_refuses_a_loss_that_does_not_go_with_the_logits(changes):
    with pytest.raises(UserError, match=r"loss\.name.*model\.classes"):
        check(base_with(changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"loss.name": "cross_entropy", "model.classes": 2},
        {"loss.name": "cross_entropy", "model.classes": 21},
        {"loss.name": "bce+dice", "loss.weights": (1.0, 0.5), "loss.class_weights": (1.0, 2.0)},
        {"loss.name": "focal", "model.classes": 3},
        {"data.augment": ()},
        {"data.augment": tuple(TRANSFORMS)},
        {field: 0 if field.endswith("_number") else 0.0 for field in STRENGTHS},
        {"augment.rotation_degrees": 180.0, "augment.shift": 1.0, "augment.hue": 0.5},
        {"model.dropout": 0.5, "eval.threshold": 0.01},
        {"seed": 0, "data.workers": 0, "batch_size": 1, "model.depth": 1, "model.width": 1},
        {"optim.warmup_epochs": 0.5, "optim.clip_norm": 1.0, "optim.weight_decay": 1e-4},
        {"optim.encoder_rate": 0.0, "optim.frozen_epochs": 1e3, "optim.frozen_norm": "all"},
        {"optim.learning_rate": 0.0, "optim.frozen_norm": "encoder", "optim.frozen_epochs": 0.5},
    ],
)
def test_check_accepts_what_makes_an_experiment(changes):
    check(base_with(changes))


def test_flatten_is_sorted_and_has_lists_for_tuples():
    nested = {"b": {"z": 1, "a": {"y": (1, 2), "x": None}}, "a": "text", "c": [3]}
    flat = flatten(nested)
    assert flat == {"a": "text", "b.a.x": None, "b.a.y": [1, 2], "b.z": 1, "c": [3]}
    assert list(flat) == sorted(flat)
    assert type(flat["b.a.y"]) is list
    assert flatten(ConfigDict(nested)) == flat


def test_digest_is_twelve_hexadecimal_digits():
    value = digest(base.get_config())
    assert len(value) == 12
    assert set(value) <= set(string.hexdigits.lower())


def test_a_config_file_has_the_digest_of_the_config():
    config = base_with({"num_epochs": 7, "optim.schedule": "cosine"})
    saved = json.loads(json.dumps(config.to_dict()))
    assert digest(saved) == digest(config)
    assert differences(saved, config) == []
    backwards = dict(reversed(saved.items()))
    assert digest(backwards) == digest(config)


@pytest.mark.parametrize(
    ("field", "schedule"),
    [*((field, "constant") for field in FIELDS), ("num_epochs", "cosine"), ("num_epochs", "step")],
)
def test_digest_changes_with_the_fields_that_change_results(field, schedule):
    fixed = {"optim.schedule": schedule, "model.dtype": "float32"}  # `auto` differs from none
    before = base_with(fixed)
    after = base_with(fixed | {field: altered(field)})
    counts = schedule == "cosine" if field == "num_epochs" else field not in FREE
    assert (digest(before) != digest(after)) == counts
    assert bool(differences(before, after)) == counts


@pytest.mark.parametrize(
    ("dtype", "recorded", "platform", "expected"),
    [
        ("auto", None, "cpu", "float32"),
        ("auto", None, "gpu", "bfloat16"),
        ("auto", None, "tpu", "bfloat16"),
        ("auto", "bfloat16", "cpu", "bfloat16"),  # the run began on an accelerator
        ("auto", "float32", "gpu", "float32"),
        ("auto", "auto", "gpu", "bfloat16"),  # a run of an earlier version
        ("float32", "bfloat16", "gpu", "float32"),  # as said; the folder is refused later
    ],
)
def test_the_arithmetic_is_resolved(dtype, recorded, platform, expected):
    config = resolve(base_with({"model.dtype": dtype}), ["a", "b"], recorded, platform)
    assert config.model.dtype == expected
    assert digest(config) == digest(base_with({"model.dtype": expected}))


def test_a_recorded_arithmetic_that_is_none_is_refused():
    with pytest.raises(UserError, match=r"model\.dtype='float12': unknown"):
        resolve(base.get_config(), ["a", "b"], "float12")


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_a_run_that_left_the_arithmetic_to_the_machine_matches_any(dtype):
    early, now = base_with({"model.dtype": "auto"}), base_with({"model.dtype": dtype})
    assert differences(early, now) == differences(now, early) == []
    narrow = base_with({"model.dtype": dtype, "model.width": 8})
    assert differences(early, narrow) == ["model.width: 64 in the run, 8 in the config"]


def test_free_fields_are_fields():
    assert set(FIELDS) >= FREE


@pytest.mark.parametrize("field", sorted(set(FIELDS) - FREE - {"num_epochs"}))
def test_a_run_from_before_a_field_existed_equals_one_with_the_default(field):
    before = base.get_config().to_dict()
    *groups, name = field.split(".")
    del functools.reduce(dict.__getitem__, groups, before)[name]
    assert digest(before) == digest(base.get_config())
    assert differences(before, base.get_config()) == []
    if field in ("seed", "model.dtype"):  # `auto` matches any
        return
    changed = base_with({field: altered(field)})
    (line,) = differences(before, changed)
    assert line.startswith(f"{field}: ")


def test_differences_name_field_and_values():
    there, here = base_with({"model.width": 16}), base_with({"model.width": 32, "name": "other"})
    assert differences(there, here) == ["model.width: 16 in the run, 32 in the config"]
