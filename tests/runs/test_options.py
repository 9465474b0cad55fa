"""Fields that a data set or a network declares for itself: checked, completed and kept readable."""

import importlib
import json

import pytest

from configs import base, demo, voc
from unet_jax import data, models
from unet_jax.core.config import differences, digest, flatten
from unet_jax.core.errors import UserError
from unet_jax.core.fields import Field
from unet_jax.data.dataset import Dataset
from unet_jax.data.sources.registry import Source
from unet_jax.learning.registry import LOSSES, Term
from unet_jax.models.unet import UNet
from unet_jax.runs import choices, options
from unet_jax.runs.experiment import check, resolve, saved_config
from unet_jax.runs.folder import check_ours, read_config
from unet_jax.runs.options import complete, selected_options

# With model.dtype=float32, from when data.train_list was a field of every config.
DIGESTS = {
    "base": "df4470e12b2c",
    "isbi": "8fe6b6b06cc1",
    "isbi:small": "8a9d8abee888",
    "demo": "5cd45d95c350",
    "folder": "14d55e737c6a",
    "voc": "a3ceb025d8c9",
    "voc:trainaug": "a3d50c4d5bce",
    "drive": "0d86910ce96b",
    "carvana": "8ac3bab9b44e",
    "ph2": "6274e95af8f4",
}


def get(name: str):
    name, _, variant = name.partition(":")
    module = importlib.import_module(f"configs.{name}")
    config = module.get_config(variant) if variant else module.get_config()
    config.model.dtype = "float32"
    return config


def write_old_run(folder, config, train_list="train"):
    """A run that has begun, in the form in which every config had data.train_list."""
    (folder / "checkpoints").mkdir(parents=True)
    fields = config.to_dict()
    fields["data"]["train_list"] = train_list
    content = {"digest": digest(config), "config": fields}
    (folder / "config.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def letters(monkeypatch):
    """A data set and a network with options of their own."""

    def open_letters(section) -> Dataset:
        return Dataset({}, ("off", section.alphabet), 1, {})

    opened = Source(
        open_letters,
        {
            "data.alphabet": Field("latin", choices=("latin", "greek")),
            "data.height": Field(1.5, "[1, 9]"),
        },
    )

    class Vit(UNet):
        options = {"model.heads": Field(2, "[1, 8]")}  # noqa: RUF012 - as in a network's file
        heads: int = 2

    term = Term(lambda *_, **__: 0, range(1, 3), True, {"loss.slope": Field(0.5, "[0, 1]")})
    monkeypatch.setitem(options.SELECTORS, "loss.name", {**LOSSES, "ramp": term})
    datasets, networks = {**data.DATASETS, "letters": opened}, {**models.NETWORKS, "vit": Vit}
    monkeypatch.setattr(data, "DATASETS", datasets)
    monkeypatch.setattr(models, "NETWORKS", networks)
    for table in (options.SELECTORS, choices.CHOICES):
        monkeypatch.setitem(table, "data.name", datasets)
        monkeypatch.setitem(table, "model.name", networks)
    return {"data.name": "letters", "model.name": "vit"}


@pytest.mark.parametrize("name", DIGESTS)
def test_an_option_that_leaves_base_changes_no_digest(name):
    config = get(name)
    if config.data.normalize == "auto":  # a run records what it found for its images, here 8 bits
        config.data.normalize = "range"
    assert digest(config) == DIGESTS[name]


def test_a_later_option_changes_the_digest_only_where_it_is_set():
    config = get("folder")
    before = digest(config)
    config.data.object_border = 2
    assert digest(config) != before
    del config.data["object_border"]
    assert digest(config) == before


def test_a_later_field_changes_the_digest_only_where_it_is_set():
    forced = base.get_config()
    forced.data.foreground = 0.5
    older = base.get_config().to_dict()
    del older["data"]["foreground"]
    assert digest(older) == digest(base.get_config())
    assert digest(forced) != digest(older)
    assert differences(older, base.get_config()) == []
    assert differences(older, forced) == ["data.foreground: 0.0 in the run, 0.5 in the config"]


@pytest.mark.parametrize("name", DIGESTS)
def test_an_old_run_is_read_and_resumes(name, tmp_path):
    config = get(name)
    config = resolve(config, [str(k) for k in range(max(2, config.model.classes))])
    train_list = config.data.get("train_list", "train")
    write_old_run(tmp_path, config, train_list)
    saved = saved_config(read_config(tmp_path))
    check(saved)
    assert flatten(saved) == flatten(config)
    assert ("data.train_list" in flatten(saved)) == (config.data.name in ("voc", "folder"))
    stored = json.loads((tmp_path / "config.json").read_text())
    assert digest(saved) == digest(stored["config"]) == stored["digest"]
    check_ours(tmp_path, config)


def test_a_list_of_voc_that_an_old_run_of_a_folder_recorded_is_dropped(tmp_path):
    config = get("folder")
    fields = config.to_dict()
    for part in ("validation", "test"):
        del fields["data"][f"{part}_list"]
    write_old_run(tmp_path, config)
    fields["data"]["train_list"] = "train"
    (tmp_path / "config.json").write_text(json.dumps({"digest": "", "config": fields}))
    assert flatten(saved_config(read_config(tmp_path))) == flatten(config)
    check_ours(tmp_path, config)
    write_old_run(tmp_path / "new", config, "train")
    assert read_config(tmp_path / "new")["data.train_list"] == "train"


def test_an_option_that_an_old_run_did_not_use_is_dropped(tmp_path):
    config = get("isbi")
    write_old_run(tmp_path, config, "trainaug")
    assert flatten(saved_config(read_config(tmp_path))) == flatten(config)
    check_ours(tmp_path, config)


def test_an_option_that_a_run_uses_tells_experiments_apart(tmp_path):
    write_old_run(tmp_path, get("voc:trainaug"), "trainaug")
    with pytest.raises(UserError, match=r"data\.train_list: trainaug .*, train "):
        check_ours(tmp_path, get("voc"))


@pytest.mark.parametrize("value", ["trainval", 3, ("train",)])
def test_an_option_has_choices(value):
    config = voc.get_config()
    with config.ignore_type():
        config.data.train_list = value
    with pytest.raises(UserError, match=r"^data\.train_list=.*choose one of train, trainaug"):
        check(config)


def test_an_option_of_another_data_set_is_refused():
    config = demo.get_config()
    config.data.train_list = "train"
    with pytest.raises(
        UserError, match=r"^data\.train_list: an option of .*data\.name=voc.*, which .*; remove it"
    ):
        check(config)
    config = voc.get_config()
    config.data.train_lst = "train"
    with pytest.raises(UserError, match=r"^data\.train_lst: no such field.*data\.train_list"):
        check(config)
    config = demo.get_config()
    config.data.objct_border = 2  # near to an option of a data set that the config does not select
    with pytest.raises(UserError, match=r"did you mean data\.object_border\?$"):
        check(config)


def test_a_missing_option_gets_its_default(letters):
    config = base.get_config()
    config.update_from_flattened_dict(letters)
    config.lock()
    check(config)
    assert data.open_dataset(config.data).classes == ("off", "latin")
    resolved = resolve(config, ["off", "latin"])
    own = {"data.alphabet": "latin", "data.height": 1.5, "model.heads": 2}
    assert flatten(resolved) == flatten(config) | own | {"model.dtype": resolved.model.dtype}
    assert "alphabet" not in config.data


@pytest.mark.parametrize(
    ("option", "good", "bad"),
    [("data.alphabet", "greek", "runes"), ("data.height", 2.0, 0.5), ("model.heads", 8, 0)],
)
def test_options_of_data_sets_and_networks_are_checked(letters, option, good, bad):
    fields = flatten(base.get_config()) | letters
    section, _, key = option.partition(".")
    for value in (good, bad):
        config = saved_config(fields | {option: value})
        assert config[section][key] == value
        if value == good:
            check(config)
        else:
            with pytest.raises(UserError, match=rf"^{option}="):
                check(config)
    del fields[f"{section}.name"]
    with pytest.raises(UserError, match=rf"{section}\.name=(letters|vit), which"):
        config = base.get_config()
        config[section][key] = good
        check(config)


def test_a_run_older_than_an_option_has_its_default(letters):
    assert complete(letters) == letters | {
        "data.alphabet": "latin", "data.height": 1.5, "model.heads": 2,
    }  # fmt: skip
    assert complete(letters | {"model.heads": 3, "data.train_list": "train"})["model.heads"] == 3
    assert "data.train_list" not in complete(letters | {"data.train_list": "train"})
    assert complete({"no.such": 1, "data.name": ["x"]}) == {"no.such": 1, "data.name": ["x"]}


def test_options_are_named_by_the_section_of_their_selector():
    for selector, registry in options.SELECTORS.items():
        section = selector.partition(".")[0]
        for name in registry:
            for option in selected_options({selector: name}):
                assert option.startswith(f"{section}.") and option not in base.FIELDS


def test_an_option_of_a_loss_term_goes_with_the_term(letters):
    assert "loss.slope" in selected_options({"loss.name": "bce+ramp"})
    assert "loss.slope" not in selected_options({"loss.name": "bce"})
    config = base.get_config()
    config.loss.slope = 0.25
    with pytest.raises(UserError, match=r"^loss\.slope: an option of loss\.name=ramp, which this"):
        check(config)
